"""Groups asked for ahead: each is trained on once and in time, whatever finishes first, and a resumed run asks anew."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.recipes.runs.seeds import draw_seed
from evolpo.recipes.training.ahead import Ahead, gap_by_age, key, staleness_metrics
from evolpo.rewards.stack import RewardsConfig, RewardSpec, RewardStack
from evolpo.rl.data import Batch, Group, Prompt, Response, Row, Span
from evolpo.rollout.engine import Sampling, prompt_seeds
from evolpo.rollout.fleet import Done, FleetCounts

SAMPLING = Sampling(responses_per_prompt=2, max_response_tokens=4)
PER_STEP = 3


class Engines:
    """In the place of a fleet: holds what it was asked for until it is told to finish it."""

    def __init__(self) -> None:
        self.counts, self.places = FleetCounts(), [None]
        self.asked: dict[int, tuple[Prompt, int | None, Done, Sampling]] = {}
        self.seeds: list[int | None] = []
        self.cancelled: list[int] = []

    def submit(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int | None], done: Done
    ) -> list[int]:
        numbers = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            number = len(self.seeds)
            self.seeds.append(seed)
            self.asked[number] = (prompt, seed, done, sampling)
            numbers.append(number)
        return numbers

    def cancel(self, numbers: Sequence[int]) -> None:
        self.cancelled += numbers

    def check(self) -> None:
        pass

    def finish(self, number: int, texts: tuple[str, str] = ("a", "b")) -> None:
        prompt, _, done, _ = self.asked.pop(number)
        done(number, Group(prompt, tuple(Response((1,), text, (-0.5,), "stop") for text in texts)))


@pytest.fixture(scope="module")
def rewards() -> Iterator[RewardStack]:
    stack = RewardStack(RewardsConfig([RewardSpec(use="evolpo.recipes.bench.fleet:coin")]))
    yield stack
    stack.close()


def prompt(number: int) -> Prompt:
    return Prompt(f"p{number}", f"text {number}", (1,))


def made(engines: Engines, rewards: RewardStack, eta: int) -> Ahead:
    return Ahead(engines, rewards, 5, PER_STEP, eta, "hard")  # type: ignore[arg-type]


def taken(ahead: Ahead, step: int) -> list[Group] | None:
    found = ahead.take(step)
    return found[1] if found is not None else None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.randoms(use_true_random=False), st.integers(1, 5))
def test_each_group_is_taken_once_and_in_time(rewards: RewardStack, eta: int, random: object, steps: int) -> None:
    engines = Engines()
    ahead = made(engines, rewards, eta)
    drawn, seen = 0, []
    for step in range(steps):
        while True:
            for _ in range(ahead.room(step, steps)):
                ahead.ask([prompt(drawn)], step, SAMPLING)
                drawn += 1
            groups = taken(ahead, step)
            if groups is not None:
                break
            if engines.asked:
                engines.finish(random.choice(sorted(engines.asked)))  # type: ignore[attr-defined]
            else:
                ahead.wait()  # scores are on their way
        assert len(groups) == PER_STEP
        assert all(step - group.born <= eta for group in groups)
        assert all(len(group.rewards) == 2 for group in groups)
        seen += [group.prompt.id for group in groups]
    assert len(seen) == len(set(seen)) == drawn == steps * PER_STEP


def test_without_staleness_seeds_and_order_are_those_of_an_engine_in_the_process(rewards: RewardStack) -> None:
    engines = Engines()
    ahead = made(engines, rewards, 0)
    for step in range(2):
        assert ahead.room(step, 9) == PER_STEP
        prompts = [prompt(3 * step + i) for i in range(PER_STEP)]
        ahead.ask(prompts, step, SAMPLING)
        assert engines.seeds[3 * step :] == prompt_seeds(draw_seed(5, step, 0, 0), SAMPLING, PER_STEP)
        for number in sorted(engines.asked, reverse=True):
            engines.finish(number)
        while (groups := taken(ahead, step)) is None:
            ahead.wait()
        assert [group.prompt for group in groups] == prompts


def test_groups_without_signal_give_their_places_back(rewards: RewardStack) -> None:
    engines = Engines()
    ahead = made(engines, rewards, 0)
    ahead.ask([prompt(i) for i in range(PER_STEP)], 0, SAMPLING)
    engines.finish(0, ("a", "a"))
    engines.finish(1, ("a", "a"))
    while ahead.room(0, 9) < 1:
        ahead.replace_those_without_signal(most=1)
        ahead.wait()
    ahead.replace_those_without_signal(most=1)
    assert ahead.room(0, 9) == 1  # the second one stays: no more may be replaced
    ahead.ask([prompt(3)], 0, SAMPLING)
    engines.finish(2)
    engines.finish(3)
    while (found := ahead.take(0)) is None:
        ahead.wait()
    replaced, groups = found
    assert len(replaced) == 1
    assert len(groups) == PER_STEP
    assert {group.prompt.id for group in (*replaced, *groups)} == {f"p{i}" for i in range(4)}


def test_what_was_on_its_way_is_asked_for_anew_with_its_seeds_and_budget(rewards: RewardStack) -> None:
    engines = Engines()
    ahead = made(engines, rewards, 1)
    ahead.ask([prompt(i) for i in range(2)], 0, SAMPLING)
    ahead.ask([prompt(i) for i in range(2, 6)], 0, replace(SAMPLING, max_response_tokens=9))
    for number in (0, 1, 2):
        engines.finish(number)
    while taken(ahead, 0) is None:
        ahead.wait()
    state = ahead.state_dict()

    again = Engines()
    resumed = made(again, rewards, 1)
    resumed.load_state_dict(state, {key(prompt(i)): prompt(i) for i in range(9)}, 1, SAMPLING)
    assert [one.id for one, *_ in again.asked.values()] == ["p3", "p4", "p5"]
    assert again.seeds == engines.seeds[3:]
    assert [sampling.max_response_tokens for *_, sampling in again.asked.values()] == [9, 9, 9]
    assert resumed.room(1, 9) == ahead.room(1, 9) == 3
    assert resumed.state_dict() == state
    assert resumed.drop() == 3
    assert again.cancelled == [0, 1, 2]


def test_ages_are_counted_by_response_and_by_token() -> None:
    old = Response((1, 2, 3), "", (-1.0, -1.0, -1.0), "stop", (Span(1, 2), Span(2, 1)))
    new = Response((4,), "", (-1.0,), "stop", (Span(3, 1),))
    groups = [Group(prompt(0), (old, new), born=1), Group(prompt(1), (new, new), born=3)]
    metrics = staleness_metrics(groups, 3)
    assert metrics["staleness/response_mean"] == 1.0
    assert metrics["staleness/response_max"] == 2.0
    assert metrics["staleness/token_mean"] == pytest.approx((2 + 2 + 1) / 6)
    assert metrics["staleness/token_max"] == 2.0
    shares = {name: value for name, value in metrics.items() if name.startswith("staleness/tokens_")}
    assert shares == pytest.approx(
        {f"staleness/tokens_{age}": share for age, share in enumerate((1 / 2, 1 / 6, 1 / 3))}
    )

    rows = Batch((Row(0, (1,), (1, 2, 3), (0, 0, 0), 1.0, old.logprobs), Row(1, (1,), (4,), (0,), 1.0, new.logprobs)))
    gaps = gap_by_age(groups, rows, {0: [-1.0, -2.0, -4.0], 1: [-0.5]}, 3)
    assert gaps == {"logprob_gap/age_0": 0.5, "logprob_gap/age_1": 3.0, "logprob_gap/age_2": 0.5}
    assert gap_by_age(groups, rows, {}, 3) == {}
