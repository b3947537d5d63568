"""Recorded batches come back bit for bit, and what is wrong with a record is one line."""

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolpo import InputError
from evolpo.recipes.training.record import batch_file, check_replay, read_batch, write_batch
from evolpo.rl.data import Group, Prompt, Response, Span

floats = st.floats(allow_nan=False, allow_infinity=False)
responses = st.builds(
    Response,
    st.lists(st.integers(0, 1 << 17), max_size=5).map(tuple),
    st.text(max_size=8),
    st.lists(floats, max_size=5).map(tuple),
    st.sampled_from(["stop", "length"]),
    st.lists(st.builds(Span, st.integers(0, 9), st.integers(1, 9)), max_size=2).map(tuple),
)
groups = st.builds(
    Group,
    st.builds(Prompt, st.text(max_size=5), st.text(max_size=5), st.tuples(st.integers(0, 9)), st.none() | st.text()),
    st.tuples(responses, responses),
    st.tuples(st.none() | floats, st.none() | floats),
    st.just(({"a": 0.1}, {"a": None})),
    st.integers(0, 9),
)
GROUP = Group(Prompt("p", "", (1,)), (Response((1,), "a", (-0.1,), "stop"),), (1.0,), ({"a": 1.0},))


@given(st.lists(groups, max_size=3), st.lists(groups, max_size=3))
def test_batches_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, one: list[Group], two: list[Group]
) -> None:
    run = tmp_path_factory.mktemp("run")
    write_batch(run, 3, [one, two], {"accuracy": 1 / 3})
    assert read_batch(run, 3, 0, 2) == (one, {"accuracy": 1 / 3})
    assert read_batch(run, 3, 1, 2) == (two, {"accuracy": 1 / 3})


def test_a_figure_that_is_not_finite_comes_back(tmp_path: Path) -> None:
    write_batch(tmp_path, 1, [[]], {"kl": math.inf})
    assert read_batch(tmp_path, 1, 0, 1)[1] == {"kl": math.inf}


def test_wrong_records_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"replay: .* has recorded nothing; record a run by logger.record=true"):
        check_replay(tmp_path, 2)
    write_batch(tmp_path, 1, [[GROUP]], {})
    check_replay(tmp_path, 1)
    with pytest.raises(InputError, match=r"replay: .* has not recorded step 2; set steps=1"):
        check_replay(tmp_path, 2)
    with pytest.raises(InputError, match=r"replay: .* was recorded by 1 ranks; set processes=1"):
        read_batch(tmp_path, 1, 0, 2)
    whole = batch_file(tmp_path, 1).read_bytes()
    for damaged in (
        whole[:-5],
        b"",
        gzip.compress(b'{"ranks": [[{"prompt": 1}]], "metrics": {}}'),
        gzip.compress(b"[]"),
    ):
        batch_file(tmp_path, 1).write_bytes(damaged)
        with pytest.raises(InputError, match=r"replay: .* is damaged .*; restore it from a copy"):
            read_batch(tmp_path, 1, 0, 1)
