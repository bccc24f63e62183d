"""Event streams through the middleware: every chunk passes at once, and the usage is counted."""

import asyncio
import gzip
import importlib
import json
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.events import UsageEvent

LAST = """
[[policy]]
name = "tokens"
match = "GET /metered"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total"
"""
SUM = (
    LAST.replace('"tokens"', '"pieces"')
    .replace("AI_TOKEN", "PIECE")
    .replace('"response.body.usage.total"', '"response.body.n"\nstream = "sum"')
)
COUNT = (
    LAST.replace('"tokens"', '"calls"')
    .replace("AI_TOKEN", "API_CALL")
    .replace('"response.body.usage.total"', "1")
)
DOCUMENTS: list[Any] = [
    {"n": 1, "usage": None},
    {"text": '"n": 100', "usage": {"total": 5}},
    {"n": 0.25, "usage": {"total": 9}},
    {"n": 10**20, "deep": [{"n": 7, "usage": {"total": 1000}}]},
    {"usage": {"total": 21}, "choices": []},
]
TOTAL, PIECES = Decimal(21), Decimal("100000000000000000001.25")
SSE, NDJSON, SEQ = b"text/event-stream", b"application/x-ndjson", b"application/json-seq"
FRAMES: dict[bytes, Callable[[str], bytes]] = {
    SSE: lambda text: f"event: chunk\r\ndata: {text}\r\n\r\n".encode(),
    NDJSON: lambda text: f"{text}\n".encode(),
    SEQ: lambda text: f"\x1e{text}\n".encode(),
}
STREAMS = {
    kind: b"".join(frame(json.dumps(each)) for each in DOCUMENTS) for kind, frame in FRAMES.items()
}
STREAMS[SSE] = b"\xef\xbb\xbf: hello\n\n" + STREAMS[SSE] + b"data: [DONE]\n\n"
ENCODERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": importlib.import_module("brotli").compress,
    b"zstd": importlib.import_module("backports.zstd").compress,
}
EVENT_OF_5 = FRAMES[SSE]('{"n": 1, "usage": {"total": 5}}')


def cut(stream: bytes, size: int) -> list[bytes]:
    """The stream in chunks of this size."""
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def messages(
    kit: Any, kind: bytes, chunks: Iterable[bytes], *headers: tuple[bytes, bytes]
) -> list[Message]:
    """A whole response of these chunks."""
    begin = kit.start(200, (b"content-type", kind), *headers)
    return [begin, *(kit.body(chunk, more=True) for chunk in chunks), kit.body()]


def serve(kit: Any, app: ASGIApp, toml: str, **options: Any) -> tuple[list[Message], Any]:
    """What the client of one request got, and what was recorded, by metric."""
    recorder, client = kit.ManualRecorder(), kit.Client()
    asyncio.run(kit.wrap(app, recorder, toml, **options)(kit.scope(), client.receive, client.send))
    return client.outgoing, by_metric(recorder.events)


def by_metric(events: Iterable[UsageEvent]) -> dict[str, UsageEvent]:
    """The events, none of which share a metric."""
    found = {event.metric: event for event in events}
    assert len(found) == len(list(events))
    return found


def same(got: list[Message], sent: list[Message]) -> bool:
    """Whether the client got the app's own messages."""
    return len(got) == len(sent) and all(a is b for a, b in zip(got, sent, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("kind", STREAMS)
def test_two_policies_read_one_stream(kit: Any, kind: bytes, size: int) -> None:
    """The last total and the sum of the pieces, exact, wherever the chunks are cut."""
    sent = messages(kit, kind, cut(STREAMS[kind], size))
    got, events = serve(kit, kit.answering(*sent), LAST + SUM + COUNT)
    assert same(got, sent)
    found = {metric: (event.state, event.quantity) for metric, event in events.items()}
    assert found == {
        "AI_TOKEN": ("counted", TOTAL),
        "PIECE": ("counted", PIECES),
        "API_CALL": ("counted", Decimal(1)),
    }


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the kit keeps nothing
)
@given(
    kind=st.sampled_from(sorted(STREAMS)), coding=st.sampled_from([b"", *ENCODERS]), data=st.data()
)
def test_any_chunks_are_the_same_stream(
    kit: Any, kind: bytes, coding: bytes, data: st.DataObject
) -> None:
    """Encoded or not: what is counted depends on the bytes, not on how they are cut."""
    body = ENCODERS[coding](STREAMS[kind]) if coding else STREAMS[kind]
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=8).map(sorted))
    chunks = [body[a:b] for a, b in pairwise([0, *cuts, len(body)])]
    headers = [(b"content-encoding", coding)] if coding else []
    sent = messages(kit, kind, chunks, *headers)
    got, events = serve(kit, kit.answering(*sent), LAST + SUM)
    assert same(got, sent)
    assert (events["AI_TOKEN"].quantity, events["PIECE"].quantity) == (TOTAL, PIECES)


