"""Rows in the shapes that public data sets have become problems; what is no problem is one clear line."""

import json
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest

from evolpo import InputError
from evolpo.rollout.data.chat import conversation
from evolpo.rollout.prompts import DataConfig
from evolpo.rollout.sources import SourceConfig, load_problems

SYSTEM = {"role": "system", "content": "Answer in French."}
USER = {"role": "user", "content": "What is 2 + 3?"}
ASSISTANT = {"role": "assistant", "content": "It is 5."}
NEXT = {"role": "user", "content": "And 3 + 4?"}


def load(folder, *rows, parquet=False, notes=None, **options):
    if parquet:
        path = folder / "rows.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(kind="file", path=str(path), **options)
    return load_problems([source], note=(notes if notes is not None else []).append)


SHAPES = {
    "verl": (
        {
            "data_source": "sums",
            "prompt": [USER],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "5"},
            "extra_info": {"split": "train", "index": 0},
        },
        ("verl", "What is 2 + 3?", "5", "sums"),
    ),
    "verl, extra_info as text": (
        {
            "data_source": "sums",
            "prompt": json.dumps([USER]),
            "reward_model": json.dumps({"ground_truth": 5}),
            "extra_info": "{}",
        },
        ("verl", "What is 2 + 3?", 5, "sums"),
    ),
    "verl, processed": (
        {"prompt": "What is 2 + 3?", "solution": "5", "data_source": "sums", "reward_model": {"ground_truth": "5"}},
        ("verl", "What is 2 + 3?", "5", "sums"),
    ),
    "ifeval": (
        {
            "key": 1,
            "prompt": "What is 2 + 3?",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{"N": None}],
        },
        ("ifeval", "What is 2 + 3?", None, ""),
    ),
    "ifeval, as training set": (
        {"messages": [USER], "ground_truth": '{"func_name": "validate_no_commas", "N": null}', "dataset": "ifeval"},
        ("ifeval", "What is 2 + 3?", '{"func_name": "validate_no_commas", "N": null}', ""),
    ),
    "trl": ({"prompt": "What is 2 + 3?", "solution": "$5$"}, ("trl", "What is 2 + 3?", "$5$", "")),
    "trl, conversational": ({"prompt": [USER], "solution": "$5$"}, ("trl", "What is 2 + 3?", "$5$", "")),
    "trl, prompt alone": ({"prompt": [USER]}, ("columns", "What is 2 + 3?", None, "")),
    "openrlhf": ({"input": "What is 2 + 3?", "label": "5"}, ("openrlhf", "What is 2 + 3?", "5", "")),
    "openrlhf, messages": (
        {"context_messages": [USER], "label": "5", "datasource": "x"},
        ("openrlhf", "What is 2 + 3?", "5", ""),
    ),
    "slime": ({"prompt": [USER], "label": "5"}, ("columns", "What is 2 + 3?", "5", "")),
    "gsm8k": (
        {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
        ("gsm8k", "What is 2 + 3?", "5", ""),
    ),
    "MATH": (
        {"problem": "What is 2 + 3?", "level": "Level 1", "type": "Algebra", "solution": r"So \boxed{5}."},
        ("columns", "What is 2 + 3?", r"So \boxed{5}.", ""),
    ),
    "OpenR1": (
        {
            "problem": "What is 2 + 3?",
            "solution": "long",
            "answer": "5",
            "messages": [USER, ASSISTANT],
            "generations": ["a", "b"],
        },
        ("columns", "What is 2 + 3?", "5", ""),
    ),
    "Big-Math": (
        {"problem": "What is 2 + 3?", "answer": "5", "source": "x", "domain": ["a"], "llama8b_solve_rate": 0.5},
        ("columns", "What is 2 + 3?", "5", ""),
    ),
    "AIME": ({"ID": "x-1", "Problem": "What is 2 + 3?", "Answer": 5}, ("columns", "What is 2 + 3?", 5, "")),
    "OlympiadBench": (
        {"question": "What is 2 + 3?", "final_answer": ["5"], "solution": ["long"]},
        ("columns", "What is 2 + 3?", ["5"], ""),
    ),
    "alpaca": (
        {"instruction": "Add the numbers.", "input": "2, 3", "output": "5"},
        ("alpaca", "Add the numbers.\n2, 3", "5", ""),
    ),
    "alpaca without input": (
        {"instruction": "Add 2 and 3.", "input": "", "output": "5"},
        ("alpaca", "Add 2 and 3.", "5", ""),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "What is 2 + 3?"}, {"from": "gpt", "value": "5"}]},
        ("sharegpt", "What is 2 + 3?", None, ""),
    ),
    "messages": ({"messages": [USER, ASSISTANT]}, ("columns", "What is 2 + 3?", None, "")),
    "INTELLECT": (
        {"prompt": "What is 2 + 3?", "verification_info": '{"ground_truth": "5"}', "task_type": "math"},
        ("columns", "What is 2 + 3?", "5", ""),
    ),
    "MBPP": (
        {"task_id": 1, "text": "Write add.", "code": "...", "test_list": ["assert add(1, 2) == 3"]},
        ("code", "Write add.\nYour code should pass these tests:\n\nassert add(1, 2) == 3", None, ""),
    ),
    "HumanEval": (
        {
            "task_id": "x/1",
            "prompt": "def add(a, b):\n",
            "test": "def check(c):\n    assert c(1, 2) == 3",
            "entry_point": "add",
            "canonical_solution": "    return a + b",
        },
        ("code", "def add(a, b):\n", None, ""),
    ),
    "APPS": (
        {"question": "Print the sum.", "input_output": '{"inputs": ["1 2"], "outputs": ["3"]}', "difficulty": "intro"},
        ("code", "Print the sum.", None, ""),
    ),
    "LiveCodeBench": (
        {"question_title": "Sum", "question_content": "Print the sum.", "public_test_cases": '[{"input": "1"}]'},
        ("code", "Print the sum.", None, ""),
    ),
    "CodeContests": (
        {"description": "Print the sum.", "public_tests": {"input": ["1 2"], "output": ["3"]}, "name": "x"},
        ("code", "Print the sum.", None, ""),
    ),
    "SQuAD": (
        {"context": "Two and 3.", "question": "Which?", "answers": {"text": ["2", "3"], "answer_start": [0, 8]}},
        ("columns", "Two and 3.\n\nWhich?", ["2", "3"], ""),
    ),
    "BoolQ": (
        {"question": "is it 5", "passage": "2 + 3 is 5.", "answer": True},
        ("columns", "2 + 3 is 5.\n\nis it 5", True, ""),
    ),
    "DROP": (
        {"passage": "2 and 3.", "question": "Sum?", "answers_spans": {"spans": ["5"], "types": ["number"]}},
        ("columns", "2 and 3.\n\nSum?", ["5"], ""),
    ),
    "RACE": (
        {"article": "4 5 6 7", "question": "Sum?", "options": ["4", "5", "6", "7"], "answer": "B"},
        ("choices", "4 5 6 7\n\nSum?\nA. 4\nB. 5\nC. 6\nD. 7", "B", ""),
    ),
    "SVAMP": (
        {"Body": "Tom has 2 and gets 3.", "Question": "How many?", "Equation": "( 2 + 3 )", "Answer": "5.0"},
        ("columns", "Tom has 2 and gets 3.\n\nHow many?", "5.0", ""),
    ),
    "COPA": (
        {"premise": "He fell.", "choice1": "It was wet.", "choice2": "He ran.", "question": "cause", "label": 0},
        ("choices", "He fell.\n\ncause\nA. It was wet.\nB. He ran.", "A", ""),
    ),
    "PIQA": (
        {"goal": "Cut paper.", "sol1": "Use scissors.", "sol2": "Use soup.", "label": 0},
        ("choices", "Cut paper.\nA. Use scissors.\nB. Use soup.", "A", ""),
    ),
    "TriviaQA": (
        {"question": "Who?", "answer": {"value": "Bob", "aliases": ["Bob", "Robert"], "normalized_value": "bob"}},
        ("columns", "Who?", ["Bob", "Robert"], ""),
    ),
    "FlashRAG": (
        {"id": "1", "question": "Who?", "golden_answers": ["Bob", "Robert"]},
        ("columns", "Who?", ["Bob", "Robert"], ""),
    ),
    "passages in a list": (
        {"context": ["2 and 3.", "Add."], "question": "Sum?", "answer": 5},
        ("columns", "2 and 3.\n\nAdd.\n\nSum?", 5, ""),
    ),
    "messages as Python prints them": (
        {"prompt": str([SYSTEM, {**USER, "content": "It's 'a' \"b\" {c} {d}.\n"}]), "answer": "5"},
        ("columns", "It's 'a' \"b\" {c} {d}.\n", "5", ""),
    ),
    "verl, as pandas writes it to CSV": (
        {"data_source": "sums", "prompt": str([USER]), "reward_model": "{'style': 'rule', 'ground_truth': '5'}"},
        ("verl", "What is 2 + 3?", "5", "sums"),
    ),
    "options as Python prints them": (
        {"question": "Sum?", "choices": "['4', \"it's 5\"]", "answer": "1"},
        ("choices", "Sum?\nA. 4\nB. it's 5", "B", ""),
    ),
    "texts that numpy printed": (
        {"question": "Sum?", "choices": "['4' '5']", "answer": "5"},
        ("columns", "Sum?", "5", ""),
    ),
    "an expression of Python": (
        {"prompt": "['a' 'b']", "answer": "{'a' 'b'}"},
        ("columns", "['a' 'b']", "{'a' 'b'}", ""),
    ),
    "a passage that the question has": (
        {"context": "2 and 3.", "question": "2 and 3. Sum?", "answer": 5},
        ("columns", "2 and 3. Sum?", 5, ""),
    ),
    "plain": ({"prompt": "What is 2 + 3?", "answer": "5", "test": "dev"}, ("columns", "What is 2 + 3?", "5", "")),
}


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_told_by_their_columns(tmp_path, name, parquet):
    row, (preset, text, answer, task) = SHAPES[name]
    notes = []
    [problem] = load(tmp_path, row, parquet=parquet, notes=notes)
    assert (problem.text, problem.answer, problem.task) == (text, answer, task)
    assert f"read as {preset} (prompt=" in notes[0]


