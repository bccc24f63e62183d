"""Parts of a long stream: recorded while it passes, and together exactly its usage."""

import asyncio
from typing import Any

import pytest

from usageflow._types import Receive, Scope, Send

SUMMED = """
[[policy]]
name = "tokens"
match = "GET /metered"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "TOKENS"
quantity = "response.body.tokens"
stream = "sum"
on_abort = "%s"

[[policy]]
name = "last"
match = "GET /metered"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "LAST"
quantity = "response.body.tokens"

[[policy]]
name = "calls"
match = "GET /metered"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "CALLS"
"""
LINE = b'{"tokens": 2}\n'
NDJSON = (b"content-type", b"application/x-ndjson")


async def until(condition: Any) -> None:
    """Let the loop run until it holds, at most 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is the loop's own work that is waited for
            await asyncio.sleep(0.001)


class Tap:
    """An app whose stream goes on when the test says so."""

    def __init__(self, kit: Any) -> None:
        self.kit = kit
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until told to end."""
        await send(self.kit.start(200, NDJSON))
        while (chunk := await self.chunks.get()) is not None:
            await send(self.kit.body(chunk, more=True))
        await send(self.kit.body())


def counted(recorder: Any, policy: str) -> list[int]:
    """The quantities of this policy's events."""
    return [int(event.quantity) for event in recorder.events if event.policy == policy]


def test_a_summed_stream_is_recorded_as_it_goes(kit: Any) -> None:
    """A crash loses what the last interval delivered; the end adds only what is left."""
    recorder = kit.ManualRecorder()

    async def run() -> None:
        tap = Tap(kit)
        app = kit.wrap(tap, recorder, SUMMED % "measured", part_interval_s=0.01)
        client = kit.Client()
        serving = asyncio.ensure_future(app(kit.scope(), client.receive, client.send))
        for total in (2, 4):
            tap.chunks.put_nowait(LINE)
            await until(lambda total=total: sum(counted(recorder, "tokens")) == total)
        assert counted(recorder, "last") == counted(recorder, "calls") == []
        tap.chunks.put_nowait(LINE)
        tap.chunks.put_nowait(None)
        await serving
        await asyncio.sleep(0.03)

    asyncio.run(run())
    assert counted(recorder, "tokens") == [2, 2, 2]
    assert counted(recorder, "last") == [2]
    assert counted(recorder, "calls") == [1]
    assert len({event.id for event in recorder.events}) == len(recorder.events)


@pytest.mark.parametrize(("on_abort", "parts"), [("measured", [2, 2]), ("none", [])])
def test_what_is_left_of_a_broken_stream_follows_its_rule(
    kit: Any, on_abort: str, parts: list[int]
) -> None:
    """`none` counts nothing of an unfinished stream, so no part of it is recorded before."""
    recorder = kit.ManualRecorder()

    async def run() -> None:
        tap = Tap(kit)
        app = kit.wrap(tap, recorder, SUMMED % on_abort, part_interval_s=0.01)
        client = kit.Client()
        serving = asyncio.ensure_future(app(kit.scope(), client.receive, client.send))
        tap.chunks.put_nowait(LINE)
        await asyncio.sleep(0.05)
        tap.chunks.put_nowait(LINE)
        await until(lambda: client.body == LINE + LINE)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(run())
    found = [int(e.quantity) for e in recorder.events if e.policy == "tokens" and e.quantity]
    assert found == parts


def test_a_stream_whose_parts_were_all_recorded_adds_nothing(kit: Any) -> None:
    """No event of 0, and none without a quantity, follows the last part."""
    recorder = kit.ManualRecorder()

    async def run() -> None:
        tap = Tap(kit)
        app = kit.wrap(tap, recorder, SUMMED % "measured", part_interval_s=0.01)
        client = kit.Client()
        serving = asyncio.ensure_future(app(kit.scope(), client.receive, client.send))
        tap.chunks.put_nowait(LINE)
        await until(lambda: counted(recorder, "tokens"))
        tap.chunks.put_nowait(None)
        await serving

    asyncio.run(run())
    assert counted(recorder, "tokens") == [2]


def test_the_end_waits_for_the_part_before_it(kit: Any) -> None:
    """The client has the end of a stream only when all of its usage is on disk."""
    recorder = kit.ManualRecorder(at_once=False)

    async def run() -> None:
        tap = Tap(kit)
        toml = SUMMED.split("[[policy]]")[1] % "measured"
        app = kit.wrap(tap, recorder, "[[policy]]" + toml, part_interval_s=0.01)
        client = kit.Client()
        serving = asyncio.ensure_future(app(kit.scope(), client.receive, client.send))
        tap.chunks.put_nowait(LINE)
        await until(lambda: counted(recorder, "tokens"))
        tap.chunks.put_nowait(None)
        await asyncio.sleep(0.02)
        assert client.outgoing[-1].get("more_body") is True
        recorder.holds[-1].release(durable=True)
        await serving

    asyncio.run(run())


def test_a_stream_that_is_over_is_not_recorded_again(kit: Any) -> None:
    """The timer fires once more, and one timer serves many chunks."""
    recorder, timers = kit.ManualRecorder(), []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        later = loop.call_later

        def noted(*args: Any) -> asyncio.TimerHandle:
            timers.append(args)
            return later(*args)

        loop.call_later = noted  # type: ignore[method-assign, assignment]
        tap = Tap(kit)
        app = kit.wrap(tap, recorder, SUMMED % "measured", part_interval_s=0.02)
        client = kit.Client()
        for _ in range(5):
            tap.chunks.put_nowait(LINE)
        tap.chunks.put_nowait(None)
        await app(kit.scope(), client.receive, client.send)
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert counted(recorder, "tokens") == [10]
    assert len([args for args in timers if args[0] == 0.02]) == 1
