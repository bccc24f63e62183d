"""Whatever an app, a client and a server do: nothing changes but that usage is recorded, once.

Random conversations run twice, without the middleware and with it, under policies of every kind.
"""

import asyncio
import gzip
import importlib
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, cast

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.config import Settings
from usageflow.events import UsageEvent, decode, encode
from usageflow.middleware import FixedFeed, UsageFlowMiddleware
from usageflow.middleware.exchange import Exchange
from usageflow.middleware.limits import Limits
from usageflow.policies import PolicySet, evaluate, parse_file
from usageflow.policies.surroundings import Surroundings
from usageflow.recorder import Hold, Recorder

ENVIRONMENT = {"JWT_SECRET": "j" * 32, "KEY_SECRET": "k" * 32}
HEADER = '{ from = "header", name = "x-account" }'
SOURCES = {
    "header": HEADER,
    "query": '{ from = "query", name = "account" }',
    "path": '{ from = "path", name = "id" }',
    "body": '{ from = "body", path = "account" }',
    "deep_body": '{ from = "body", path = "items[?n > `1`] | [0].account" }',
    "cookie": '{ from = "cookie", name = "account", normalize = ["trim", "lower"] }',
    "hashed_key": '{ from = "api_key", header = "x-api-key", secret = "env:KEY_SECRET" }',
    "owned_key": f'{{ from = "api_key", query = "key", owners = {{ "{"a" * 64}" = "acct" }} }}',
    "token": '{ from = "jwt", claim = "sub", secret = "env:JWT_SECRET" }',
    "no_secret": '{ from = "jwt", claim = "sub", secret = "env:NOT_SET" }',
    "unverified": '{ from = "jwt", cookie = "t", claim = "org.id", unverified = true }',
    "state": '{ from = "metadata", name = "tenant.id" }',
    "fixed": '{ from = "metadata", value = "acct_fixed" }',
    "table": '{ from = "metadata", header = "host", table = { "api.test" = "acct_host" } }',
    "several": '{ from = "query", name = "nobody" }, { from = "path", name = "id" }, ' + HEADER,
}
QUANTITIES = {
    "one": "1",
    "bytes_in": '"request.bytes"',
    "bytes_out": '"response.bytes"',
    "status": '"response.status"',
    "asked": '"request.body.n"',
    "answered": '"response.body.usage.total"',
    "last": '"response.body.n"',
    "sum": '"response.body.n"\nstream = "sum"',
    "sum_all": '"response.body.n"\nstream = "sum"\non_abort = "full"',
    "both": '"add(request.body.n, response.body.n)"\non_missing = 7',
    "items": '"sum(response.body.items[].n)"\non_missing = "skip"',
    "query": '"to_number(request.query.n)"',
    "headers": '"length(keys(response.headers))"',
    "param": '"to_number(request.params.id)"',
    "success": '1\nwhen = "success"',
    "answer": '1\nwhen = "response"\non_abort = "none"',
    "listed": '"response.body.n"\nwhen = [200, 404]',
    "shadow": '"response.body.n"\nmode = "shadow"',
    "condition": '1\nheader = { x-account = "acct_1" }',
}
POLICY = """
[[policy]]
name = "{name}"
match = "ANY /metered/:id"
identify = [ {source} ]
field = "account_id"
metric = "{name}"
quantity = {quantity}
"""
ALWAYS = 'when = "request"\n'


def table(name: str, source: str, quantity: str, more: str = "") -> str:
    """One policy; it counts every request if nothing else is said."""
    text = POLICY.format(name=name, source=source, quantity=quantity)
    return text + more + ("" if "when" in quantity else ALWAYS)