def test_a_stream_with_a_length_is_held_at_its_last_byte(kit: Any) -> None:
    """The message that reaches the length completes it, so the usage is in the one before."""
    body = STREAMS[SSE]
    sent = messages(kit, SSE, [body], (b"content-length", b"%d" % len(body)))
    got, events = serve(kit, kit.answering(*sent), LAST)
    assert same(got, sent)
    assert events["AI_TOKEN"].quantity == TOTAL


@pytest.mark.parametrize("size", [1, 40, 10_000])
def test_each_chunk_is_passed_on_before_the_next(kit: Any, size: int) -> None:
    """`send` returns when the client has the chunk; only the last message waits for the disk."""
    recorder, client = kit.ManualRecorder(at_once=False), kit.Client()
    sent = messages(kit, SSE, cut(STREAMS[SSE], size))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for number, message in enumerate(sent[:-1], start=1):
            await send(message)
            assert len(client.outgoing) == number
        await send(sent[-1])

    async def run() -> None:
        metered = kit.wrap(app, recorder, LAST + SUM)
        serving = asyncio.ensure_future(metered(kit.scope(), client.receive, client.send))
        while not recorder.holds:  # noqa: ASYNC110 - it is the loop's own work
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)
        assert same(client.outgoing, sent[:-1])
        recorder.holds[0].set_result(True)
        await serving

    asyncio.run(run())
    assert same(client.outgoing, sent)


# Streams that are cut short


class ClientLeaves:
    """The app is told that the client has gone, and stops."""

    reason = "the client disconnected"

    async def __call__(self, receive: Receive) -> None:
        """End as apps do."""
        assert (await receive())["type"] == "http.disconnect"


class AppRaises:
    """The app fails."""

    reason = "the app raised ValueError"

    async def __call__(self, receive: Receive) -> None:
        """End badly."""
        raise ValueError("mine")


class AppStops:
    """The app returns without a last message."""

    reason = "the app ended without completing its response"

    async def __call__(self, receive: Receive) -> None:
        """End too early."""


class AppIsCancelled:
    """A server that cancels the apps of clients that left."""

    reason = "the app raised CancelledError"

    async def __call__(self, receive: Receive) -> None:
        """End at once."""
        raise asyncio.CancelledError


ENDS = [ClientLeaves(), AppRaises(), AppStops(), AppIsCancelled()]


def cut_short(kit: Any, end: Any, toml: str, *chunks: bytes, coding: bytes = b"") -> Any:
    """The events of a stream that ends so after these chunks, all of which the client got."""
    headers = [(b"content-encoding", coding)] if coding else []
    sent = messages(kit, SSE, chunks, *headers)[:-1]
    recorder, client = kit.ManualRecorder(), kit.Client([{"type": "http.disconnect"}])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in sent:
            await send(message)
        await end(receive)

    async def run() -> None:
        with suppress(ValueError, asyncio.CancelledError):
            await kit.wrap(app, recorder, toml)(kit.scope(), client.receive, client.send)

    asyncio.run(run())
    assert same(client.outgoing, sent)
    return by_metric(recorder.events)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize(
    ("on_abort", "state", "explained"),
    [("measured", "counted", True), ("full", "counted", False), ("none", "skipped", True)],
)
def test_a_stream_that_is_cut_short_follows_on_abort(
    kit: Any, end: Any, on_abort: str, state: str, *, explained: bool
) -> None:
    """What came until then is counted, or nothing is; the event says why."""
    toml = "".join(text + f'on_abort = "{on_abort}"\n' for text in (LAST, SUM, COUNT))
    events = cut_short(kit, end, toml, EVENT_OF_5, EVENT_OF_5, b"data: {")
    quantities = {"AI_TOKEN": Decimal(5), "PIECE": Decimal(2), "API_CALL": Decimal(1)}
    for metric, event in events.items():
        assert event.state == state
        assert event.identity.value == "acct_1"
        assert event.quantity == (quantities[metric] if state == "counted" else None)
        assert event.reason == (f"aborted: {end.reason}" if explained else None)
    assert events.keys() == quantities.keys()


