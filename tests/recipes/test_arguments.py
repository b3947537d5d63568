"""From words and a file of fields to a configuration: grammar, own data, unknown fields, numbers."""

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Any, get_args, get_origin

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evolpo import InputError
from evolpo.recipes.arguments.fields import SIGNED, all_fields, check_field, check_numbers, type_of, without_none
from evolpo.recipes.arguments.grammar import at_home, quoted, readable, written
from evolpo.recipes.arguments.kinds import check_value, is_group
from evolpo.recipes.arguments.words import hydra_words, words_again
from evolpo.recipes.commands import COMMANDS, registered
from evolpo.recipes.config import TrainConfig
from evolpo.rollout.prompts import DataConfig


def compose(command: str, *arguments: str) -> Any:
    """The configuration of a call as objects."""
    GlobalHydra.instance().clear()
    found = registered(command)
    with hydra.initialize_config_module("evolpo.recipes.conf", version_base=None):
        composition = hydra.compose(found.config, found.words(arguments))
    checked = OmegaConf.to_object(at_home(composition))
    check_numbers(checked)
    return checked


# -- values ----------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1).filter(lambda text: "${" not in text))
def test_any_text_survives_quoting(text: str) -> None:
    assert OverridesParser.create().parse_override(f"model.path={quoted(text)}").value() == text


@pytest.mark.parametrize(
    "path",
    [
        "my folder/model",
        "/tmp/Übung/é",
        "a(b)",
        "run=1/x",
        "a#b",
        "it's",
        "a&b!",
        "#1",
        "new~1",
        "日本",
        "a  b",
        "\\x",
        "x'",
    ],
)
def test_paths_of_any_kind_are_taken_as_they_are(path: str) -> None:
    assert compose("train", f"model.path={path}").model.path == path


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert compose("train", "model.path=~/models/one").model.path == "/home/somebody/models/one"
    found = compose("train", "data.train=[{kind: jsonl, path: ~/ü/x.jsonl}]", "output_dir=~/runs")
    assert found.data.train[0].path == "/home/somebody/ü/x.jsonl"
    assert found.output_dir == "/home/somebody/runs"
    assert compose("train", "model.path=~nobody_of_that_name/x").model.path == "~nobody_of_that_name/x"


def test_positional_fields_with_blanks_and_quotes(tmp_path: Path) -> None:
    found = compose("score", "math", "it's a file.jsonl")
    assert (found.use, found.file) == ("math", "it's a file.jsonl")


def test_written_values_come_back() -> None:
    value = {"path": "ü ~/x", "list": [1, 2.5, None, True, "a,b"], "inner": {"k": -3}}
    parsed = OverridesParser.create().parse_override(f"data.train=[{written(value)}]").value()
    assert parsed == [value]
    assert readable("steps=3", TrainConfig) == "steps=3"


# -- data of one's own -----------------------------------------------------------------------------------------------

OWN = "data.train=[{kind: jsonl, path: mine.jsonl}]"


@pytest.mark.parametrize("recipe", [[], ["experiment=evo_cot_nano_accuracy_only"]])
@pytest.mark.parametrize("command", ["train", "sft", "evaluate"])
def test_own_problems_inherit_nothing(command: str, recipe: list[str]) -> None:
    recipe = recipe if command == "train" else []
    data = compose(command, *recipe, OWN).data
    fresh = DataConfig(train=data.train)
    assert data == fresh
    assert data.heldout == []
    assert (data.heldout_size, data.instruction) == (fresh.heldout_size, fresh.instruction)


def test_what_is_given_beside_own_problems_counts() -> None:
    data = compose("train", OWN, "data.max_prompt_tokens=77", "data.heldout_size=5").data
    assert data == DataConfig(train=data.train, max_prompt_tokens=77, heldout_size=5)