SETS = {
    "all": [
        *(table(name, source, '"response.body.n"') for name, source in SOURCES.items()),
        *(table(f"q_{name}", HEADER, quantity) for name, quantity in QUANTITIES.items()),
    ],
    "calls": [table("calls", HEADER, "1")],
    "closed": [table("calls", HEADER, '"request.bytes"', 'on_ledger_failure = "closed"\n')],
    "asked": [table("tokens", HEADER, '"response.body.usage.total"', "include_usage = true\n")],
}
SOCKETS = [
    table(name, source, quantity).replace("ANY", "WEBSOCKET")
    for name, source, quantity in [
        ("connections", HEADER, "1"),
        ("into", SOURCES["path"], '"websocket.messages_in"'),
        ("out", SOURCES["cookie"], '"websocket.messages_out"'),
        ("size", SOURCES["query"], '"websocket.bytes"'),
        ("seconds", SOURCES["token"], '"websocket.seconds"'),
        ("sent", SOURCES["state"], '"websocket.sent.n"'),
        ("received", SOURCES["fixed"], '"websocket.received.n"'),
        ("accepted", HEADER, '1\nwhen = "success"'),
    ]
]


@cache
def policies(name: str) -> PolicySet:
    """One of the sets, built once."""
    tables = SOCKETS if name == "sockets" else SETS[name]
    parsed = parse_file("".join(tables), "t")
    assert not parsed.problems, parsed.problems
    return PolicySet.build(parsed.policies, Surroundings(environ=ENVIRONMENT))


SMALL = Settings(
    body_bytes_max=64,
    decoded_bytes_max=128,
    stream_event_bytes_max=32,
    part_messages=3,
    part_interval_s=600,
)
"""Bounds that random messages reach."""
USUAL = Settings(part_messages=3, part_interval_s=600)


# What is sent

DOCUMENTS = [
    b'{"n": 3, "account": "acct_1", "usage": {"total": 5}}',
    b'{"n": 1.5, "items": [{"n": 1}, {"n": 2, "account": 9}], "account": null}',
    b'{"n": -1, "n": "x", "account": ["a"], "stream": true}',
    b'{"n": 1e400, "account": "a\\u0000\\n\\"b", "usage": 0}',
    b'{"stream": true, "stream_options": {"include_usage": true}}',
    b'{"n": NaN, "account": "\xff\xfe"}',
    b'{"account": "' + b"x" * 600 + b'", "n": ' + b"9" * 60 + b"}",
    b"[" * 2_000,
    b"\xef\xbb\xbf[1, 2]",
    b"account=acct_1&n=4&n=5&%ff=%zz",
    b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n4\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n4',
    b"",
]
STREAMS = [
    b'data: {"n": 1}\n\ndata: {"n": 2, "usage": {"total": 5}}\r\n\r\ndata: [DONE]\n\n',
    b'data: {"choices": [], "usage": {"total": 5}}\n\n\n\n',
    b'data: {"n": "x"}\n\ndata: {"n": 1}\n\ndata: {"n"',
    b'{"n": 1}\n\n{"n": 0.5}\n{"n": 1',
    b'\x1e{"n": 1}\n\x1e{"n": 1}\n',
    b"data:" + b"x" * 100,
]
CODINGS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": importlib.import_module("brotli").compress,
    b"zstd": importlib.import_module("backports.zstd").compress,
    b"gzip, x-unknown": bytes,
    b"identity": bytes,
    b"": bytes,
}
TYPES = [
    b"application/json",
    b"application/json; charset=utf-16",
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=b",
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/json-seq",
    b"text/plain",
    b";;=\xff",
]
TOKENS = [jwt.encode({"sub": sub}, "j" * 32).encode() for sub in ("acct_1", "a\x00\n")]

contents = st.sampled_from(DOCUMENTS + STREAMS) | st.binary(max_size=40)
codings = st.sampled_from(sorted(CODINGS))


