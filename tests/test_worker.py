"""When the worker works: at once after news, again while there is something, rarely when quiet."""

import logging
import threading
import time

import pytest

from usageflow.errors import DatabaseError
from usageflow.worker import PAUSE_S_MAX, RETRY_S_MAX, Duty, Worker


class Work:
    """A duty with a heap of things to do; says when each was done."""

    def __init__(self, heap: int = 0) -> None:
        self.heap = heap
        self.rounds = 0
        self.done = threading.Event()

    def __call__(self) -> int:
        """Do one of them."""
        self.rounds += 1
        if not self.heap:
            return 0
        self.heap -= 1
        self.done.set()
        return 1


def test_a_round_does_every_duty_and_counts() -> None:
    """All duties have their turn, in order, and their work is added up."""
    first, second = Work(1), Work(1)
    worker = Worker([Duty("first", first), Duty("second", second)], stop_s_max=1)
    assert [worker.run_once(), worker.run_once()] == [2, 0]
    assert (first.rounds, second.rounds) == (2, 2)


def test_work_is_followed_by_work_without_a_pause() -> None:
    """While there is something to do nobody waits: far more rounds than pauses would allow."""
    work = Work(heap=500)
    began_s = time.monotonic()
    with Worker([Duty("work", work)], stop_s_max=1):
        while work.heap and time.monotonic() < began_s + 5:
            time.sleep(0.001)
    assert work.heap == 0


def test_quiet_is_quiet() -> None:
    """Nothing to do: the rounds become rare instead of burning a core."""
    work = Work()
    with Worker([Duty("work", work)], stop_s_max=1):
        time.sleep(0.6)
    assert 2 <= work.rounds <= 6


def test_news_end_the_pause() -> None:
    """What arrives in a long pause is done at once, not when the pause is over."""
    work = Work()
    with Worker([Duty("work", work)], stop_s_max=1) as worker:
        time.sleep(0.9)  # the pauses have grown well above what is allowed below
        work.heap = 1
        worker.wake()
        assert work.done.wait(PAUSE_S_MAX / 5)


def test_leaving_lets_the_round_in_progress_end() -> None:
    """A call that is under way is finished before anything it uses is closed."""
    begun, finished = threading.Event(), []

    def slow() -> int:
        begun.set()
        time.sleep(0.2)
        finished.append(True)
        return 1

    with Worker([Duty("slow", slow)], stop_s_max=5):
        assert begun.wait(5)
    assert finished


def test_leaving_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A call that hangs delays the stop up to its bound, and the log says so."""
    begun, release = threading.Event(), threading.Event()

    def hanging() -> int:
        begun.set()
        release.wait(30)
        return 0

    with Worker([Duty("hanging", hanging)], stop_s_max=0.05):
        assert begun.wait(5)
    assert "in the middle of a call" in caplog.text
    release.set()


def test_a_failure_ends_neither_the_other_duties_nor_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told once per kind, and that it works again; the others go on meanwhile."""
    caplog.set_level(logging.INFO)
    failures: list[Exception] = [
        *(DatabaseError("locked"), DatabaseError("locked still")),
        *(ZeroDivisionError("ours"), ZeroDivisionError("ours again")),
    ]
    work = Work(heap=5)

    def failing() -> int:
        if failures:
            raise failures.pop(0)
        return 0

    worker = Worker([Duty("failing", failing), Duty("work", work)], stop_s_max=1)
    assert [worker.run_once() for _ in range(5)] == [1] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "failing: locked",
        "failing: ours",
        "failing: works again",
    ]
    assert [record.exc_info is not None for record in caplog.records] == [False, True, False]


def test_a_rare_duty_is_asked_when_its_interval_is_over() -> None:
    """Again at once while it has something to do, after the interval when it had nothing."""
    now_s = 100.0
    rare = Work(heap=2)
    worker = Worker([Duty("rare", rare, interval_s=300)], stop_s_max=1, clock=lambda: now_s)
    assert [worker.run_once() for _ in range(5)] == [1, 1, 0, 0, 0]
    assert rare.rounds == 3
    now_s += 299
    worker.run_once()
    assert rare.rounds == 3
    now_s += 1
    worker.run_once()
    assert rare.rounds == 4


def test_a_rare_duty_that_failed_is_tried_sooner(caplog: pytest.LogCaptureFixture) -> None:
    """Not only after its long interval, nor in every round; and not being asked is no recovery."""
    caplog.set_level(logging.INFO)
    now_s, rounds = 100.0, 0

    def failing() -> int:
        nonlocal rounds
        rounds += 1
        raise DatabaseError("locked")

    worker = Worker([Duty("rare", failing, interval_s=300)], stop_s_max=1, clock=lambda: now_s)
    for _ in range(3):
        worker.run_once()
    assert rounds == 1
    now_s += RETRY_S_MAX
    worker.run_once()
    assert rounds == 2
    assert [record.getMessage() for record in caplog.records] == ["rare: locked"]