@pytest.mark.parametrize("name", SHAPES)
def test_a_preset_that_is_named_reads_the_same(tmp_path, name):
    row, (preset, text, answer, task) = SHAPES[name]
    [problem] = load(tmp_path, row, preset=preset)
    assert (problem.text, problem.answer, problem.task) == (text, answer, task)


def test_passages_are_said_and_can_be_left_out_or_named(tmp_path):
    row = {"context": "2 and 3.", "hint": "Add.", "question": "Sum?", "answer": 5}
    notes = []
    [problem] = load(tmp_path, row, notes=notes)
    assert problem.metadata["context"] == "2 and 3."  # rewards may ask for it
    assert "passage=context" in notes[0]
    assert "1 questions stand below what column 'context' of their row holds" in notes[1]
    assert load(tmp_path, row, passage_column="")[0].text == "Sum?"
    assert load(tmp_path, row, passage_column="hint")[0].text == "Add.\n\nSum?"
    with pytest.raises(InputError, match=r"passage_column: .* column 'answer' holds a int; it must hold text"):
        load(tmp_path, row, passage_column="answer")


def test_a_passage_that_is_no_text_is_said(tmp_path):
    row = {"question": "Who?", "answer": "Bob", "context": {"title": ["A"], "sentences": [["Bob is."]]}}
    notes = []
    assert load(tmp_path, row, notes=notes)[0].text == "Who?"
    assert any("1 rows have a dict in column 'context', which the model does not see, first" in one for one in notes)