@st.composite
def body_and_headers(
    draw: st.DrawFn, *, lengths: bool = True
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Chunks of a body and headers that tell the truth of it, or not."""
    coding, kind = draw(codings), draw(st.sampled_from(TYPES))
    body = CODINGS[coding](draw(contents))
    body = body[: draw(st.just(len(body)) | st.integers(0, len(body)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    ends = [0, *cuts, len(body)]
    chunks = [body[a:b] for a, b in pairwise(ends)]
    names = st.sampled_from([b"content-encoding", b"Content-Encoding"])
    headers = [(b"content-type", kind), (draw(names), coding)]
    honest = st.just(b"%d" % len(body))
    lies = st.sampled_from([b"0", b"1", b"7", b"-1", b"x", b"", b"9" * 30, b"\xb2", b"+5"])
    if lengths:
        told = draw(st.lists(honest | lies, max_size=2))
        headers += [(b"content-length", length) for length in told]
    return chunks, draw(st.permutations(headers))


@st.composite
def scopes(draw: st.DrawFn, kind: str = "http") -> dict[str, Any]:
    """A request that the policies match, with whatever a client may send."""
    fields = st.sampled_from(
        [
            (b"x-account", b"acct_1"),
            (b"x-account", b"acct_2"),
            (b"x-account", b""),
            (b"x-account", b"a\nb\x00\"'" + b"\xff" * 600),
            (b"host", b"api.test"),
            (b"cookie", b'account="Acct_1 "; t=x.y.z; ;=;;'),
            (b"cookie", b"account"),
            (b"x-api-key", b"key_\xe9"),
            (b"authorization", b"Bearer " + TOKENS[0]),
            (b"authorization", b"bearer " + TOKENS[1]),
            (b"authorization", b"Basic \xff"),
            (b"authorization", b"Bearer " + TOKENS[0][:-9]),
        ]
    )
    _, headers = draw(body_and_headers())
    headers = [*headers, *draw(st.lists(fields, max_size=6))]
    shape: Any = draw(st.sampled_from([list, tuple, iter]))
    segment = draw(
        st.sampled_from(["acct_1", "12", "\x00", "\n", '"', "\ud800", "%2F", "x" * 700, "é"])
    )
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "path": f"/metered/{segment}",
        "headers": lambda: shape(headers),
        **draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "query_string": st.sampled_from(
                        [
                            b"",
                            b"account=a&n=5",
                            b"account=%00&account=b",
                            b"n=%ff&account=%ff",
                            b"&",
                        ]
                    )
                    | st.binary(max_size=20),
                    "raw_path": st.sampled_from([None, b"", b"/metered/\xff"]),
                    "root_path": st.sampled_from(["", "/other"]),
                    "state": st.sampled_from([{}, {"tenant": {"id": "acct_3"}}, {"tenant": 5}]),
                    "extensions": st.just({}),
                },
            )
        ),
    }
    if kind == "http":
        scope["method"] = draw(st.sampled_from(["GET", "POST", "HEAD", "PROPFIND", "M\ud800"]))
    return scope


def given_scope(template: dict[str, Any]) -> dict[str, Any]:
    """A scope of its own for one run."""
    return {**template, "headers": template["headers"]()}


@st.composite
def uploads(draw: st.DrawFn) -> list[Message]:
    """What the server gives the app."""
    chunks, _ = draw(body_and_headers())
    more = draw(st.sampled_from([True, True, True, False]))
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    if not more:
        messages.append({"type": "http.request"})
    elif draw(st.booleans()):
        messages[-1] = {"type": "http.request", "body": chunks[-1], "more_body": False}
    at = draw(st.integers(0, len(messages)))
    return draw(
        st.sampled_from([messages, [*messages[:at], {"type": "http.disconnect"}, *messages[at:]]])
    )


Step = tuple[str, Any]


@st.composite
def orderly(draw: st.DrawFn) -> list[Step]:
    """What a good app does, up to some point."""
    chunks, headers = draw(body_and_headers())
    shape = draw(st.sampled_from([list, tuple, iter]))
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 304, 404, 500]))
    begin = {"type": "http.response.start", "status": status, "headers": (shape, headers)}
    sends: list[Step] = [("send", begin)]
    sends += [
        ("send", {"type": "http.response.body", "body": chunk, "more_body": True})
        for chunk in chunks
    ]
    if draw(st.booleans()):
        sends[-1] = ("send", {**sends[-1][1], "more_body": False})
    else:
        sends.append(("send", {"type": "http.response.body"}))
    if draw(st.integers(0, 5)) == 0:
        begin["trailers"] = True
        sends.append(("send", {"type": "http.response.trailers"}))
    steps: list[Step] = [("receive", None)] * draw(st.integers(0, 6)) + sends
    cut = draw(st.just(len(steps)) | st.integers(0, len(steps)))
    return steps[:cut] + draw(st.sampled_from([[], [], [("raise", None)], [("cancelled", None)]]))


anything = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "http.response.start",
                "http.response.body",
                "http.response.body",
                "http.response.trailers",
                "http.response.pathsend",
                "http.response.zerocopysend",
                "http.response.push",
                "http.response.debug",
                "made.up",
            ]
        ),
        "status": st.sampled_from([200, 101, 204, 304, 404, 999]),
    },
    optional={
        "headers": st.tuples(
            st.sampled_from([list, tuple, iter]),
            body_and_headers().map(lambda drawn: drawn[1]) | st.just([]),
        ),
        "body": contents,
        "more_body": st.booleans(),
        "trailers": st.booleans(),
        "more_trailers": st.booleans(),
        "path": st.just("/tmp/x"),
    },
)
chaos = st.lists(
    st.tuples(st.just("send"), anything)
    | st.sampled_from([("receive", None), ("yield", None), ("raise", None), ("cancelled", None)]),
    max_size=10,
)
scripts = orderly() | chaos


# One run


@dataclass
class Ledger:
    """A recorder; with a `client` its disk is done some turns of the loop later.

    `early` counts the turns at which the client had more than when the usage was recorded.
    """

    client: "Peer | None" = None
    events: list[UsageEvent] = field(default_factory=list)
    calls: int = 0
    early: int = 0
    healthy: bool = True

    def record(
        self, events: Sequence[UsageEvent], loop: asyncio.AbstractEventLoop | None = None
    ) -> Hold | None:
        """See Recorder.record."""
        self.calls += 1
        self.events.extend(events)
        if loop is None or self.client is None:
            return None
        hold = Hold(loop, 5)
        self._turn(hold, loop, len(self.client.outgoing), 3)
        return hold

    def _turn(self, hold: Hold, loop: asyncio.AbstractEventLoop, sent: int, turns: int) -> None:
        assert self.client is not None
        self.early += len(self.client.outgoing) > sent
        if turns:
            loop.call_soon(self._turn, hold, loop, sent, turns - 1)
        else:
            hold.release(True)


class Peer:
    """A server's side: gives `incoming`, then disconnects for ever; keeps what it is sent.

    From the send `breaks_at` on it raises, as servers do whose client is gone.
    """

    def __init__(self, incoming: list[Message], gone: str, breaks_at: int | None) -> None:
        self.incoming = list(incoming)
        self.given: list[Message] = []
        self.outgoing: list[Message] = []
        self._gone = gone
        self._breaks_at = breaks_at

    async def receive(self) -> Message:
        """The next message."""
        self.given.append(self.incoming.pop(0) if self.incoming else {"type": self._gone})
        return self.given[-1]

    async def send(self, message: Message) -> None:
        """Keep it; headers are read, once, as servers do."""
        if self._breaks_at is not None and len(self.outgoing) >= self._breaks_at:
            raise OSError
        await asyncio.sleep(0)
        self.outgoing.append(message)

    def said(self) -> list[Message]:
        """What was sent, with headers that can be compared."""
        return [
            {**message, "headers": list(message["headers"])} if "headers" in message else message
            for message in self.outgoing
        ]


def made(template: dict[str, Any]) -> Message:
    """A message of its own for one run; headers that can be read once are new."""
    if "headers" not in template:
        return dict(template)
    shape, headers = template["headers"]
    return {**template, "headers": shape(headers)}


class App:
    """Plays a script."""

    def __init__(self, script: list[Step]) -> None:
        self.script = script
        self.got: list[Message] = []
        self.sent: list[Message] = []
        self.error: BaseException | None = None
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do every step, and fail where the script says so."""
        self.headers = list(scope["headers"])
        for kind, what in self.script:
            if kind == "receive":
                self.got.append(await receive())
            elif kind == "send":
                self.sent.append(made(what))
                await send(self.sent[-1])
            elif kind == "yield":
                await asyncio.sleep(0)
            else:
                self.error = RuntimeError("mine") if kind == "raise" else asyncio.CancelledError()
                raise self.error


@dataclass
class Run:
    """One conversation: the app, its peer and what came out of it."""

    app: App
    peer: Peer
    error: BaseException | None = None

    async def play(self, served: ASGIApp, scope: Scope) -> "Run":
        """Serve it."""
        try:
            await served(scope, self.peer.receive, self.peer.send)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - compared below
            self.error = error
        return self


def metered(app: ASGIApp, ledger: Ledger, name: str, limits: Settings) -> UsageFlowMiddleware:
    """The middleware around the app."""
    return UsageFlowMiddleware(
        app,
        settings=limits,
        feed=FixedFeed(policies(name)),
        recorder=cast("Recorder", ledger),
    )


def both(
    name: str,
    template: dict[str, Any],
    incoming: list[Message],
    script: list[Step],
    *,
    slow: bool = False,
    breaks_at: int | None = None,
    limits: Settings = USUAL,
) -> tuple[Run, Run, Ledger]:
    """The conversation without the middleware and with it."""
    gone = "http.disconnect" if template["type"] == "http" else "websocket.disconnect"

    async def play() -> tuple[Run, Run, Ledger]:
        alone = Run(App(script), Peer(incoming, gone, breaks_at))
        await alone.play(alone.app, given_scope(template))
        with_it = Run(App(script), Peer(incoming, gone, breaks_at))
        ledger = Ledger(with_it.peer if slow else None)
        await with_it.play(metered(with_it.app, ledger, name, limits), given_scope(template))
        return alone, with_it, ledger

    return asyncio.run(play())


def assert_untouched(alone: Run, with_it: Run) -> None:
    """App and server have met as if nothing were between them."""
    assert type(with_it.error) is type(alone.error)
    if with_it.app.error is not None:
        assert with_it.error is with_it.app.error
    assert with_it.peer.said() == alone.peer.said()
    assert all(a is b for a, b in zip(with_it.peer.outgoing, with_it.app.sent, strict=False))
    assert [id(a) for a in with_it.app.got] == [id(a) for a in with_it.peer.given]
    assert with_it.app.got == alone.app.got
    assert with_it.app.headers == alone.app.headers


def assert_told(events: list[UsageEvent]) -> None:
    """Every event can be stored, and says who and how much, or why not."""
    for event in events:
        line = encode(event).rstrip(b"\n") if "\ud800" not in event.request_method else None
        assert line is None or decode(line) == event
        if event.state == "counted":
            assert event.quantity is not None
            assert event.identity.value
        if event.state in ("inbox", "skipped"):
            assert event.reason


COUNT_ALL = frozenset(
    text.split('"')[1] for text in SETS["all"] if ALWAYS in text and "x-account = " not in text
)
"""Policies that leave an event for every request."""


@settings(max_examples=300, deadline=None)
@given(
    template=scopes(),
    incoming=uploads(),
    script=scripts,
    server=st.tuples(st.booleans(), st.none() | st.integers(0, 3)),
    limits=st.sampled_from([SMALL, USUAL]),
)
def test_any_exchange_under_every_kind_of_policy(
    template: dict[str, Any],
    incoming: list[Message],
    script: list[Step],
    server: tuple[bool, int | None],
    limits: Settings,
) -> None:
    """It passes untouched, and leaves exactly one event for each policy that counts requests."""
    slow, breaks_at = server
    alone, with_it, ledger = both(
        "all", template, incoming, script, slow=slow, breaks_at=breaks_at, limits=limits
    )
    assert_untouched(alone, with_it)
    assert (ledger.calls, ledger.early) == (1, 0)
    left = Counter(event.policy for event in ledger.events)
    assert max(left.values()) == 1
    assert left.keys() >= COUNT_ALL
    assert_told(ledger.events)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["calls", "closed"]),
    template=scopes(),
    incoming=uploads(),
    script=scripts,
    slow=st.booleans(),
)
def test_a_policy_that_needs_no_body_counts_the_same(
    name: str,
    template: dict[str, Any],
    incoming: list[Message],
    script: list[Step],
    slow: bool,  # noqa: FBT001
) -> None:
    """One event for one request, also where nothing of it is kept."""
    alone, with_it, ledger = both(name, template, incoming, script, slow=slow)
    assert_untouched(alone, with_it)
    assert (ledger.calls, ledger.early) == (1, 0)
    (event,) = ledger.events
    assert event.quantity is not None
    if name == "calls":
        assert event.quantity == 1
    else:  # what the app read after its answer was complete is not in it
        assert int(event.quantity) in accumulate(lengths(with_it.app.got), initial=0)
    assert_told([event])


