"""Stages: when they end, what they change, and that a resumed run is where it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo import InputError
from evolpo.rl.curriculum import Curriculum, CurriculumConfig, Right, StageConfig, passed
from evolpo.rl.data import Group, Prompt, Response


def curriculum(*stages):
    return Curriculum(CurriculumConfig([StageConfig(**stage) for stage in stages]))


def test_a_stage_ends_by_its_pass_rate_over_the_window():
    run = curriculum({"pass_rate": 0.8, "window": 2}, {})
    assert [run.advance(rate) for rate in (0.9, 0.6, 0.9, 0.8)] == [False, False, False, True]
    assert run.number == 1
    assert not run.advance(1.0)  # the last stage does not end


def test_a_stage_ends_after_its_steps_at_the_latest():
    run = curriculum({"pass_rate": 1.0, "steps": 3}, {"steps": 1}, {})
    assert [run.advance(0.0) for _ in range(5)] == [False, False, True, True, False]
    assert run.number == 2


def test_alpha_is_written_to_prompts_of_the_difficulties_it_names():
    run = curriculum({"alpha": {"easy": 0.5}})
    prompts = [Prompt(name, "", (1,), difficulty=name, metadata={"kept": 1}) for name in ("easy", "hard")]
    easy, hard = run.marked(prompts)
    assert easy.metadata == {"kept": 1, "length_alpha": 0.5}
    assert hard is prompts[1]


@given(rates=st.lists(st.floats(0, 1), max_size=30), cut=st.integers(0, 30))
def test_a_resumed_run_is_where_it_was(rates, cut):
    stages = [{"pass_rate": 0.5, "window": 3}, {"steps": 4}, {"pass_rate": 0.9, "steps": 6}, {}]
    whole = curriculum(*stages)
    for rate in rates:
        whole.advance(rate)
    first, second = curriculum(*stages), curriculum(*stages)
    for rate in rates[:cut]:
        first.advance(rate)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for rate in rates[cut:]:
        second.advance(rate)
    assert second.state_dict() == whole.state_dict()


def test_what_counts_as_passed():
    response = Response((1,), "", (0.0,), "stop")
    rows = ({"answer": 1.0, "length": -0.2}, {"answer": 0.0, "length": 0.5}, {"answer": None, "length": 0.1})
    groups = [Group(Prompt("a", "", (1,)), (response,) * 3, (0.8, 0.5, None), rows)]
    assert passed(groups, Right()) == (1, 2)
    assert passed(groups, Right(threshold=0.0)) == (2, 2)
    assert passed(groups, Right("length", 0.1)) == (2, 3)
    assert passed(groups, Right("length")) == (0, 3)
    assert passed([], Right()) == (0, 0)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{}, {}], r"curriculum.stages\[0\]: never ends"),
        ([{"mix": {"easy": -1.0}}], r"curriculum.stages\[0\].mix: .* are no shares"),
        ([{"mix": {"easy": 0.0}}], "are no shares"),
        ([{"alpha": {"easy": -0.1}}], r"curriculum.stages\[0\].alpha: .* would reward length"),
        ([{"pass_rate": 1.2}], r"curriculum.stages\[0\].pass_rate: 1.2 is no share"),
        ([{"window": 0}], r"curriculum.stages\[0\].window: 0 is below 1"),
    ],
)
def test_wrong_stages(stages, message):
    with pytest.raises(InputError, match=message):
        CurriculumConfig([StageConfig(**stage) for stage in stages])


def test_stages_must_fit_data_and_budget():
    config = CurriculumConfig([StageConfig(mix={"easy": 1.0, "odd": 1.0})])
    with pytest.raises(InputError, match=r"no source of data\.train is of difficulty odd; there is easy, hard"):
        config.check(["easy", "hard"], 64, 10)
    with pytest.raises(InputError, match=r"max_response_tokens: 65 is more than rollout.max_response_tokens=64"):
        CurriculumConfig([StageConfig(max_response_tokens=65)]).check([], 64, 10)


def test_two_stages_of_one_name():
    stages = [StageConfig(name="a", steps=1), StageConfig(steps=1), StageConfig(steps=1), StageConfig(name="a")]
    with pytest.raises(InputError, match=r"curriculum\.stages\[3\]\.name: 'a' is that of stages\[0\]"):
        CurriculumConfig(stages)


@given(
    stages=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5]), st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4
    ),
    steps=st.integers(1, 20),
)
def test_what_is_refused_is_what_no_pass_rate_reaches(stages, steps):
    config = CurriculumConfig([StageConfig(pass_rate=p, window=w, steps=s if p else max(s, 1)) for p, w, s in stages])
    run = Curriculum(config)
    reached = {0}
    for _ in range(steps - 1):  # a stage that begins after the last step has no step
        run.advance(1.0)
        reached.add(run.number)
    if max(reached) == len(stages) - 1:
        config.check(["easy"], 64, steps)
    else:
        with pytest.raises(InputError, match=rf"curriculum\.stages\[{max(reached) + 1}\]: never begins"):
            config.check(["easy"], 64, steps)


def test_a_difficulty_that_no_stage_samples():
    one, two = StageConfig(mix={"easy": 1.0, "hard": 0.0}, steps=2), StageConfig(mix={"medium": 1.0})
    with pytest.raises(InputError, match=r"curriculum\.stages\[0\.\.1\]\.mix: no stage samples difficulty 'hard'"):
        CurriculumConfig([one, two]).check(["easy", "medium", "hard"], 64, 10)
    CurriculumConfig([one, StageConfig()]).check(["easy", "medium", "hard"], 64, 10)  # without a mix: all
