"""The journal of a fleet: whatever engines do, each response arrives once, whole, with who sampled which token."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.rl.data import Prompt, Span
from evolpo.rollout.engine import SEEDS_APART, Sampling, prompt_seeds
from evolpo.rollout.journal import Journal, Report, Request, Sampled

SAMPLING = Sampling(responses_per_prompt=3, max_response_tokens=6)
PROMPT = Prompt("p", "", (1, 2))


class Engine:
    """Says one token a step for each of its requests, and keeps reports until it is drained."""

    def __init__(self) -> None:
        self.requests: dict[str, list[int]] = {}
        self.left: dict[str, int] = {}
        self.reports: list[Report] = []

    def submit(self, requests: Sequence[Request]) -> None:
        for one in requests:
            self.requests[one.id] = list(one.token_ids)
            self.left[one.id] = one.max_tokens

    def step(self, version: int) -> None:
        for name in list(self.requests):
            sofar = self.requests[name]
            place = int(name.split(".")[1].split("#")[0])
            said = 100 * place + len(sofar) - len(PROMPT.token_ids)
            sofar.append(said)
            self.left[name] -= 1
            last = self.left[name] == 0
            self.reports.append(Report(name, (said,), (-float(said),), version, "length" if last else None))
            if last:
                del self.requests[name]


@given(st.lists(st.sampled_from(["step", "drain", "lose", "late", "publish"]), max_size=60), st.integers(0, 1))
@settings(max_examples=300, deadline=None)
def test_each_response_arrives_once_and_whole(events: list[str], which: int) -> None:
    journal, engines, version = Journal(), {0: Engine(), 1: Engine()}, 0
    numbers = [journal.ask(PROMPT, SAMPLING, 7 * i) for i in range(2)]
    gone: list[list[Report]] = []
    finished: list[int] = []
    following = 2

    def give_out() -> None:
        for number in journal.waiting():
            key = min(engines, key=journal.load)
            engines[key].submit(journal.assign(number, key))

    def drain() -> None:
        for engine in engines.values():
            finished.extend(journal.record(engine.reports))
            engine.reports = []

    give_out()
    for event in [*events, *["step", "drain"] * 30]:
        if event == "step":
            for engine in engines.values():
                engine.step(version)
        elif event == "drain":
            drain()
        elif event == "publish":
            version += 1
        elif event == "lose":
            key = sorted(engines)[which % len(engines)]
            gone.append(engines.pop(key).reports)
            journal.lost(key)
            engines[following] = Engine()
            following += 1
        else:
            assert not [number for reports in gone for number in journal.record(reports)]
        give_out()

    assert sorted(finished) == numbers
    for number in numbers:
        prompt, responses = journal.take(number)
        assert prompt is PROMPT
        for place, one in enumerate(responses):
            assert one.token_ids == tuple(100 * place + i for i in range(6))
            assert one.logprobs == tuple(-float(t) for t in one.token_ids)
            assert sum(span.tokens for span in one.spans) == 6
            assert [span.version for span in one.spans] == sorted({span.version for span in one.spans})
    assert journal.waiting() == []


def test_a_continuation_goes_on_behind_its_tokens_with_draws_of_its_own() -> None:
    journal = Journal()
    number = journal.ask(PROMPT, SAMPLING, 40)
    first = journal.assign(number, 0)
    assert [one.seed for one in first] == [40, 41, 42]
    assert [one.max_tokens for one in first] == [6, 6, 6]
    journal.record([Report(first[1].id, (8, 9), (-1.0, -2.0), 3, None)])
    assert journal.lost(0) == (3, 2)
    assert journal.most_attempts() == 1
    again = journal.assign(number, 1)
    assert [one.token_ids for one in again] == [(1, 2), (1, 2, 8, 9), (1, 2)]
    assert [one.max_tokens for one in again] == [6, 4, 6]
    assert [again[0].seed, again[2].seed] == [40, 42]
    assert again[1].seed not in (None, 41)
    assert not {one.id for one in first} & {one.id for one in again}
    journal.record([Report(again[1].id, (10,), (-3.0,), 4, "stop")])
    for one in (again[0], again[2]):
        journal.record([Report(one.id, (5,), (-1.0,), 4, "stop")])
    _, responses = journal.take(number)
    assert responses[1] == Sampled((8, 9, 10), (-1.0, -2.0, -3.0), "stop", (Span(3, 2), Span(4, 1)))


def test_greedy_responses_have_no_seed() -> None:
    journal = Journal()
    number = journal.ask(PROMPT, Sampling(2, 4, temperature=0.0), None)
    journal.record([Report(journal.assign(number, 0)[0].id, (1,), (0.0,), 0, None)])
    journal.lost(0)
    assert [one.seed for one in journal.assign(number, 1)] == [None, None]


def test_what_is_cancelled_is_named_by_engine_and_not_heard_of_again() -> None:
    journal = Journal()
    numbers = [journal.ask(PROMPT, SAMPLING, 0), journal.ask(PROMPT, SAMPLING, 1)]
    requests = [journal.assign(number, number) for number in numbers]
    assert journal.cancel(numbers[:1]) == {0: [one.id for one in requests[0]]}
    assert journal.record([Report(requests[0][0].id, (1, 2), (0.0, 0.0), 0, "stop")]) == []
    assert journal.dropped == 2
    assert [journal.load(0), journal.load(1)] == [0, 3]
    assert journal.cancel(numbers[:1]) == {}


def test_a_group_is_not_taken_before_it_is_finished() -> None:
    journal = Journal()
    number = journal.ask(PROMPT, SAMPLING, 0)
    with pytest.raises(AssertionError, match="before it was finished"):
        journal.take(number)


def test_seeds_of_prompts_lie_apart_and_greedy_has_none() -> None:
    seeds = prompt_seeds(3, SAMPLING, 50)
    assert len(set(seeds)) == 50
    assert all(seed is not None and seed % SEEDS_APART == 0 and 0 <= seed < 2**63 for seed in seeds)
    assert prompt_seeds(3, SAMPLING, 20) == [int(s) * SEEDS_APART for s in np.random.SeedSequence(3).generate_state(20)]
    assert prompt_seeds(3, Sampling(1, 4, temperature=0.0), 2) == [None, None]