def lengths(messages: list[Message]) -> list[int]:
    """How much of a body each message has."""
    return [len(message.get("body", b"")) for message in messages]


@settings(max_examples=150, deadline=None)
@given(
    template=scopes(), incoming=uploads(), script=orderly(), limits=st.sampled_from([SMALL, USUAL])
)
def test_asking_for_usage_changes_what_it_says_and_nothing_else(
    template: dict[str, Any], incoming: list[Message], script: list[Step], limits: Settings
) -> None:
    """Requests that ask for no stream, and what answers them, pass as they are."""
    alone, with_it, ledger = both("asked", template, incoming, script, limits=limits)
    assert type(with_it.error) is type(alone.error)
    assert len(ledger.events) == 1
    assert_told(ledger.events)
    if with_it.app.headers == alone.app.headers:
        assert with_it.app.got == alone.app.got
        assert with_it.peer.said() == alone.peer.said()
    else:
        assert b"stream" in b"".join(message.get("body", b"") for message in with_it.app.got)
        assert sum(lengths(with_it.peer.outgoing)) <= sum(lengths(alone.peer.outgoing))


@settings(max_examples=200, deadline=None)
@given(template=scopes(), incoming=uploads(), script=scripts)
def test_an_exchange_keeps_little_and_completes_once(
    template: dict[str, Any], incoming: list[Message], script: list[Step]
) -> None:
    """Whatever passes, in whatever order: bounded memory, one completion, and facts to evaluate."""
    scope = given_scope(template) | {"headers": list(template["headers"]())}
    match = policies("all").match("POST", scope["path"], scope["headers"])
    assert match is not None
    subject = Exchange(match, scope, scope["path"], Limits.of(SMALL), started_at_s=1_800_000_000)
    completed = 0
    for message in incoming:
        subject.received(message)
    for kind, what in script:
        if kind == "send":
            completed += subject.sends(made(what))
        elif kind != "yield":
            subject.received({"type": "http.disconnect"})
        for body in (subject.request_body, subject.response_body):
            bound = SMALL.decoded_bytes_max if body._decoder else SMALL.body_bytes_max
            assert sum(map(len, body._chunks)) <= bound
            held = getattr(getattr(body._stream, "_splitter", None), "_held", b"")
            assert len(held) <= SMALL.stream_event_bytes_max + 2
    assert completed == subject.complete
    if not subject.complete:
        subject.abandon()
    ids = iter(range(1_000))
    events = evaluate(match, subject, now=datetime.now(UTC), new_id=lambda: str(next(ids)))
    assert {event.policy for event in events} >= COUNT_ALL
    assert_told(events)


