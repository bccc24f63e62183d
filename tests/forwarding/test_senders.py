"""Threads make calls, and what they give comes back once."""

import logging
import threading
from functools import partial

import pytest

from usageflow.errors import DeliveryError
from usageflow.forwarding.senders import Senders


def test_results_come_back_and_threads_are_free_again() -> None:
    """Each call is made once, by one of as many threads as there are calls at a time."""
    senders: Senders[int] = Senders(3, "test")
    names = set()

    def call(number: int) -> int:
        names.add(threading.current_thread().name)
        return number

    for number in range(3):
        senders.begin("a call", partial(call, number))
    assert (senders.free, senders.busy) == (0, 3)
    found: list[int] = []
    while senders.busy:
        found += senders.gather(10)
    assert sorted(found) == [0, 1, 2]
    assert (senders.free, names) == (3, {"test"})
    assert senders.gather(10) == []
    senders.close()


def test_a_call_that_is_not_over_is_not_waited_for() -> None:
    """`gather` gives what there is when its time is over."""
    senders: Senders[str] = Senders(2, "test")
    go_on = threading.Event()
    senders.begin("a call", lambda: str(go_on.wait(30)))
    senders.begin("a call", lambda: "at once")
    assert senders.gather(30) == ["at once"]
    assert senders.gather(0) == []
    assert senders.busy == 1
    go_on.set()
    assert senders.gather(30) == ["True"]
    senders.close()


def test_what_a_call_raises_is_told_and_gives_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A failure we can explain without a traceback, one of ours with it; the thread goes on."""
    senders: Senders[int] = Senders(1, "test")

    def fail(error: Exception) -> int:
        raise error

    for error in (DeliveryError("no route"), RuntimeError("ours")):
        senders.begin("a call", partial(fail, error))
        with caplog.at_level(logging.ERROR):
            assert senders.gather(30) == []
    first, second = caplog.records
    assert ("no route" in first.getMessage(), bool(first.exc_info)) == (True, False)
    assert ("ours" in second.getMessage(), bool(second.exc_info)) == (True, True)
    senders.begin("a call", lambda: 1)
    assert senders.gather(30) == [1]
    senders.close()
