"""Rows in the shapes of IFEval and RLVR-IFeval become instructions; what is wrong with a row is one line."""

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from evolpo import InputError
from evolpo.recipes.runs.fit import check_rewards
from evolpo.rewards import RewardsConfig, RewardSpec, RewardStack
from evolpo.rewards.instructions.kinds import KINDS
from evolpo.rewards.instructions.rows import FUNCTIONS, Instruction, instructions_of
from evolpo.rollout.prompts import DataConfig, SourceConfig, split_heldout
from evolpo.rollout.sources import load_problems

WORDS = "length_constraints:number_words"
COMMA = "punctuation:no_comma"
ROW = {
    "key": 1,
    "prompt": "Describe a village in 40 words and without a comma.",
    "instruction_id_list": [WORDS, COMMA],
    "kwargs": [{"num_words": 40, "relation": "at least"}, {}],
}
WANTED = [Instruction(WORDS, {"num_words": 40, "relation": "at least"}), Instruction(COMMA)]
ARGUMENTS = (
    *("N", "quantifier", "end_phrase", "keyword_list", "word", "forbidden_words", "letter", "i", "first_word"),
    *("postscript_marker", "options", "section_splitter", "original_prompt"),
)


def function(name, **arguments):
    return json.dumps({"func_name": name, **dict.fromkeys(ARGUMENTS), **arguments})


def check(path, *rows, **options):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(train=[SourceConfig(kind="file", path=str(path))], heldout_size=0)
    rewards = RewardStack(RewardsConfig([RewardSpec(use="instructions", options=options)]))
    try:
        check_rewards(rewards, data, *split_heldout(data, 0))
    finally:
        rewards.close()


def test_the_columns_of_ifeval():
    assert instructions_of(None, ROW) == WANTED
    assert instructions_of(None, {**ROW, "kwargs": [{**ROW["kwargs"][0], "letter": None}, None]}) == WANTED
    assert instructions_of(None, {**ROW, "kwargs": json.dumps(ROW["kwargs"])}) == WANTED
    as_text = {**ROW, "instruction_id_list": json.dumps([WORDS, COMMA]), "kwargs": list(map(json.dumps, ROW["kwargs"]))}
    assert instructions_of(None, as_text) == WANTED
    assert instructions_of(None, {"instruction_id_list": [COMMA]}) == [Instruction(COMMA)]
    assert instructions_of(json.dumps({name: ROW[name] for name in ("instruction_id_list", "kwargs")}), {}) == WANTED