def test_options_are_set_where_there_were_none() -> None:
    math = "rewards.components=[{use: math}]"
    for word in ("rewards.components.0.options.tolerant=true", "rewards.components.0.options={tolerant: true}"):
        assert compose("train", OWN, math, word).rewards.components[0].options == {"tolerant": True}
    made = "data.train=[{kind: reasoning_gym, family: chain_sum}]"
    for word in ("data.train.0.params.min_terms=2", "data.train[0].params={min_terms: 2}"):
        assert compose("train", made, word).data.train[0].params == {"min_terms": 2}


def test_what_a_template_takes_is_given_as_the_guide_says() -> None:
    for word in (
        "data.chat_template_kwargs={enable_thinking: false}",
        "data.chat_template_kwargs.enable_thinking=false",
    ):
        assert compose("train", OWN, word).data.chat_template_kwargs == {"enable_thinking": False}


def test_data_that_are_named_are_what_own_problems_begin_with() -> None:
    assert compose("train", "data=arithmetic", OWN).data.instruction == ""


def test_one_field_of_a_recipe_is_no_data_of_ones_own() -> None:
    data = compose("train", "data.max_prompt_tokens=99").data
    assert [source.family for source in data.train] == ["chain_sum"] * 3
    assert (data.max_prompt_tokens, data.instruction) == (99, "")


def test_recipes_keep_their_data_in_groups() -> None:
    """Fields of data inside an experiment would stay where problems are the user's own."""
    conf = Path(hydra.__file__).parent and Path(resolve_name("evolpo.recipes.conf").__file__).parent
    inline = [path.name for path in (conf / "experiment" / "train").glob("*.yaml") if "data" in OmegaConf.load(path)]
    assert inline == []


# -- a file of fields ------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> str:
        path = tmp_path / "mein rezept ü.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_file_stands_between_recipe_and_command_line(recipe: Any) -> None:
    path = recipe("experiment: ling_nano_arithmetic\nsteps: 7\ntrainer: {learning_rate: 1e-5}\nalgorithm: dapo\n")
    found = compose("train", "--config", path, "steps=9")
    assert found.steps == 9  # the command line
    assert found.trainer.learning_rate == 1e-5  # the file
    assert found.prompts_per_step == 16  # the experiment
    assert (found.algorithm.name, found.algorithm.max_refills) == ("dapo", 3)  # a group that the file picks
    assert compose("train", f"--config={path}").steps == 7
    assert compose("train", "steps=3").steps == 3  # the next call knows nothing of the file


def test_the_command_line_picks_another_group_than_the_file(recipe: Any) -> None:
    path = recipe("algorithm: {name: gspo, clip_high: 0.5}\n")
    assert compose("train", "--config", path).algorithm.name == "gspo"
    found = compose("train", "--config", path, "algorithm=dapo").algorithm
    assert (found.name, found.clip_high, found.max_refills) == ("dapo", None, 3)


def test_own_problems_in_a_file_inherit_nothing(recipe: Any) -> None:
    path = recipe("data:\n  train:\n    - {kind: jsonl, path: Übung.jsonl}\n  heldout_size: 4\n")
    data = compose("train", "--config", path).data
    assert data == DataConfig(train=data.train, heldout_size=4)
    assert data.train[0].path == "Übung.jsonl"


def test_a_file_serves_several_commands(recipe: Any) -> None:
    path = recipe("model: ling_nano\ndata:\n  train: [{kind: jsonl, path: x.jsonl}]\n")
    for command in ("train", "sft", "evaluate"):
        assert compose(command, "--config", path).model.name == "ling_nano"