def test_who_is_cancelled_while_the_disk_writes_is_counted_once() -> None:
    """The client does not get the end, the usage is there, and the cancellation passes."""
    template = {"type": "http", "method": "GET", "path": "/metered/1", "headers": list}
    script: list[Step] = [
        ("send", {"type": "http.response.start", "status": 200, "headers": (list, [])}),
        ("send", {"type": "http.response.body", "body": b"{}"}),
    ]

    async def play() -> None:
        run = Run(App(script), Peer([], "http.disconnect", None))
        ledger = Ledger(run.peer)
        app = metered(run.app, ledger, "all", USUAL)
        serving = asyncio.ensure_future(app(given_scope(template), run.peer.receive, run.peer.send))
        while not ledger.calls:  # noqa: ASYNC110 - it is the loop's own work
            await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert ledger.calls == 1
        assert [message["type"] for message in run.peer.outgoing] == ["http.response.start"]

    asyncio.run(play())


# WebSockets


messages_in = st.sampled_from(
    [
        {"type": "websocket.receive", "text": '{"n": 2}'},
        {"type": "websocket.receive", "bytes": b'{"n": 0.5}', "text": None},
        {"type": "websocket.receive", "text": "\ud800", "bytes": None},
        {"type": "websocket.receive", "bytes": b"\xff" * 50},
        {"type": "websocket.receive", "text": '{"n": "x"}'},
        {"type": "websocket.receive"},
    ]
)
messages_out = st.sampled_from(
    [
        {"type": "websocket.send", "text": '{"n": 3}'},
        {"type": "websocket.send", "bytes": b"[" * 2_000},
        {"type": "websocket.send", "text": '{"n": -1}'},
        {"type": "websocket.send", "bytes": None, "text": ""},
    ]
)
CLOSES: list[list[dict[str, Any]]] = [
    [{"type": "websocket.close", "code": 4000}],
    [{"type": "websocket.close"}, {"type": "websocket.close"}],
    [],
]
REFUSALS: list[list[dict[str, Any]]] = [
    [
        {"type": "websocket.http.response.start", "status": 402, "headers": (iter, [])},
        {"type": "websocket.http.response.body"},
    ],
    [{"type": "websocket.http.response.body"}],
]