def test_a_table_that_filled_in_nulls(tmp_path):
    other = {**ROW, "instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["a"], "relation": None}]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW, other]), tmp_path / "rows.parquet")
    problems = load_problems([SourceConfig(kind="file", path=str(tmp_path / "rows.parquet"))])
    assert problems[0].metadata["kwargs"][0]["keywords"] is None
    assert instructions_of(problems[0].answer, problems[0].metadata) == WANTED
    assert instructions_of(None, problems[1].metadata) == [Instruction("keywords:existence", {"keywords": ("a",)})]


@pytest.mark.parametrize(
    ("ground_truth", "wanted", "right", "wrong"),
    [
        (function("validate_no_commas"), Instruction(COMMA), "a", "a, b"),
        (
            function("validate_word_constraint", N=20, quantifier="around"),
            Instruction(WORDS, {"num_words": 20, "relation": "around"}),
            "a " * 21,
            "a " * 25,
        ),
        (
            function("verify_keyword_frequency", word="art", N=2),
            Instruction(
                "keywords:frequency", {"relation": "exactly", "whole_words": True, "keyword": "art", "frequency": 2}
            ),
            "Art, art, start",
            "art art art",
        ),
        (
            function("verify_letter_frequency", letter="q", N=1),
            Instruction(
                "keywords:letter_frequency",
                {"let_relation": "exactly", "match_case": True, "letter": "q", "let_frequency": 1},
            ),
            "q Q",
            "qq",
        ),
        (
            function("verify_paragraph_count", N=2),
            Instruction("length_constraints:number_paragraphs", {"divider": "* * *", "num_paragraphs": 2}),
            "a\n* * *\nb",
            "a\n***\nb",
        ),
        (
            function("validate_paragraphs", N=2, i=2, first_word="So"),
            Instruction(
                "length_constraints:nth_paragraph_first_word",
                {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"},
            ),
            "a\n\nSo b",
            "So a\n\nb",
        ),
        (
            function("validate_choice", options=["A", "B"]),
            Instruction("detectable_format:constrained_response", {"options": ("A", "B")}),
            "It is B.",
            "A or B",
        ),
        (
            function("validate_sections", N=2, section_splitter="Part"),
            Instruction("detectable_format:multiple_sections", {"num_sections": 2, "section_spliter": "Part"}),
            "Part 1 a Part 2 b",
            "Part 1",
        ),
    ],
)
def test_the_functions_of_rlvr_ifeval(ground_truth, wanted, right, wrong):
    for answer in (ground_truth, json.loads(ground_truth)):
        [found] = instructions_of(answer, {"constraint": "words", "dataset": "ifeval"})
        assert found == wanted
    assert found.followed_by(right)
    assert not found.followed_by(wrong)


def test_each_kind_has_a_function():
    assert {name for name, _, _ in FUNCTIONS.values()} == set(KINDS)


def test_rows_that_fit(tmp_path):
    asked = {"messages": [{"role": "user", "content": "No comma."}], "ground_truth": function("validate_no_commas")}
    check(tmp_path / "a.jsonl", ROW)
    check(tmp_path / "b.jsonl", asked)
    check(tmp_path / "c.jsonl", {**ROW, "answer": None}, mode="all", loose=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"instruction_id_list": [WORDS, "punctuation:no_commas"]},
            "no instruction is called 'punctuation:no_commas'; did you mean 'punctuation:no_comma'?",
        ),
        ({"instruction_id_list": [WORDS, "tone:polite"]}, "no instruction is called 'tone:polite'; there are keywords"),
        ({"instruction_id_list": []}, "'instruction_id_list' is []; give a list of names"),
        ({"instruction_id_list": COMMA}, "'instruction_id_list' is 'punctuation:no_comma'; give a list"),
        ({"kwargs": [{}]}, "'kwargs' is [{}]; give a list with one mapping a name, 2 here"),
        ({"kwargs": None}, f"{WORDS}: 'num_words' is missing; it takes num_words, relation"),
        ({"kwargs": [{"num_words": 40}, {}]}, f"{WORDS}: 'relation' is missing"),
        ({"kwargs": [{"num_words": "x", "relation": "at least"}, {}]}, f"{WORDS}: 'num_words' is 'x': "),
        ({"kwargs": [3, {}]}, f"{WORDS}: its kwargs are 3; give a mapping"),
        ({"kwargs": [{"words": 40}, {}]}, f"{WORDS}: 'words' is no parameter of it; it takes num_words, relation"),
    ],
)
def test_a_row_that_cannot_be_checked_is_named(tmp_path, change, message):
    with pytest.raises(InputError) as error:
        check(tmp_path / "rows.jsonl", ROW, {**ROW, **change})
    assert "rows.jsonl line 2: rewards.components[0]" in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (function("validate_no_comma"), "'validate_no_comma'; did you mean 'validate_no_commas'?"),
        (
            function("validate_word_constraint", N=3),
            "validate_word_constraint: 'quantifier' is missing; it takes N, quant",
        ),
        (function("validate_choice"), "validate_choice: 'options' is missing; it takes options"),
        (
            function("validate_word_constraint", N=3, quantifier="about"),
            f"validate_word_constraint ({WORDS}): 'relation' is 'about': ",
        ),
        ("42", "it has no instructions"),
        (None, "it has no instructions: a column 'instruction_id_list', or an answer with 'func_name'"),
    ],
)
def test_an_answer_that_is_no_instruction(answer, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        instructions_of(answer, {})
