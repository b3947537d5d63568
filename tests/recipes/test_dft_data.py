import gzip
import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from evolpo import InputError
from evolpo.recipes.dft_data import Example, dft_examples, read_examples
from evolpo.rollout.prompts import Problem, SourceConfig, load_problems

PROBLEM = Problem(
    "p",
    "State the final answer to the following arithmetic problem: 12 + 45 - 33 =",
    "24",
    metadata={"family": "chain_sum"},
)


def chain_sums(size: int = 200, **params) -> list[Problem]:
    defaults = {"min_terms": 2, "max_terms": 4, "min_digits": 2, "max_digits": 2}
    return load_problems([SourceConfig(family="chain_sum", params={**defaults, **params}, size=size)])


def only(problem: Problem, **shares) -> Example:
    return dft_examples([problem], seed=0, **shares)[0]


def test_the_modes_word_for_word():
    prompt = PROBLEM.text + "\nPut the final answer in \\boxed{}."
    assert only(PROBLEM, direct_share=1.0) == Example(
        "detailed think off", prompt, "The answer is \\boxed{24}.", "direct"
    )
    assert only(PROBLEM, direct_share=0.0) == Example(
        "detailed think off", prompt, "12 + 45 = 57. 57 - 33 = 24. The answer is \\boxed{24}.", "sentences"
    )
    assert only(PROBLEM, deep_share=1.0) == Example(
        "detailed think on",
        prompt,
        "<think> 12 + 45 = 57. 57 - 33 = 24. 24 + 33 = 57. 57 - 45 = 12. </think> "
        "<answer> The answer is \\boxed{24}. </answer>",
        "deep",
    )
    assert only(PROBLEM, direct_share=0.0, checked_share=1.0) == Example(
        "detailed think off",
        prompt,
        "12 + 45 = 57. 57 - 33 = 24. 24 + 33 = 57. 57 - 45 = 12. The answer is \\boxed{24}.",
        "sentences",
    )
    assert only(PROBLEM, instruction="").prompt == PROBLEM.text


@pytest.mark.parametrize(
    ("expression", "answer", "steps"),
    [
        ("-12 + 45 - -33", "66", "-12 + 45 = 33. 33 + 33 = 66. "),
        ("12 - 45 + -3", "-36", "12 - 45 = -33. -33 - 3 = -36. "),
        ("7", "7", ""),
    ],
)
def test_negative_and_single_terms(expression, answer, steps):
    problem = Problem("p", f"Compute: {expression} =", answer)
    assert only(problem, direct_share=0.0).response == f"{steps}The answer is \\boxed{{{answer}}}."


@pytest.mark.parametrize("params", [{}, {"max_terms": 6, "min_digits": 1, "max_digits": 4}, {"allow_negation": True}])
def test_every_step_is_true_and_ends_in_the_answer(params):
    problems = chain_sums(**params)
    for problem, example in zip(problems, dft_examples(problems, seed=0, direct_share=0.0), strict=True):
        steps = re.findall(r"(-?\d+) ([+-]) (\d+) = (-?\d+)\.", example.response)
        assert len(steps) == problem.metadata["entry"]["metadata"]["num_terms"] - 1
        for left, operator, right, result in steps:
            assert int(left) + (int(right) if operator == "+" else -int(right)) == int(result)
        assert all(before[3] == after[0] for before, after in pairwise(steps))
        assert example.response.endswith(f"{steps[-1][3]}. The answer is \\boxed{{{problem.answer}}}.")
        assert "<think>" not in example.response


def test_modes_keep_their_shares_and_follow_the_seed():
    problems = chain_sums()[:100]
    examples = dft_examples(problems, seed=1, deep_share=0.2)
    assert Counter(e.mode for e in examples) == {"deep": 20, "direct": 52, "sentences": 28}
    assert [e.prompt.partition("\n")[0] for e in examples] == [p.text for p in problems]
    assert examples == dft_examples(problems, seed=1, deep_share=0.2)
    assert examples != dft_examples(problems, seed=2, deep_share=0.2)
    assert Counter(e.mode for e in dft_examples(problems, seed=1)) == {"direct": 65, "sentences": 35}
    with pytest.raises(ValueError, match=r"direct_share': 1\.5"):
        dft_examples(problems, seed=1, direct_share=1.5)