@st.composite
def talks(draw: st.DrawFn) -> list[Step]:
    """What an app does with a WebSocket, in order or not."""
    accept = {"type": "websocket.accept", "headers": (iter, [(b"a", b"b")])}
    steps: list[Step] = [("receive", None)] * draw(st.integers(0, 2))
    accepted = draw(st.booleans())
    steps += [("send", accept)] * accepted
    steps += draw(
        st.lists(
            st.tuples(st.just("send"), messages_out) | st.sampled_from([("receive", None)]),
            max_size=12,
        )
    )
    ends = CLOSES if accepted else CLOSES + REFUSALS
    steps += [("send", message) for message in draw(st.sampled_from(ends))]
    cut = draw(st.just(len(steps)) | st.integers(0, len(steps)))
    return steps[:cut] + draw(st.sampled_from([[], [], [("raise", None)], [("cancelled", None)]]))


@settings(max_examples=300, deadline=None)
@given(
    template=scopes("websocket"),
    incoming=st.lists(messages_in, max_size=8),
    script=talks(),
    breaks_at=st.none() | st.integers(0, 4),
)
def test_any_conversation_under_every_kind_of_policy(
    template: dict[str, Any], incoming: list[Message], script: list[Step], breaks_at: int | None
) -> None:
    """It passes untouched, one connection is one, and the parts add up to what passed."""
    connect: Message = {"type": "websocket.connect"}
    alone, with_it, ledger = both(
        "sockets", template, [connect, *incoming], script, breaks_at=breaks_at
    )
    assert_untouched(alone, with_it)
    assert_told(ledger.events)
    total: Counter[str] = Counter()
    for event in ledger.events:
        total[event.policy] += int(event.quantity or 0)
    got, sent = passed(with_it.app)
    assert (total["into"], total["out"]) == (len(got), len(sent))
    assert total["size"] == sum(map(size, got + sent))
    assert total["connections"] == 1
    told = Counter(event.policy for event in ledger.events)
    assert told["connections"] == 1
    assert told.keys() - {"accepted"} == {
        text.split('"')[1] for text in SOCKETS if "success" not in text
    }


