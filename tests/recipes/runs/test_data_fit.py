"""Data, rewards and curriculum that do not fit are one line, before a model is loaded."""

import json

import pytest

from evolpo import InputError
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.runs.dry_run import dry_run
from evolpo.recipes.runs.fit import check_levels, check_rewards
from evolpo.rewards import RewardsConfig, RewardSpec, RewardStack, Sample, sample_reward
from evolpo.rl.curriculum import CurriculumConfig, StageConfig
from evolpo.rollout.prompts import DataConfig, SourceConfig, split_heldout


def source(path, *rows, **options):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(kind="file", path=str(path), **options)


def check(data, *components):
    rewards = RewardStack(RewardsConfig([RewardSpec(**one) for one in components]))
    try:
        check_rewards(rewards, data, *split_heldout(data, 0))
    finally:
        rewards.close()


SUM = {"data_source": "sums", "prompt": "2 + 3", "reward_model": {"ground_truth": "5"}}
CODE = {"data_source": "code", "prompt": "add", "reward_model": {"ground_truth": '{"inputs": ["1"], "outputs": ["1"]}'}}


def test_several_tasks_with_their_own_components(tmp_path):
    held = source(tmp_path / "h.jsonl", {**SUM, "prompt": "1 + 1"})
    data = DataConfig(train=[source(tmp_path / "t.jsonl", SUM, CODE)], heldout=[held])
    check(data, {"use": "math", "tasks": ["sums"]}, {"use": "code_tests", "tasks": ["code"]}, {"use": "format"})
    with pytest.raises(
        InputError, match=r"^data\.train\[0\]: .*t\.jsonl line 1: rewards.components\[0\] \(code_tests\) "
    ):
        check(data, {"use": "code_tests"})
    with pytest.raises(
        InputError, match=r"t\.jsonl line 2: no component of rewards\.components judges its task 'code'"
    ):
        check(data, {"use": "math", "tasks": ["sums"]})
    with pytest.raises(InputError, match=r"tasks 'sum' are of no row of the data, which have 'code', 'sums'"):
        check(data, {"use": "format"}, {"use": "math", "tasks": ["sum"]})


def test_rows_held_out_are_checked_and_counted(tmp_path):
    held = source(tmp_path / "h.jsonl", {"prompt": "a", "answer": 1}, {"prompt": "b"}, {"prompt": "c", "answer": None})
    data = DataConfig(train=[source(tmp_path / "t.jsonl", {"prompt": "d", "answer": 1})], heldout=[held])
    message = (
        r"^data\.heldout\[0\]: .*h\.jsonl line 2: .*\(math_answer\) .*no reference answer; .* \(2 of 4 rows do not"
    )
    with pytest.raises(InputError, match=message):
        check(data, {"use": "math"})


def test_levels_of_a_column_fit_the_stages(tmp_path):
    rows = [{"prompt": str(i), "level": level} for i, level in enumerate("aab")]
    data = DataConfig(train=[source(tmp_path / "t.jsonl", *rows, difficulty_column="level")], heldout_size=1)
    stages = [StageConfig(mix={"a": 1.0}, steps=5), StageConfig(mix={"a": 0.5, "c": 0.5})]
    config = TrainConfig(data=data, curriculum=CurriculumConfig(stages))  # levels are not known yet
    train, _ = split_heldout(config.data, 0)
    with pytest.raises(InputError, match=r"curriculum\.stages\[1\]\.mix: no source of data\.train is of difficulty c"):
        check_levels(config.curriculum, train, 1000, 100)
    check_levels(CurriculumConfig([StageConfig()]), train, 1000, 100)


def test_the_dry_run_says_how_rows_were_read_and_refuses_what_does_not_fit(tmp_path, tiny_model_path):
    rows = [{"prompt": [{"role": "user", "content": f"{i} + 1"}], "solution": i + 1} for i in range(5)]
    data = DataConfig(train=[source(tmp_path / "t.jsonl", *rows)], heldout_size=2, max_prompt_tokens=100)
    config = TrainConfig(data=data, output_dir=str(tmp_path / "out"))
    config.model.path = tiny_model_path
    config.rewards = RewardsConfig([RewardSpec("math")])
    text = dry_run(config)
    assert "data.train[0]: 5 problems, 0 duplicates dropped, read as trl (prompt=prompt, answer=solution)" in text
    assert "5 prompts are messages, which go through the chat template as they are" in text
    config.rewards = RewardsConfig([RewardSpec("reasoning_gym")])
    with pytest.raises(InputError, match=r"reasoning_gym judges what reasoning-gym generated"):
        dry_run(config)


@sample_reward
def closed(sample: Sample) -> float:
    return 0.0


@sample_reward
def fails(sample: Sample) -> float:
    raise OSError("no such corpus")


def test_the_dry_run_tries_each_component_alone(tmp_path, tiny_model_path):
    held = source(tmp_path / "h.jsonl", {"prompt": "1 + 1", "answer": 2})
    data = DataConfig(
        train=[source(tmp_path / "t.jsonl", {"prompt": "d", "answer": 1})], heldout=[held], max_prompt_tokens=100
    )
    config = TrainConfig(data=data, output_dir=str(tmp_path / "out"))
    config.model.path = tiny_model_path
    gate = RewardSpec(f"{__name__}:closed", gate=True)
    for weight in (1.0, 0.0):
        config.rewards = RewardsConfig([gate, RewardSpec(f"{__name__}:fails", weight=weight), RewardSpec("math")])
        with pytest.raises(
            InputError, match=r"components\[1\]\.use: .*:fails fails on data\.train\[0\].*no such corpus"
        ):
            dry_run(config)
    config.rewards = RewardsConfig([gate, RewardSpec("math")])
    config.data.max_prompt_tokens = 3
    with pytest.raises(InputError, match=r"^data\.max_prompt_tokens: all 1 prompts are longer than 3 tokens; set "):
        dry_run(config)