def test_fields_of_a_column_metadata_stand_among_the_metadata(tmp_path):
    row = {"prompt": "p", "answer": "1", "kind": "a", "metadata": {"kind": "b", "level": 3}}
    for given in (row, row | {"metadata": json.dumps(row["metadata"])}):
        [problem] = load(tmp_path, given)
        assert problem.metadata == {"kind": "a", "level": 3, "metadata": given["metadata"]}
    assert load(tmp_path, {"prompt": "p", "metadata": "{}"})[0].metadata == {"metadata": "{}"}


def test_headings_are_no_answers(tmp_path):
    row = {"question": "p", "answer": "#### Step 1\nWe add the numbers that are given in the text."}
    assert load(tmp_path, row)[0].answer == row["answer"]


def test_what_is_no_part_of_the_problem_is_metadata(tmp_path):
    row = SHAPES["verl"][0]
    [problem] = load(tmp_path, row)
    assert problem.metadata == {name: value for name, value in row.items() if name != "prompt"}
    [problem] = load(
        tmp_path, {"q": "2 + 3", "a": 5, "function": "f", "sample": 1}, prompt_column="q", answer_column="a"
    )
    assert problem.metadata == {"function": "f", "sample": 1}


def test_a_column_that_would_override_an_option_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"line 1: column 'length_alpha' would go before the strength"):
        load(tmp_path, {"prompt": "p", "length_alpha": 5})


def test_a_null_in_the_first_row_hides_no_column(tmp_path):
    rows = [{"prompt": f"p{i}", "answer": None if i < 3 else i} for i in range(5)]
    assert [one.answer for one in load(tmp_path, *rows)] == [None, None, None, 3, 4]
    sparse = [{"prompt": "a"}, {"prompt": "b", "solution": "2"}]
    assert [one.answer for one in load(tmp_path, *sparse)] == [None, "2"]


