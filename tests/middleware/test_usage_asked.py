"""The option include_usage from end to end: the endpoint is asked, the client does not notice."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usageflow._types import Message, Receive, Scope, Send
from usageflow.middleware.hops import CLAIMED

CHAT = """
[[policy]]
name = "tokens"
match = "POST /v1/chat"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total_tokens"
include_usage = true
"""
CALLS = """
[[policy]]
name = "calls"
match = "POST /v1/chat"
identify = [ { from = "metadata", name = "tenant" } ]
field = "account_id"
metric = "API_CALL"
when = "request"
"""
JSON_TYPE = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
UNASKED = b'{"model": "m", "stream": true, "seed": 1e2}'
ASKED = b'{"stream_options":{"include_usage":true},"model": "m", "stream": true, "seed": 1e2}'
ASKING = b'{"stream": true, "stream_options": {"include_usage": true}}'
REFUSING = b'{"stream": true, "stream_options": {"include_usage": false}}'
WHOLE = b'{"model": "m"}'


def event(document: Any, end: str = "\n\n") -> bytes:
    """An event with this JSON."""
    return f"data: {json.dumps(document)}{end}".encode()


DELTAS = [
    event({"choices": [{"delta": {"content": text}}]})
    for text in ("Hé", '"choices":[]', " data: [DONE]")
]
LAST = event({"choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
STREAM = b"".join(DELTAS) + DONE
REPORTING = b"".join(DELTAS) + LAST + DONE


class Endpoint:
    """An OpenAI-style endpoint: reports usage in a stream if it is asked to, else in the answer.

    Keeps what it was given. `sizes` are those of its chunks.
    """

    def __init__(self, *sizes: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.scope: Scope = {}
        self.messages: list[Message] = []
        self.sizes = sizes
        self.headers = list(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        self.scope = scope
        scope.setdefault("state", {})["tenant"] = "acct_2"
        self.messages.append(await receive())
        while self.messages[-1].get("more_body"):
            self.messages.append(await receive())
        if self.messages[-1]["type"] == "http.disconnect":
            return
        try:
            request = json.loads(self.body)
        except ValueError:
            request = None
        if not isinstance(request, dict) or not request.get("stream"):
            content = json.dumps({"choices": [{}], "usage": USAGE}).encode()
            await self._answer(send, JSON_TYPE, [content])
            return
        options = request.get("stream_options") or {}
        stream = REPORTING if options.get("include_usage") else STREAM
        await self._answer(send, EVENT_STREAM, cut(stream, self.sizes))

    @property
    def body(self) -> bytes:
        """The request's body."""
        return b"".join(message.get("body", b"") for message in self.messages)

    async def _answer(
        self, send: Send, content_type: tuple[bytes, bytes], chunks: list[bytes]
    ) -> None:
        headers = [content_type, *self.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})


def cut(stream: bytes, sizes: Iterable[int]) -> list[bytes]:
    """The stream in chunks of these sizes; the last one has the rest."""
    ends = [0]
    for size in sizes:
        ends.append(min(ends[-1] + size, len(stream)))
    return [stream[a:b] for a, b in pairwise([*ends, len(stream)])]


def request(body: bytes, size: int = 1_000_000) -> list[Message]:
    """The messages of a request with this body, in chunks of this size."""
    chunks = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    return [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
        for number, chunk in enumerate(chunks, start=1)
    ]


