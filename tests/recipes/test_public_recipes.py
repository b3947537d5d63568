"""The recipes that people run first: each composes, and passes its dry run on a small file of the shape of its data."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from test_arguments import compose
from tiny_models import write_tiny_model

from evolpo.recipes import conf
from evolpo.recipes.runs.dry_run import dry_run
from evolpo.rollout.sources import load_problems

FOLDER = Path(conf.__file__).parent / "experiment" / "train"
SMALL = ("nano", "smollm2")
PUBLIC = sorted(path.stem for path in FOLDER.glob("*.yaml") if not any(name in path.stem for name in SMALL))
MATH = [
    {"problem": f"What is ${a} \\cdot {b}$?", "answer": str(a * b), "level": f"Level {a % 5 + 1}", "subject": "Algebra"}
    for a in range(2, 8)
    for b in range(2, 8)
]
PAGES = [{"prompt": f"A page with {count} cards and a button that hides them."} for count in range(40)]
NO_ARGUMENTS = dict.fromkeys(("N", "quantifier", "end_phrase", "keyword_list", "options", "i"))
INSTRUCTIONS = [
    {
        "messages": [{"role": "user", "content": f"Name {number} rivers of Europe. Do not use any commas."}],
        "ground_truth": json.dumps({"func_name": "validate_no_commas", **NO_ARGUMENTS}),
        "dataset": "ifeval",
    }
    for number in range(2, 32)
] + [
    {
        "key": number,
        "prompt": f"Describe village number {number} in at least 40 words, all of them in lowercase letters.",
        "instruction_id_list": ["length_constraints:number_words", "change_case:english_lowercase"],
        "kwargs": [
            {"num_words": 40, "relation": "at least", "keywords": None},
            {"num_words": None, "relation": None, "keywords": None},
        ],
    }
    for number in range(6)
]
SHAPES: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {
            "question": f"Ann has {a} pens and buys {b}. How many?",
            "answer": f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b}",
        }
        for a in range(6)
        for b in range(6)
    ],
    "math": MATH,
    "dapo_math_17k": [{"prompt": row["problem"], "solution": row["answer"]} for row in MATH],
    "code": [
        {"prompt": f"Read a number and print it plus {n}.", "tests": [{"stdin": "1\n", "stdout": f"{n + 1}\n"}]}
        for n in range(40)
    ],
    "frontend": PAGES,
    "ifeval": INSTRUCTIONS,
}


def shape_of(recipe: str) -> str:
    """The data group of a recipe, without its variants."""
    text = (FOLDER / f"{recipe}.yaml").read_text()
    group = next(line for line in text.splitlines() if "override /data:" in line).split(":")[1].strip()
    return group.removesuffix("_ling")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder, max_position_embeddings=16384)
    return str(folder)


def test_all_kinds_are_there() -> None:
    assert {shape_of(recipe) for recipe in PUBLIC} == set(SHAPES)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("recipe", PUBLIC)
def test_a_recipe_passes_its_dry_run(recipe: str, tmp_path: Path, model: str) -> None:
    rows = SHAPES[shape_of(recipe)]
    for name, part in (("train", rows[:30]), ("heldout", rows[30:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    config = compose("train", f"experiment={recipe}", f"model.path={model}", f"output_dir={tmp_path}", "processes=1")
    for name, sources in (("train", config.data.train), ("heldout", config.data.heldout)):
        for source in sources:
            source.kind, source.path = "jsonl", str(tmp_path / f"{name}.jsonl")
    config.data.heldout_size = 5
    config.responses_per_prompt = 2
    said = dry_run(config)
    assert "configuration is fine" in said
    assert "dropped" in said
    assert f"| <|user|>{rows[0].get('prompt', '')[:1]}" in said or "| <|system|>detailed think off" in said


def test_what_is_compared_is_the_number_behind_the_rationale(tmp_path: Path, model: str) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SHAPES["gsm8k"]))
    config = compose("train", "experiment=gsm8k_qwen2_5_0_5b", f"model.path={model}", "processes=1")
    for source in (*config.data.train, *config.data.heldout):
        source.kind, source.path = "jsonl", str(file)
    problems = load_problems(config.data.train, "data.train", 0)
    assert [problem.answer for problem in problems[:3]] == ["0", "1", "2"]


@pytest.mark.parametrize("recipe", PUBLIC)
def test_a_recipe_says_what_it_needs(recipe: str) -> None:
    head = (FOLDER / f"{recipe}.yaml").read_text().split("\n\n")[0]
    comment = " ".join(line for line in head.splitlines() if line.startswith("#"))
    assert "GPU" in comment or "sizes of" in comment
    assert OmegaConf.load(FOLDER / f"{recipe}.yaml").name == recipe