# -- messages


def test_messages_stay_as_they_are(tmp_path):
    talk = [SYSTEM, USER, ASSISTANT, NEXT]
    notes = []
    [problem] = load(tmp_path, {"prompt": talk, "answer": 7}, notes=notes)
    assert problem.messages == tuple(talk)
    assert problem.text == "user: What is 2 + 3?\n\nassistant: It is 5.\n\nuser: And 3 + 4?"
    assert "1 prompts are messages, which go through the chat template as they are" in notes[1]


def test_the_reply_at_the_end_is_left_out_and_counted(tmp_path):
    notes = []
    problems = load(tmp_path, {"messages": [USER, ASSISTANT]}, {"messages": [USER, ASSISTANT, NEXT]}, notes=notes)
    assert [one.messages for one in problems] == [(USER,), (USER, ASSISTANT, NEXT)]
    assert any("1 conversations end with a turn of the assistant, which was left out" in line for line in notes)


def test_nulls_that_a_table_fills_in_are_no_part_of_a_message(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    result = {"role": "tool", "content": "5", "name": "add"}
    [problem] = load(tmp_path, {"prompt": [USER, call, result], "answer": "5"}, parquet=True)
    assert problem.messages == (USER, {**call, "content": ""}, result)


ARGUMENTS = {"a": 2, "unit": "€"}


@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS), {**ARGUMENTS, "b": None}])
@pytest.mark.parametrize("shape", [lambda call: [call], lambda call: [{"type": "function", "function": call}]])
@pytest.mark.parametrize("column", [lambda calls: calls, json.dumps])
def test_calls_have_one_form_whoever_wrote_them(tmp_path, arguments, shape, column):
    def calling(given):
        return {"role": "assistant", "content": "", "tool_calls": given}

    call = column(shape({"name": "add", "arguments": arguments}))
    result = {"role": "tool", "content": "5"}
    [problem] = load(tmp_path, {"prompt": [USER, calling(call), result], "answer": "5"})
    assert problem.messages == (USER, calling(shape({"name": "add", "arguments": ARGUMENTS})), result)


