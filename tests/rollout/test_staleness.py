"""The rule of staleness holds its bound, drops nothing and never locks up; simpler rules do not hold it."""

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolpo.rollout.staleness import Outstanding, batch, room

Rule = Callable[[Sequence[Outstanding], int, int, int], list[int] | None]


def run(rule: Rule, per_step: int, max_staleness: int, steps: int, order: Callable[[int], int]) -> list[int]:
    """Ages of all groups taken in some steps, where `order` chooses which unfinished group finishes next."""
    ids: list[int] = []
    born: dict[int, int] = {}
    finished: dict[int, int] = {}
    ages, taken_ids, asked, version = [], [], 0, 0
    while version < steps:
        for _ in range(room(asked, version, per_step, max_staleness)):
            ids.append(asked)
            born[asked], asked = version, asked + 1
        # A rule may go by the order of finishing: the finished ones stand first, in that order.
        ids.sort(key=lambda one: (finished.get(one, asked), one))
        listed = [Outstanding(born[one], one in finished) for one in ids]
        taken = rule(listed, version, per_step, max_staleness)
        if taken is None:
            waiting = [one for one in ids if one not in finished]
            assert waiting, "all is finished and the step still waits"
            finished[waiting[order(len(waiting))]] = len(finished)
            continue
        assert len(set(taken)) == per_step
        assert all(listed[place].finished for place in taken)
        ages += [version - listed[place].born for place in taken]
        taken_ids += [ids[place] for place in taken]
        ids = [one for place, one in enumerate(ids) if place not in taken]
        version += 1
    assert len(set(taken_ids)) == len(taken_ids) == steps * per_step
    assert sorted([*taken_ids, *ids]) == list(range(asked))
    return ages


@settings(max_examples=300, deadline=None)
@given(data=st.data(), per_step=st.integers(1, 5), max_staleness=st.integers(0, 4))
def test_no_group_is_older_than_the_bound_whatever_finishes_first(data, per_step, max_staleness):
    draws = st.integers(0, 1000)
    ages = run(batch, per_step, max_staleness, 12, lambda count: data.draw(draws) % count)
    assert max(ages) <= max_staleness


@settings(max_examples=100, deadline=None)
@given(data=st.data(), per_step=st.integers(1, 5), max_staleness=st.integers(0, 4))
def test_the_soft_bound_takes_everything_once_as_well(data, per_step, max_staleness):
    draws = st.integers(0, 1000)

    def soft(groups, version, size, most):
        return batch(groups, version, size, most, "soft")

    run(soft, per_step, max_staleness, 12, lambda count: data.draw(draws) % count)


def newest_finishes_first(count: int) -> int:
    return count - 1


def soft_bound(groups, version, size, most):
    return batch(groups, version, size, most, "soft")


def newest_finished_first(groups, version, size, most):
    """Any groups that are finished, if capacity admitted them, here the youngest."""
    finished = sorted((place for place, group in enumerate(groups) if group.finished), key=lambda at: -groups[at].born)
    return finished[:size] if len(finished) >= size else None


def in_order_of_finishing(groups, version, size, most):
    """AReaL's rule: those that finished first, if capacity admitted them."""
    finished = [place for place, group in enumerate(groups) if group.finished]
    return finished[:size] if len(finished) >= size else None


def oldest_due_first(groups, version, size, most):
    """Wait only for groups that the very next step would find too old."""
    finished = [place for place, group in enumerate(groups) if group.finished]
    late = any(not group.finished and group.born <= version - most for group in groups)
    finished.sort(key=lambda place: groups[place].born)
    return finished[:size] if len(finished) >= size and not late else None


@pytest.mark.parametrize("rule", [newest_finished_first, in_order_of_finishing, soft_bound, oldest_due_first])
def test_simpler_rules_exceed_the_bound(rule):
    worst = []
    for seed in range(300):
        draws = random.Random(seed)
        worst.append(max(run(rule, 2, 2, 12, draws.randrange)))
    assert max(worst) > 2


def test_without_staleness_a_step_takes_what_it_asked_for():
    assert [room(0, 0, 4, 0), room(4, 0, 4, 0), room(4, 1, 4, 0)] == [4, 0, 4]
    assert set(run(batch, 4, 0, 5, newest_finishes_first)) == {0}


def test_a_step_waits_for_a_slow_old_group_only_when_its_last_place_is_at_stake():
    slow = Outstanding(0, False)
    young = [Outstanding(1, True)] * 3
    assert batch([slow, *young], 1, 2, 2) == [1, 2]
    assert batch([slow, *young], 2, 2, 2) is None
    assert batch([Outstanding(0, True), *young], 2, 2, 2) == [0, 1]


def test_a_group_that_gives_its_place_back_makes_room():
    assert room(asked=8, version=1, per_step=4, max_staleness=0) == 0
    assert room(asked=7, version=1, per_step=4, max_staleness=0) == 1
