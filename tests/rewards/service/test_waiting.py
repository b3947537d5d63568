"""Results are waited for in a way that hears signals, and as they come."""

import threading
import time
from concurrent.futures import Future

import pytest

from evolpo.rewards.service.waiting import HEARD_AFTER_S, as_they_come, result_of


def later(seconds: float, value: object) -> Future[object]:
    future: Future[object] = Future()

    def end() -> None:
        if isinstance(value, BaseException):
            future.set_exception(value)
        else:
            future.set_result(value)

    threading.Timer(seconds, end).start()
    return future


def test_futures_are_given_as_they_end_and_once() -> None:
    waits = [2.5 * HEARD_AFTER_S, 0.0, 1.2 * HEARD_AFTER_S]
    futures = [later(seconds, place) for place, seconds in enumerate(waits)]
    assert [one.result() for one in as_they_come(futures)] == [1, 2, 0]


def test_what_a_future_raises_is_raised_even_where_it_is_a_timeout() -> None:
    with pytest.raises(TimeoutError, match="its own"):
        result_of(later(1.5 * HEARD_AFTER_S, TimeoutError("its own")))


def test_many_futures_cost_no_more_than_they_must() -> None:
    futures: list[Future[int]] = [Future() for _ in range(5_000)]
    threading.Timer(0.1, lambda: [one.set_result(1) for one in futures]).start()
    began = time.process_time()
    assert sum(one.result() for one in as_they_come(futures)) == 5_000
    assert time.process_time() - began < 5