@pytest.mark.parametrize(
    "prompt",
    [
        {"role": "user", "content": "What is 2 + 3?"},
        json.dumps([USER]),
        [{"from": "human", "value": "What is 2 + 3?"}],
        {"role": ["user"], "content": ["What is 2 + 3?"]},
        [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 3?"}]}],
    ],
)
def test_forms_of_messages(tmp_path, prompt):
    [problem] = load(tmp_path, {"prompt": prompt, "answer": "5"})
    assert [dict(one) for one in problem.messages] == [USER]


def test_system_messages(tmp_path):
    [text] = load(tmp_path, {"system": "Be brief.", "prompt": "2 + 3", "answer": 5})
    assert (text.system, text.messages) == ("Be brief.", ())
    [talk] = load(tmp_path, {"sys": "Be brief.", "prompt": [USER], "answer": 5}, system_column="sys")
    assert talk.messages == ({"role": "system", "content": "Be brief."}, USER)
    [same] = load(tmp_path, {"system": SYSTEM["content"], "prompt": [SYSTEM, USER], "answer": 5})
    assert same.messages == (SYSTEM, USER)
    [none] = load(tmp_path, {"system": "Be brief.", "prompt": "2 + 3", "answer": 5}, system_column="")
    assert (none.system, none.metadata) == (None, {"system": "Be brief."})
    with pytest.raises(InputError, match=r"system_column: .*line 1: column 'system' and the messages have different"):
        load(tmp_path, {"system": "Be brief.", "prompt": [SYSTEM, USER], "answer": 5})


def test_tools(tmp_path):
    tool = {"type": "function", "function": {"name": "add", "description": None}}
    clean = {"type": "function", "function": {"name": "add"}}
    for given in ([tool], json.dumps([tool])):
        [problem] = load(tmp_path, {"prompt": [USER], "tools": given})
        assert problem.tools == (clean,)
    [problem] = load(tmp_path, {"prompt": "Which tools?", "answer": "saw", "tools": ["saw", "axe"]})
    assert (problem.tools, problem.metadata) == ((), {"tools": ["saw", "axe"]})
    with pytest.raises(InputError, match=r"tools_column: .*line 1: \[\"saw\"\] is no list of tools"):
        load(tmp_path, {"prompt": "p", "tools": ["saw"]}, tools_column="tools")


# -- answers


@pytest.mark.parametrize("answer", [5, 5.5, True, False, 0, "5", ["Paris", "City of Paris"], [1, 2], {"x": 1}, None])
def test_answers_stay_what_they_are(tmp_path, answer):
    for parquet in (False, True):
        [problem] = load(tmp_path, {"prompt": "p", "answer": answer}, parquet=parquet)
        assert problem.answer == answer
        assert type(problem.answer) is type(answer)


@pytest.mark.parametrize(
    ("answer", "pattern", "expected"),
    [
        ("a\n#### 1\nno\n#### -1,234 ", "####", "-1,234"),
        (r"first \boxed{1}, so \boxed{\frac{1}{2}}.", "boxed", r"\frac{1}{2}"),
        (r"\fbox{x} and \boxed {\{1, 2\}}", "boxed", r"\{1, 2\}"),
        (r"\boxed{3} and \boxed{never", "boxed", "3"),
        ("Answer: B. Answer: C.", r"Answer: (\w)", "C"),
        ("It is 17.", r"\d+", "17"),
        (["#### 1", "#### 2"], "####", ["1", "2"]),
        (7, "####", 7),
        (None, "####", None),
        ("#### 5", "", "#### 5"),
    ],
)
def test_answer_patterns(tmp_path, answer, pattern, expected):
    [problem] = load(tmp_path, {"prompt": "p", "answer": answer}, answer_pattern=pattern, answer_column="answer")
    assert problem.answer == expected


def test_an_answer_without_the_pattern_is_named(tmp_path):
    rows = [{"question": "p", "answer": "so\n#### 5"}, {"question": "q", "answer": "no idea"}]
    with pytest.raises(InputError, match=r"answer_pattern: .*line 2: '####' does not occur in the answer, which ends"):
        load(tmp_path, *rows)
    assert [one.answer for one in load(tmp_path, *rows, answer_pattern="")] == ["so\n#### 5", "no idea"]


HASHED = [{"prompt": str(i), "answer": f"{i} + 0 = {i}\n#### {i}"} for i in range(20)]


@pytest.mark.parametrize(
    "names", [("prompt", "answer"), ("problem", "final_answer"), ("prompt", "solution"), ("text", "target")]
)
def test_what_follows_the_hashes_is_the_answer_whatever_the_columns_are_called(tmp_path, names):
    notes = []
    rows = [dict(zip(names, row.values(), strict=True)) for row in HASHED]
    problems = load(tmp_path, *rows, notes=notes)
    assert [one.answer for one in problems] == [str(i) for i in range(20)]
    assert "answer_pattern=####" in notes[0]
    whole = load(tmp_path, *rows, answer_pattern="")
    assert whole[3].answer == "3 + 0 = 3\n#### 3"


def test_lists_and_nested_answers_with_hashes(tmp_path):
    [one] = load(tmp_path, {"prompt": "p", "reward_model": {"ground_truth": ["so\n#### 1", "#### 2"]}})
    assert one.answer == ["1", "2"]


def test_answers_without_the_hashes_among_nearly_all_with_them_are_counted(tmp_path):
    notes = []
    problems = load(tmp_path, *HASHED, {"prompt": "x", "answer": "7"}, notes=notes)
    assert (problems[-1].answer, problems[0].answer) == ("7", "0")
    assert notes[1].endswith(f"1 answers have no #### and are taken whole, first {tmp_path}/rows.jsonl line 21")


def test_answers_of_which_some_have_hashes_are_whole_and_counted(tmp_path):
    notes = []
    rows = [HASHED[0], HASHED[1], {"prompt": "x", "answer": "7"}, {"prompt": "y", "answer": "8"}]
    assert load(tmp_path, *rows, notes=notes)[0].answer == "0 + 0 = 0\n#### 0"
    assert "2 answers end with #### and are taken whole; set answer_pattern" in notes[1]


@pytest.mark.parametrize(("answer", "kept"), [([None, "3"], ["3"]), (["a", None, 2, None], ["a", 2]), ([None], None)])
def test_nulls_among_accepted_answers_are_left_out_and_counted(tmp_path, answer, kept):
    notes = []
    [problem] = load(tmp_path, {"prompt": "p", "answer": answer}, notes=notes)
    assert problem.answer == kept
    assert "1 answers are lists with nulls, which were left out, first" in notes[1]


# -- programs

MBPP = {"text": "Write add.", "code": "...", "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]}
SHOWN = "Your code should pass these tests:\n\nassert add(1, 2) == 3\nassert add(0, 0) == 0"


def test_what_tests_call_stands_in_the_prompt(tmp_path):
    notes = []
    [problem] = load(tmp_path, MBPP, notes=notes)
    assert (problem.text, problem.code) == (f"Write add.\n{SHOWN}", True)
    assert "1 prompts end with the tests or the starter code of their row" in notes[1]
    [again] = load(tmp_path, {**MBPP, "text": problem.text})
    assert again.text == problem.text
    [plain] = load(tmp_path, MBPP, preset="columns")
    assert (plain.text, plain.code) == ("Write add.", True)
    starter = {"question": "Sum.", "starter_code": "class S:\n    def f(self):\n", "input_output": '{"inputs": [[1]]}'}
    [problem] = load(tmp_path, starter)
    assert problem.text == "Sum.\n\nUse this starter code:\n\n```python\nclass S:\n    def f(self):\n```"


def test_programs_are_asked_for_as_programs(tmp_path):
    problems = load(tmp_path, MBPP, {"text": "What is 2 + 3?", "answer": "5"})
    asked = [conversation(one, DataConfig())[-1]["content"].rpartition("\n")[2] for one in problems]
    assert asked == ["Put the whole program into one fenced block.", r"Put the final answer in \boxed{}."]
    own = DataConfig(instruction="Mine.")
    assert [conversation(one, own)[-1]["content"].endswith("\nMine.") for one in problems] == [True, True]


# -- messages that say little


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"role": "user", "content": ""}], "a last message of the user that is empty"),
        ([USER, ASSISTANT, {"role": "user", "content": " \n"}], "a last message of the user that is empty"),
        ([{"role": "system", "content": "x"}], "no message of a user"),
        ([{"role": "critic", "content": "x"}], "no message of a user"),
    ],
)
def test_conversations_that_ask_nothing_are_refused(tmp_path, prompt, message):
    with pytest.raises(InputError, match=rf"prompt_column: .*line 1: column 'prompt' holds {message}"):
        load(tmp_path, {"prompt": prompt})