def passed(app: App) -> tuple[list[Message], list[Message]]:
    """The messages in and out before the conversation had ended."""
    got, sent = iter(app.got), iter(app.sent)
    found: tuple[list[Message], list[Message]] = ([], [])
    for kind, _ in app.script:
        message = next(got if kind == "receive" else sent, None)
        if message is None or message["type"] in ("websocket.disconnect", "websocket.close"):
            break
        if message["type"] in ("websocket.receive", "websocket.send"):
            found[kind == "send"].append(message)
        if message["type"].endswith("response.body") and not message.get("more_body"):
            break
    return found


def size(message: Message) -> int:
    """Bytes of a message's content."""
    data = message.get("bytes")
    return len(data if data is not None else (message.get("text") or "").encode(errors="replace"))


def test_a_conversation_that_has_ended_stays_ended() -> None:
    """What an app sends to a client that has left reaches nobody and is not counted."""
    template = {"type": "websocket", "path": "/metered/1", "headers": list}
    message = {"type": "websocket.send", "text": "{}"}
    going_on = {"type": "websocket.http.response.body", "more_body": True}
    script: list[Step] = [
        ("send", {"type": "websocket.accept"}),
        ("receive", None),
        *[("send", message)] * SMALL.part_messages,
        ("send", going_on),
    ]
    _, _, ledger = both("sockets", template, [], script)
    quantities = {event.policy: event.quantity for event in ledger.events}
    assert quantities["out"] == 0