def test_the_words_for_another_process(recipe: Any) -> None:
    path = recipe("steps: 7\ndata: {train: [{kind: jsonl, path: x.jsonl}]}\n")
    words = hydra_words(["--config", path, "seed=3"], "train", TrainConfig)
    assert words_again(words) == ["--config", path, "data=own", "seed=3"]
    assert sorted(hydra_words(words_again(words), "train", TrainConfig)) == sorted(words)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("trainer: {learning_rat: 1}", ["trainer.learning_rat", "trainer.learning_rate"]),
        ("learning_rate: 1", ["learning_rate", "trainer.learning_rate"]),
        ("max_prompt_tokens: 1", ["data.max_prompt_tokens"]),
        ("data: {train: [{knd: jsonl}]}", ["data.train[0].knd", "data.train[].kind"]),
        ("evaluation: samples", ["evaluation", "holds no fields"]),
        ("data: {train: null}", ["data.train: is null; give a list, as in [{kind: ...}], or leave it out"]),
        ("data: {train: [{kind: file, weight: many}]}", ['data.train[0].weight: "many" does not fit; give a number']),
        ("rewards: {components: [{use: math, tasks: apps}]}", ['[0].tasks: "apps" does not fit; give a list']),
        ("data: {system_prompt: off}", ["data.system_prompt: false is a truth value", "in quotes"]),
        ("data:", ["data", "holds no fields"]),
        ("data: [1]", ["data", "holds no fields"]),
        ("trainer:\n  fp8: no\n trainer: 3", ["no YAML", "line 3"]),
        ("steps: 1\nsteps: 2", ["no YAML", "duplicate key steps"]),
        ("just text", ["just text", "no such field"]),
        ("", ["no fields"]),
        ("- a\n- b", ["no fields"]),
    ],
)
def test_a_mistake_in_a_file_is_named(recipe: Any, text: str, parts: list[str]) -> None:
    path = recipe(text)
    with pytest.raises(InputError) as caught:
        compose("train", "--config", path)
    message = str(caught.value)
    assert path in message
    assert "\n" not in message
    assert all(part in message for part in parts), message


# -- fields and numbers ----------------------------------------------------------------------------------------------


def test_every_field_is_known_and_typed() -> None:
    for command in COMMANDS.values():
        schema = resolve_name(command.schema)
        for name in all_fields(schema):
            check_field(schema, name.replace("[]", ".0"))
    assert type_of(TrainConfig, "rewards.components.0.options.anything.at.all") is Any
    assert type_of(TrainConfig, "curriculum.stages.0.mix.easy") is float
    assert type_of(TrainConfig, "algorithm.clip_low") == float | None
    assert type_of(TrainConfig, "steps.more") is None


def numbers_of(schema: Any, prefix: str = "") -> list[str]:
    """Full names of all numbers of a dataclass, its sections included."""
    found = []
    for one in fields(schema):
        kind = type_of(schema, one.name)
        if is_dataclass(kind):
            found += numbers_of(kind, f"{prefix}{one.name}.")
        elif kind in (int, float) or kind in (int | None, float | None):
            found.append(f"{prefix}{one.name}")
    return found


def changed_objects(composition: Any, name: str, value: float) -> None:
    """Set one field of a composition and make checked objects of it."""
    changed = composition.copy()
    OmegaConf.update(changed, name, value)
    check_numbers(OmegaConf.to_object(changed))


NEEDED = {
    "compare": ["experiment=lpo_vs_grpo_gspo"],
    "apexeval": ["run=a"],
    "score": ["use=math", "file=x"],
    "merge": ["run=a", "output=b"],
    "pareto": ["output=a", "baseline=a", "runs={a: [b]}"],
    "pipeline": ["experiment=evo_cot_nano"],
    "bench aesthetics": ["folder=a"],
}


UNLIKE: dict[Any, list[Any]] = {
    str: [None, [], ["a"], {"a": 1}, True, math.nan],
    int: [None, [], {}, "many", "", "1.5", 1.5, math.nan, True],
    float: [None, [], {}, "many", "", False],
    bool: [None, [], {}, "maybe", "", 2, -1, 0.5],
    list: [None, {}, {"a": 1}, "a", "", 3, True, math.nan],
    dict: [None, [], [1], "a", "", 3, True, math.nan],
}
LIKE: dict[Any, list[Any]] = {
    str: ["", "a", 3, 1.5, "no", "${seed}", "???"],
    int: [3, "3", -1, "${seed}"],
    float: [3, 0.5, "1e-5", 10**30],
    bool: [True, "yes", "OFF", 0, 1],
    list: [[]],
    dict: [{}],
}