class Call:
    """One request through the middleware: what the client got and what was recorded."""

    def __init__(
        self,
        kit: Any,
        app: Any,
        incoming: list[Message],
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        toml: str = CHAT,
        state: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.recorder = kit.ManualRecorder()
        self.client = kit.Client(list(incoming))
        scope = kit.scope(
            method="POST",
            path="/v1/chat",
            headers=[(b"x-account", b"acct_1"), JSON_TYPE, *headers],
            **({} if state is None else {"state": state}),
        )
        metered = kit.wrap(app, self.recorder, toml, **options)
        self.scope = dict(scope)
        asyncio.run(metered(scope, self.client.receive, self.client.send))

    @property
    def tokens(self) -> tuple[str, Decimal | None, str | None]:
        """State, quantity and reason of the tokens."""
        (found,) = [each for each in self.recorder.events if each.metric == "AI_TOKEN"]
        return found.state, found.quantity, found.reason

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The response's headers."""
        return dict(self.client.outgoing[0]["headers"])


COUNTED = ("counted", Decimal(21), None)


@pytest.mark.parametrize("sizes", [(), (1,) * 300, (50, 3, 100), (len(b"".join(DELTAS)),)])
def test_who_does_not_ask_gets_the_stream_without_the_usage(
    kit: Any, sizes: tuple[int, ...]
) -> None:
    """Byte for byte what the endpoint would have sent; the usage is counted."""
    endpoint = Endpoint(*sizes)
    call = Call(kit, endpoint, request(UNASKED))
    assert endpoint.body == ASKED
    assert call.client.body == STREAM
    assert call.tokens == COUNTED


def test_who_asks_gets_everything(kit: Any) -> None:
    """Nothing is changed in either direction; the messages are the app's own."""
    endpoint = Endpoint(30, 30)
    incoming = request(ASKING, 20)
    call = Call(kit, endpoint, incoming)
    assert [a is b for a, b in zip(endpoint.messages, incoming, strict=True)] == [True] * 3
    assert endpoint.scope["headers"] == call.scope["headers"]
    assert call.client.body == REPORTING
    assert call.tokens == COUNTED


def test_who_refuses_is_obeyed(kit: Any) -> None:
    """The stream stays unmeasured, and a person reads why."""
    endpoint = Endpoint()
    call = Call(kit, endpoint, request(REFUSING))
    assert (endpoint.body, call.client.body) == (REFUSING, STREAM)
    assert call.tokens == (
        "inbox",
        None,
        "response.body.usage.total_tokens is in no event of the stream",
    )


def test_a_request_without_a_stream_is_not_touched(kit: Any) -> None:
    """Its answer has the usage anyway."""
    endpoint = Endpoint()
    incoming = request(WHOLE)
    call = Call(kit, endpoint, incoming, headers=[(b"accept-encoding", b"gzip, br")])
    assert endpoint.messages[0] is incoming[0]
    assert endpoint.scope["headers"] == call.scope["headers"]
    assert json.loads(call.client.body)["usage"] == USAGE
    assert call.tokens == COUNTED


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_changed_request_is_a_good_one(kit: Any, size: int, *, chunked: bool) -> None:
    """However its body comes: its length follows, and its answer will be readable."""
    framing = (
        (b"transfer-encoding", b"chunked") if chunked else (b"content-length", b"%d" % len(UNASKED))
    )
    endpoint = Endpoint()
    encodings = (b"accept-encoding", b"gzip, br")
    call = Call(kit, endpoint, request(UNASKED, size), headers=[framing, encodings])
    told = framing if chunked else (b"content-length", b"%d" % len(ASKED))
    assert endpoint.scope["headers"] == [
        (b"x-account", b"acct_1"),
        JSON_TYPE,
        told,
        (b"accept-encoding", b"identity"),
    ]
    assert endpoint.messages == [{"type": "http.request", "body": ASKED, "more_body": False}]
    assert call.scope["headers"][-2:] == [framing, encodings]
    assert call.client.body == STREAM


def test_a_large_request_passes_as_it_comes(kit: Any) -> None:
    """In the client's own messages; none waits for the last one."""
    body = UNASKED[:-1] + b', "pad": "' + b"x" * 500 + b'"}'
    incoming = request(body, 100)
    endpoint = Endpoint()
    call = Call(kit, endpoint, incoming, body_bytes_max=250)
    assert [a is b for a, b in zip(endpoint.messages, incoming, strict=True)] == [True] * 6
    assert hashlib.sha256(endpoint.body).digest() == hashlib.sha256(body).digest()
    assert call.client.body == STREAM
    assert call.tokens[0] == "inbox"


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_a_client_that_leaves_while_it_uploads(kit: Any, sent: int) -> None:
    """The app is told all of it, in the order in which it came."""
    incoming = [*request(UNASKED, 20)[:sent], {"type": "http.disconnect"}]
    endpoint = Endpoint()
    call = Call(kit, endpoint, incoming, toml=CHAT + CALLS)
    assert [a is b for a, b in zip(endpoint.messages, incoming, strict=True)] == [True] * (sent + 1)
    assert call.client.outgoing == []
    (event,) = call.recorder.events
    assert (event.metric, event.reason) == ("API_CALL", "aborted: the client disconnected")


def test_an_encoded_answer_passes_as_it_is(kit: Any) -> None:
    """An endpoint that encodes all the same: measured, and not filtered."""
    encoded = gzip.compress(REPORTING)
    headers = [EVENT_STREAM, (b"content-encoding", b"gzip")]
    sent = [kit.start(200, *headers), *(kit.body(encoded[:40], more=True), kit.body(encoded[40:]))]
    call = Call(kit, kit.answering(*sent), request(UNASKED))
    assert call.client.body == encoded
    assert call.headers == dict(headers)
    assert call.tokens == COUNTED


def test_an_answer_that_is_no_stream_passes_as_it_is(kit: Any) -> None:
    """An error, for instance, with its length."""
    content = b'{"error": {"choices": [], "usage": {"total_tokens": 3}}}'
    length = (b"content-length", b"%d" % len(content))
    app = kit.answering(kit.start(400, JSON_TYPE, length), kit.body(content))
    call = Call(kit, app, request(UNASKED))
    assert (call.client.body, call.headers) == (content, dict([JSON_TYPE, length]))
    assert call.recorder.events == []


def test_a_length_of_the_whole_stream_is_not_told(kit: Any) -> None:
    """The client's stream is shorter; the other headers stay, also if they can be read once."""
    length = (b"Content-Length", b"%d" % len(REPORTING))
    begin = kit.start(200)
    begin["headers"] = iter([EVENT_STREAM, length, (b"x-id", b"7")])
    app = kit.answering(begin, kit.body(REPORTING, more=True), kit.body())
    call = Call(kit, app, request(UNASKED))
    assert call.headers == dict([EVENT_STREAM, (b"x-id", b"7")])
    assert call.client.body == STREAM
    assert call.tokens == COUNTED


def test_the_end_waits_for_the_disk(kit: Any) -> None:
    """What the option changes does not change when a client may see the end."""
    recorder, client = kit.ManualRecorder(at_once=False), kit.Client(request(UNASKED))
    scope = kit.scope("POST", "/v1/chat", [(b"x-account", b"a"), JSON_TYPE])

    async def run() -> None:
        metered = kit.wrap(Endpoint(40), recorder, CHAT)
        serving = asyncio.ensure_future(metered(scope, client.receive, client.send))
        while not recorder.holds:  # noqa: ASYNC110 - it is the loop's own work
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)
        assert all(message.get("more_body", True) for message in client.outgoing)
        assert client.body == STREAM
        recorder.holds[0].set_result(True)
        await serving
        assert not client.outgoing[-1].get("more_body", False)

    asyncio.run(run())