def test_a_share_of_the_steps_is_checked():
    problems = chain_sums(600)
    plain, some, again = (dft_examples(problems, 0, 0.0, checked_share=share) for share in (0.0, 0.3, 0.3))
    assert some == again
    steps = sum(example.response.count("=") for example in plain)
    checks = sum(example.response.count("=") for example in some) - steps
    assert checks / steps == pytest.approx(0.3, abs=0.05)
    pairs = [(one.response.count("="), bare.response.count("=")) for one, bare in zip(some, plain, strict=True)]
    long = np.array([all_of_them / steps - 1 for all_of_them, steps in pairs if steps == 3])
    # Each has a share of its own: with 0.3 a step, whatever the response, 0.34 and 0.03 would have none and all.
    assert np.mean(long == 0) > 0.4
    assert np.mean(long == 1) > 0.06
    for example in some:
        for left, operator, right, result in re.findall(r"(-?\d+) ([+-]) (\d+) = (-?\d+)\.", example.response):
            assert int(left) + (int(right) if operator == "+" else -int(right)) == int(result)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Problem("p", "Compute: 1 + 1 =", "3"), r"^data\.train: problem p: 1 \+ 1 is 2, not 3; mend"),
        (Problem("p", "Compute: 1 + 1 ="), r"^data\.train: problem p: 1 \+ 1 is 2, not None"),
        (Problem("p", "Compute: 2 * 3 =", "6"), r"^data\.train: problem p .* is no chain_sum"),
        (Problem("p", "Who wrote Faust?", "Goethe"), r"^data\.train: problem p .* is no chain_sum"),
    ],
)
def test_what_is_no_right_chain_sum_is_refused(problem, message):
    with pytest.raises(InputError, match=message):
        dft_examples([problem], seed=0)


def test_read_examples(tmp_path):
    path = tmp_path / "sft.jsonl"
    rows = [
        {"prompt": "Hi", "response": "Hello."},
        {"prompt": "Why?", "response": "So.", "system": "detailed think on"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_examples(str(path)) == [
        Example("detailed think off", "Hi", "Hello.", "given"),
        Example("detailed think on", "Why?", "So.", "given"),
    ]


USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, REPLY]}, Example("", "Hi", "Hello.", turns=(USER,))),
        ({"messages": [SYSTEM, USER, REPLY]}, Example("Be kind.", "Hi", "Hello.", turns=(SYSTEM, USER))),
        (
            {"messages": [USER, REPLY, USER, REPLY]},
            Example("", "user: Hi\n\nassistant: Hello.\n\nuser: Hi", "Hello.", turns=(USER, REPLY, USER)),
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
            Example("", "Hi", "Hello.", turns=(USER,)),
        ),
        (
            {"prompt": [USER], "response": "Hello.", "system": "Be kind."},
            Example("Be kind.", "Hi", "Hello.", turns=(SYSTEM, USER)),
        ),
    ],
)
@pytest.mark.parametrize("form", ["jsonl.gz", "json", "parquet"])
def test_examples_of_messages_in_any_file(tmp_path, row, expected, form):
    path = tmp_path / f"sft.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        text = json.dumps([row]) if form == "json" else json.dumps(row) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if form == "jsonl.gz" else text.encode())
    assert read_examples(str(path)) == [expected]


def test_a_conversation_without_a_reply_is_refused(tmp_path):
    path = tmp_path / "sft.jsonl"
    path.write_text(json.dumps({"messages": [USER]}))
    with pytest.raises(InputError, match=r"line 1: column 'messages' does not end with one turn of the assistant"):
        read_examples(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a", "response": "b"}\n{"prompt"', r"^path: .*sft\.jsonl line 2: not valid JSON"),
        (
            '{"prompt": "a", "completion": "b"}',
            r"^path: .*line 1 has no column 'response'; it has: prompt, completion",
        ),
        ('{"prompt": "a", "response": 5}', r"^path: .*line 1: column 'response' holds 5"),
        ('{"prompt": "a", "response": "b", "system": null}', r"^path: .*line 1: column 'system' holds None"),
        ("\n", r"^path: .* holds no example"),
    ],
)
def test_malformed_examples_get_one_line_with_the_place(tmp_path, text, message):
    path = tmp_path / "sft.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_examples(str(path))