def kind_of(schema: Any, field: str) -> tuple[Any, bool]:
    """What a field holds, as a key of the tables above, and whether it may be null."""
    found = type_of(schema, field)
    kind = without_none(found)
    kind = dict if is_dataclass(kind) else get_origin(kind) or kind
    return kind, kind is Any or NoneType in get_args(found)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_value_of_another_kind_is_refused_under_its_full_name(command: str) -> None:
    schema = resolve_name(COMMANDS[command].schema)
    for field in all_fields(schema):
        name = field.replace("[]", ".0")
        kind, optional = kind_of(schema, name)
        for value in UNLIKE.get(kind, []):
            if (value is None and optional) or (is_group(name) and isinstance(value, str)):
                continue
            with pytest.raises(InputError) as caught:
                check_value(schema, name, value, "my.yaml: ")
            message = str(caught.value)
            assert message.startswith(f"my.yaml: {field.replace('[]', '[0]')}: "), message
            assert "give " in message or "quotes" in message, message
            assert "\n" not in message
        for value in [*LIKE.get(kind, []), *([None] if optional else [])]:
            check_value(schema, name, value)


def test_groups_are_picked_by_name_and_set_by_fields() -> None:
    check_value(TrainConfig, "data", "gsm8k")
    check_value(TrainConfig, "data", {"heldout_size": 3})
    for name, value in (("data", 5), ("data", ["a"]), ("evaluation", "often"), ("rewards.service", "fast")):
        with pytest.raises(InputError, match=rf"^{name}: .* does not fit; give its fields, as in {{"):
            check_value(TrainConfig, name, value)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_no_number_that_makes_no_sense_gets_through(command: str) -> None:
    """Every number of every command: not finite, negative, beyond any machine. All end in one line."""
    GlobalHydra.instance().clear()
    found = registered(command)
    schema = resolve_name(found.schema)
    with hydra.initialize_config_module("evolpo.recipes.conf", version_base=None):
        composition = hydra.compose(found.config, found.words(NEEDED.get(command, [])))
    for name in numbers_of(schema):
        whole = type_of(schema, name) in (int, int | None)
        negative = [] if name.rsplit(".", 1)[-1] in SIGNED else [-1]
        for value in (math.nan, math.inf, -math.inf, *negative, *([10**30] if whole else [])):
            with pytest.raises((InputError, OmegaConfBaseException)) as caught:
                changed_objects(composition, name, value)
            text = f"{caught.value} {getattr(caught.value, 'full_key', '')}"
            assert name.rsplit(".", 1)[-1] in text, f"{name}={value}: {text}"


def test_numbers_in_lists_and_mappings() -> None:
    with pytest.raises(InputError, match=r"data\.train\[0\]\.weight: nan"):
        compose("train", "data.train=[{kind: jsonl, path: x, weight: nan}]")
    with pytest.raises(InputError, match=r"curriculum\.stages\[0\]\.alpha\.easy: inf"):
        compose("train", "curriculum.stages=[{alpha: {easy: inf}}]")
    found = compose("train", "rewards.components=[{use: math, weight: -0.5, options: {bias: -1}}]")
    assert found.rewards.components[0].weight == -0.5
    assert math.isfinite(found.trainer.learning_rate)


ALIASES = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{now}: &{now} [{', '.join([f'*{before}'] * 9)}]\n" for before, now in zip("abcdefg", "bcdefgh", strict=True)
)
YAMLS = {
    "tag": "steps: !!python/object/apply:os.mkdir [{folder}/made]",
    "object": "steps: !!python/object:os.none {}",
    "deep": "[" * 5000,
    "deep_below": "data: " + "[" * 3000 + "]" * 3000,
    "aliases": ALIASES,
    "digits": "steps: " + "9" * 5000,
    "zeros": "\0" * 30,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", YAMLS)
def test_yaml_that_is_no_configuration_is_a_line_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(YAMLS[kind].replace("{folder}", str(tmp_path)))
    with pytest.raises(InputError, match=r"^--config: .*run\.yaml is no YAML") as caught:
        hydra_words(["--config", str(path)], "train", TrainConfig)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
