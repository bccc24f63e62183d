"""Waiting responses are let go: by the disk, or by their timeout."""

import asyncio

import pytest

from usageflow.recorder.holds import Hold


def hold(timeout_s: float = 5) -> Hold:
    """A hold on the running loop."""
    return Hold(asyncio.get_running_loop(), timeout_s)


@pytest.mark.parametrize("durable", [True, False])
def test_a_released_hold_tells_whether_it_is_durable(durable: bool) -> None:  # noqa: FBT001
    """All that wait hear the writer's word."""

    async def scenario() -> list[bool]:
        subject = hold()

        async def response() -> bool:
            return await subject

        waiting = asyncio.gather(response(), response())
        await asyncio.sleep(0)
        subject.release(durable)
        return list(await waiting)

    assert asyncio.run(scenario()) == [durable, durable]


def test_a_stalled_disk_holds_a_response_no_longer_than_the_timeout() -> None:
    """Then it goes on without; a late release changes nothing."""

    async def scenario() -> bool:
        subject = hold(0.02)
        durable = await subject
        subject.release(True)
        return durable

    assert asyncio.run(scenario()) is False


def test_a_client_that_leaves_does_not_end_the_wait_of_others() -> None:
    """Its own cancellation takes effect when the hold ends."""

    async def scenario() -> tuple[bool, bool]:
        subject = hold()

        async def response() -> bool:
            return await subject

        gone, staying = asyncio.ensure_future(response()), asyncio.ensure_future(response())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert not gone.done()
        subject.release(True)
        durable = await staying
        with pytest.raises(asyncio.CancelledError):
            await gone
        return durable, gone.cancelled()

    assert asyncio.run(scenario()) == (True, True)


def test_one_answer_that_cannot_be_sent_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """All of a commit are called, whatever one of them does; who comes late is called at once."""

    async def scenario() -> list[str]:
        subject, sent = hold(), list[str]()

        def fail() -> None:
            raise RuntimeError("bug")

        subject.then(lambda: sent.append("first"))
        subject.then(fail)
        subject.then(lambda: sent.append("last"))
        subject.release(True)
        subject.then(lambda: sent.append("late"))
        return sent

    assert asyncio.run(scenario()) == ["first", "last", "late"]
    assert "an answer could not be sent on" in caplog.text