def test_odd_turns_are_counted_with_the_first_row(tmp_path):
    notes = []
    empty = [{"role": "user", "content": ""}, ASSISTANT, NEXT]
    critic = [USER, {"role": "Critic", "content": "no"}, NEXT]
    load(tmp_path, {"prompt": [USER]}, {"prompt": empty}, {"prompt": critic}, {"prompt": critic[:2]}, notes=notes)
    assert any("1 conversations have an empty message of the user, first" in one and "line 2" in one for one in notes)
    assert any("2 conversations have turns of 'Critic', a role that" in one and "line 3" in one for one in notes)


@pytest.mark.parametrize("role", ["User", "USER", "human", "Human", "prompter"])
def test_roles_in_other_letters_are_known(tmp_path, role):
    notes = []
    [problem] = load(tmp_path, {"prompt": [{"role": role, "content": "2 + 3?"}]}, notes=notes)
    assert problem.messages == ({"role": "user", "content": "2 + 3?"},)
    assert not any("role that" in one for one in notes)


# -- names


def test_dotted_names_reach_nested_columns(tmp_path):
    row = {"task": {"text": "p", "meta": {"level": 3, "kind": "sums"}}, "gold.answer": 1, "gold": {"answer": 2}}
    names = {"prompt_column": "task.text", "difficulty_column": "task.meta.level", "task_column": "task.meta.kind"}
    for parquet in (False, True):
        [problem] = load(tmp_path, row, parquet=parquet, answer_column="gold.answer", **names)
        assert (problem.text, problem.answer, problem.difficulty, problem.task) == ("p", 1, "3", "sums")


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"foo": "p"}, {}, r"prompt_column: .*line 1 has none of the columns prompt, .*; it has: foo; name one$"),
        ({"prompt": "p"}, {"preset": "gsm8k"}, r"prompt_column: .*none of the columns question"),
        ({"prompt": "p", "a": {"b": 1}}, {"answer_column": "a.c"}, r"answer_column: .*'a.c'; it has: prompt, a, a.b;"),
        ({"prompt": "p"}, {"system_column": "sys"}, r"system_column: .*has no column 'sys'"),
        ({"prompt": "p"}, {"task_column": "kind"}, r"task_column: .*has no column 'kind'"),
        ({"prompt": 5}, {}, r"prompt_column: .*line 1: column 'prompt' holds a int"),
        ({"prompt": []}, {}, r"holds a list; it must hold the problem's text, or messages"),
        ({"prompt": [{"role": "user"}]}, {}, r"line 1: message 1 holds NoneType, no text"),
        ({"prompt": [ASSISTANT]}, {}, r"holds no message of a user"),
        (
            {"prompt": "[{'role': 'user', 'content': 'a'}\n {'role': 'user', 'content': 'b'}]"},
            {},
            r"line 1: begins with .*, as messages do, and is no JSON",
        ),
        ({"prompt": '[{"role": "user", "content": "a"'}, {}, r"as messages do, and is no JSON"),
        ({"prompt": [SYSTEM]}, {}, r"holds no message of a user"),
        ({"prompt": "p", "system": 5}, {"system_column": "system"}, r"'system' holds a int"),
    ],
)
def test_columns_that_are_not_as_they_should_be(tmp_path, row, options, message):
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, row, **options)
    assert str(caught.value).startswith("data.train[0].")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "verll"}, r"preset: 'verll' is unknown; use auto, verl, "),
        ({"answer_pattern": "("}, r"answer_pattern: '\(' is no regular expression"),
        ({"answer_pattern": "(a)(b)"}, r"answer_pattern: .* has 2 groups"),
        ({"task": "x", "task_column": "y"}, r"task: 'x' and task_column=y; give one of them"),
        ({"difficulty": "x", "difficulty_column": "y"}, r"difficulty: 'x' and difficulty_column=y; give one"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, {"prompt": "p"}, **options)


