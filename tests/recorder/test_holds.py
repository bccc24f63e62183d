"""Waiting responses are let go: by the disk, or by their timeout, with one timer per loop."""

import asyncio

from usageflow.recorder.holds import Holds, release


def test_a_released_hold_tells_whether_it_is_durable() -> None:
    """The future's result is the writer's word."""

    async def scenario() -> tuple[bool, bool]:
        holds = Holds(asyncio.get_running_loop(), timeout_s=5)
        one, two = holds.add(), holds.add()
        release([one], True)
        release([two], False)
        return await one, await two

    assert asyncio.run(scenario()) == (True, False)


def test_a_stalled_disk_holds_a_response_no_longer_than_the_timeout() -> None:
    """Each hold expires by its own age, in order, with result False."""

    async def scenario() -> tuple[list[bool], int]:
        holds = Holds(asyncio.get_running_loop(), timeout_s=0.05)
        first = holds.add()
        await asyncio.sleep(0.03)
        second = holds.add()
        results = [await first, second.done(), await second]
        return results, holds.stalled

    assert asyncio.run(scenario()) == ([False, False, False], 2)


def test_a_hold_that_gave_up_is_passed_over() -> None:
    """A client that left cancels its wait; releasing it later is harmless."""

    async def scenario() -> bool:
        holds = Holds(asyncio.get_running_loop(), timeout_s=5)
        left = holds.add()
        left.cancel()
        release([left], True)
        return left.cancelled()

    assert asyncio.run(scenario())


def test_finished_holds_are_not_kept() -> None:
    """Memory is bounded by the responses that wait, not by those that waited."""

    async def scenario() -> int:
        holds = Holds(asyncio.get_running_loop(), timeout_s=5)
        for _ in range(1000):
            release([holds.add()], True)
        return len(holds._open)

    assert asyncio.run(scenario()) == 1


def test_an_idle_loop_has_no_timer() -> None:
    """After the last hold the timer is not armed again."""

    async def scenario() -> object:
        holds = Holds(asyncio.get_running_loop(), timeout_s=0.01)
        release([holds.add()], True)
        await asyncio.sleep(0.03)
        return holds._timer

    assert asyncio.run(scenario()) is None