@pytest.mark.parametrize("on_abort", ["measured", "full"])
def test_a_stream_that_is_cut_before_its_usage_needs_a_person(kit: Any, on_abort: str) -> None:
    """Nobody knows how much it was; that is not 0."""
    toml = LAST + f'on_abort = "{on_abort}"\n'
    event = cut_short(kit, ClientLeaves(), toml, b'data: {"text": "a"}\n\n')["AI_TOKEN"]
    assert (event.state, event.quantity) == ("inbox", None)
    assert "response.body.usage.total is in no event of the stream" in event.reason
    assert ("the client disconnected" in event.reason) == (on_abort == "measured")


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_an_encoded_stream_that_is_cut_short_is_measured(kit: Any, coding: bytes) -> None:
    """Up to where it was flushed: an encoding without its end is no fault of an aborted stream."""
    wbits = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}[coding]
    encoder = zlib.compressobj(wbits=wbits)
    chunks = [encoder.compress(EVENT_OF_5) + encoder.flush(zlib.Z_SYNC_FLUSH) for _ in range(2)]
    events = cut_short(kit, ClientLeaves(), LAST + SUM, *chunks, coding=coding)
    assert (events["AI_TOKEN"].quantity, events["PIECE"].quantity) == (Decimal(5), Decimal(2))
    assert {event.reason for event in events.values()} == {"aborted: the client disconnected"}


def test_an_encoded_stream_may_go_on_for_ever(kit: Any) -> None:
    """The bound is of what comes at once; together it may be more."""
    encoder = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    chunks = [encoder.compress(EVENT_OF_5) + encoder.flush(zlib.Z_SYNC_FLUSH) for _ in range(20)]
    sent = messages(kit, SSE, [*chunks, encoder.flush()], (b"content-encoding", b"gzip"))
    got, events = serve(kit, kit.answering(*sent), SUM, decoded_bytes_max=2 * len(EVENT_OF_5))
    assert same(got, sent)
    assert (events["PIECE"].state, events["PIECE"].quantity) == ("counted", Decimal(20))


def test_an_encoded_stream_without_its_end_is_told(kit: Any) -> None:
    """The app says that it is whole, and it is not: what came counts, as of any cut stream."""
    body = gzip.compress(STREAMS[SSE])[:-6]
    sent = messages(kit, SSE, cut(body, 50), (b"content-encoding", b"gzip"))
    got, events = serve(kit, kit.answering(*sent), LAST)
    assert same(got, sent)
    assert events["AI_TOKEN"].state == "counted"
    reason = "aborted: the response ends before its content encoding does"
    assert events["AI_TOKEN"].reason == reason


def test_a_client_that_leaves_after_the_end_had_everything(kit: Any) -> None:
    """The app may still wait for the disconnect; nothing is aborted by it."""
    sent = messages(kit, SSE, [EVENT_OF_5])
    client, recorder = kit.Client([{"type": "http.disconnect"}]), kit.ManualRecorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in sent:
            await send(message)
        await receive()

    asyncio.run(kit.wrap(app, recorder, LAST)(kit.scope(), client.receive, client.send))
    (event,) = recorder.events
    assert (event.state, event.quantity, event.reason) == ("counted", Decimal(5), None)


# Streams that cannot be measured


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("size", [17, 100_000])
def test_an_event_beyond_the_bound_is_told(kit: Any, kind: bytes, size: int) -> None:
    """It passes, it spoils a sum, and a later event is the last one all the same."""
    frame = FRAMES[kind]
    large = json.dumps({"n": 1, "pad": "x" * 2_000, "usage": {"total": 1}})
    stream = frame('{"n": 1}') + frame(large) + frame('{"usage": {"total": 8}}')
    sent = messages(kit, kind, cut(stream, size))
    got, events = serve(kit, kit.answering(*sent), LAST + SUM, stream_event_bytes_max=1_000)
    assert same(got, sent)
    assert (events["AI_TOKEN"].state, events["AI_TOKEN"].quantity) == ("counted", Decimal(8))
    assert (events["PIECE"].state, events["PIECE"].quantity) == ("inbox", None)
    assert events["PIECE"].reason == "an event of the stream is too large to be measured"


@pytest.mark.parametrize(
    ("stream", "quantity", "reason"),
    [
        (b"", None, "response.body.usage.total is in no event of the stream"),
        (b"data: [DONE]\n\n", None, "response.body.usage.total is in no event of the stream"),
        (b'data: {"usage": {"total": 0}}\n\n', Decimal(0), None),
        (b'data: {"usage": {"total": 4}}', Decimal(4), None),
        (b'data: {"usage": {"total": -4}}\n\n', None, "response.body.usage.total: negative"),
        (
            b'data: {"usage": {"total": "4"}}\n\n',
            None,
            "response.body.usage.total is text, not a number",
        ),
        (b'data: {"usage": {"total": 4}\n\n', None, "response.body.usage.total is in no event"),
    ],
)
def test_what_a_stream_says_is_taken_at_its_word(
    kit: Any, stream: bytes, quantity: Decimal | None, reason: str | None
) -> None:
    """0 is 0, an end without an empty line is an end, and what is no number is told."""
    _, events = serve(kit, kit.answering(*messages(kit, SSE, [stream])), LAST)
    event = events["AI_TOKEN"]
    assert event.quantity == quantity
    assert event.state == ("inbox" if reason else "counted")
    assert (event.reason or "").startswith(reason or "")