# -- what no text model can read


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "<image>2 + 3", "images": ["a.png"]}, "images"),
        ({"prompt": "p", "image": {"bytes": None, "path": "a.png"}}, "image"),
        ({"prompt": "p", "extra_info": {"images": ["a.png"]}}, "extra_info.images"),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]}, "prompt"),
        ({"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "prompt"),
        ({"prompt": "p", "videos": ["a.mp4"]}, "videos"),
        ({"prompt": "p", "clip": {"array": [0.1], "sampling_rate": 16000}}, "clip"),
        ({"prompt": "p", "audio": {"array": [0.1], "sampling_rate": 16000, "path": None}}, "audio"),
        ({"prompt": "p", "figure": {"bytes": None, "path": "a.png"}}, "figure"),
        ({"prompt": "p", "pages": [{"bytes": None, "path": "a.png"}]}, "pages"),
        ({"prompt": "p", "screen": "data:image/png;base64,iVBORw0K"}, "screen"),
        ({"prompt": "What is in data:image/png;base64,iVBORw0K ?"}, "prompt"),
        ({"prompt": "See ![a plot](data:image/png;base64,iVBORw0K)."}, "prompt"),
        ({"prompt": '<img src="data:image/svg+xml;charset=utf-8;base64,PHN2">'}, "prompt"),
        ({"prompt": "p", "hint": "See ![](<data:image/jpeg;base64,/9j/4A>)"}, "hint"),
        ({"prompt": [{"role": "user", "content": "Hear data:audio/wav;base64,UklGRg=="}]}, "prompt"),
        ({"prompt": "p", "system": "data:image/png;base64,iVBORw0K is you"}, "system"),
    ],
)
def test_pictures_are_refused_by_name(tmp_path, row, name):
    with pytest.raises(InputError, match=rf"^data\.train\[0\].*line 1: '.*{name}.*' holds pictures or sound"):
        load(tmp_path, {"prompt": "a", "answer": "1", **row}, {"prompt": "b", "answer": "1"})


def test_pictures_in_a_later_row_and_in_messages_as_text_are_found(tmp_path):
    later = {"prompt": "b", "images": ["a.png"]}
    with pytest.raises(InputError, match=r"'images' holds pictures"):
        load(tmp_path, *[{"prompt": str(i)} for i in range(150)], later)
    talk = json.dumps([{"role": "user", "content": [{"type": "image", "image": "a.png"}]}])
    with pytest.raises(InputError, match=r"'messages.content' holds pictures"):
        load(tmp_path, {"prompt": talk})


def test_rows_with_pictures_are_counted_and_the_first_is_named(tmp_path):
    rows = [{"prompt": str(i)} | ({"images": ["a.png"]} if i in (2, 5, 150) else {}) for i in range(200)]
    with pytest.raises(InputError, match=r"rows\.jsonl line 3: 'images' holds pictures or sound.* \(3 of 200 rows\)$"):
        load(tmp_path, *rows)


def test_a_page_that_is_given_with_the_problem_may_hold_pictures(tmp_path):
    page = '<img src="data:image/png;base64,iVBORw0K">'
    [problem] = load(tmp_path, {"prompt": "Write a page.", "page": page, "answer": page})
    assert problem.metadata["page"] == problem.answer == page