@pytest.mark.parametrize("body", [UNASKED, ASKING, WHOLE])
def test_what_the_app_says_in_its_scope_is_heard(kit: Any, body: bytes) -> None:
    """The scope of a changed request is another one; metadata is read from the app's."""
    call = Call(kit, Endpoint(), request(body), toml=CHAT + CALLS)
    (event,) = [each for each in call.recorder.events if each.metric == "API_CALL"]
    assert (event.state, event.identity.value) == ("counted", "acct_2")


def test_the_app_has_what_the_server_gave_it(kit: Any) -> None:
    """All of its scope but the headers, and the very state that its lifespan has filled.

    What the edge notes for further edges in this process is beside it.
    """
    endpoint, state = Endpoint(), {"pool": object()}
    call = Call(kit, endpoint, request(UNASKED), state=state)
    assert endpoint.body == ASKED
    assert endpoint.scope["state"] is state
    del endpoint.scope[CLAIMED]
    assert {**endpoint.scope, "headers": call.scope["headers"]} == call.scope


@pytest.mark.parametrize("end", [b"data: {", b'data: {"choices": [], "usage": nu', b"\n", b""])
def test_a_stream_that_ends_in_an_event_has_its_end(kit: Any, end: bytes) -> None:
    """What was held back because it might have become the usage is the client's."""
    whole = b"".join(DELTAS)
    app = kit.answering(
        kit.start(200, EVENT_STREAM), kit.body(whole + LAST + end, more=True), kit.body()
    )
    assert Call(kit, app, request(UNASKED)).client.body == whole + end


def test_an_app_that_does_not_read_is_served(kit: Any) -> None:
    """It answers at once; the client's body was read for nothing."""
    app = kit.answering(kit.start(200, EVENT_STREAM), kit.body(REPORTING))
    call = Call(kit, app, request(UNASKED, 5))
    assert call.client.body == STREAM
    assert call.tokens == COUNTED


def test_a_client_that_goes_on_after_its_body_is_heard(kit: Any) -> None:
    """What comes after the body, such as the disconnect, comes from the server itself."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])

    Call(kit, app, [*request(UNASKED), {"type": "http.disconnect"}])
    assert seen == ["http.request", "http.disconnect"]


def test_a_server_that_cancels_an_upload_leaves_a_row(kit: Any) -> None:
    """The app never ran, but a policy that counts every request counts this one."""
    recorder = kit.ManualRecorder()
    client = kit.Client(request(UNASKED, 20)[:1])
    scope = kit.scope("POST", "/v1/chat", [(b"x-account", b"a"), JSON_TYPE])

    async def run() -> None:
        metered = kit.wrap(Endpoint(), recorder, CHAT + CALLS)
        serving = asyncio.ensure_future(metered(scope, client.receive, client.send))
        await asyncio.sleep(0.005)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving

    asyncio.run(run())
    assert [(each.metric, each.state) for each in recorder.events] == [("API_CALL", "inbox")]


BODIES = st.sampled_from([UNASKED, ASKING, REFUSING, WHOLE, b"", b"{", b"\xff", b"[]"])
SIZES = st.lists(st.integers(0, 120), max_size=12)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the kit keeps nothing
)
@given(body=BODIES, size=st.integers(1, 100), sizes=SIZES)
def test_the_client_gets_what_it_would_have_got(
    kit: Any, body: bytes, size: int, sizes: list[int]
) -> None:
    """With and without the middleware, however request and response are cut."""
    plain, metered = Endpoint(*sizes), Endpoint(*sizes)
    alone = kit.Client(request(body, size))
    asyncio.run(plain(kit.scope(), alone.receive, alone.send))
    call = Call(kit, metered, request(body, size))
    assert call.client.body == alone.body
    assert call.client.outgoing[0] == alone.outgoing[0]
    assert (metered.body == plain.body) == (body != UNASKED)