def test_pictures_that_a_data_set_decodes_are_refused(tmp_path, monkeypatch):
    import datasets
    from PIL import Image

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_dict({"prompt": ["p"], "figure": [Image.new("RGB", (2, 2))]})
    rows.save_to_disk(tmp_path / "set")
    with pytest.raises(InputError, match=r"'figure' holds pictures or sound"):
        load_problems([SourceConfig(kind="huggingface", path=str(tmp_path / "set"))])


def test_empty_columns_and_numbers_under_such_names_are_no_pictures(tmp_path):
    row = {"prompt": "Flood fill.", "images": [], "image": None, "tests": [{"function": "f", "args": [[[1, 0]]]}]}
    rows = [row, {"prompt": "b", "args": {"image": [[1, 1], [0, 1]]}, "images": []}]
    assert len(load(tmp_path, *rows)) == 2


@pytest.mark.parametrize("where", ["prompt", "answer", "more"])
def test_half_a_character_is_one_line(tmp_path, where):
    row = {"prompt": "p", "answer": "a", "more": "m"} | {where: "x\ud83d!"}
    with pytest.raises(InputError, match=rf"line 2: '{where}' holds \\ud83d, half of a character"):
        load(tmp_path, {"prompt": "smile \U0001f600"}, row)


# -- what is the same


def test_same_text_with_other_metadata_is_another_problem(tmp_path):
    rows = [
        {"prompt": "Sort the list.", "answer": "a", "tests": [{"stdin": "1", "stdout": "1"}]},
        {"prompt": "Sort the list.", "answer": "a", "tests": [{"stdin": "2", "stdout": "2"}]},
        {"prompt": "Sort  the list.", "answer": "a", "tests": [{"stdin": "2", "stdout": "2"}]},
        {"prompt": "Sort the list.", "answer": "b", "tests": [{"stdin": "2", "stdout": "2"}]},
    ]
    notes = []
    problems = load(tmp_path, *rows, notes=notes)
    assert len({one.id for one in problems}) == len(problems) == 3
    assert "3 problems, 1 duplicates dropped" in notes[0]
    assert [one.id for one in load(tmp_path, *rows[::-1])] == [one.id for one in problems[::-1]]


def test_conversations_are_told_apart_by_all_their_turns(tmp_path):
    talks = [[SYSTEM, USER], [USER], [USER, ASSISTANT, NEXT], [USER, {**ASSISTANT, "content": "6"}, NEXT]]
    assert len(load(tmp_path, *[{"prompt": talk, "answer": 1} for talk in [*talks, talks[0]]])) == 4


def test_levels_and_tasks_of_tables_with_nulls(tmp_path):
    rows = [{"prompt": str(i), "level": level, "kind": level} for i, level in enumerate([1, None, 3])]
    problems = load(tmp_path, *rows, parquet=True, difficulty_column="level", task_column="kind")
    assert [(one.difficulty, one.task) for one in problems] == [("1", "1"), ("", ""), ("3", "3")]


def test_a_measurement_is_no_level(tmp_path):
    rows = [{"prompt": str(i), "rate": i / 1000} for i in range(200)]
    with pytest.raises(InputError, match=r"difficulty_column: 'rate' holds 200 different values"):
        load(tmp_path, *rows, difficulty_column="rate")


def test_one_prompt_with_answers_that_differ_is_counted_and_shown(tmp_path):
    notes = []
    rows = [
        ("a", "1"),
        ("a", "2"),
        ("b", 72),
        ("b", "72"),
        ("b", 72.0),
        ("c", "x"),
        ("c ", "y"),
        ("d", None),
        ("d", "1"),
    ]
    problems = load(tmp_path, *({"prompt": prompt, "answer": answer} for prompt, answer in rows), notes=notes)
    assert len(problems) == 9
    [line] = [one for one in notes if "differ" in one]
    assert "data.train: warning: 2 prompts stand there with answers that differ, e.g. '1' (" in line
    assert line.endswith(f"line 1) and '2' ({tmp_path}/rows.jsonl line 2); all are kept")


def test_decimal_numbers_of_a_table_are_numbers(tmp_path):
    rows = [{"question": f"What is {i}?", "answer": Decimal(text)} for i, text in enumerate(("1.50", "34.00", "-2.25"))]
    found = [problem.answer for problem in load(tmp_path, *rows, parquet=True)]
    assert found == [1.5, 34, -2.25]
    assert [type(one) for one in found] == [float, int, float]
