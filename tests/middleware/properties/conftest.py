"""Random conversations, played without the middleware and with it, under policies of every kind."""

import asyncio
import gzip
import importlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, cast

import jwt
import pytest
from hypothesis import strategies as st

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.config import Settings
from usageflow.events import UsageEvent, decode, encode
from usageflow.middleware import FixedFeed, UsageFlowMiddleware
from usageflow.policies import PolicySet, parse_file
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
COUNT_ALL = frozenset(
    text.split('"')[1] for text in SETS["all"] if ALWAYS in text and "x-account = " not in text
)
"""Policies that leave an event for every request."""
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
COUNT_SOCKETS = frozenset(text.split('"')[1] for text in SOCKETS if ALWAYS in text)
"""Policies that leave an event for every connection."""


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


# One run


Step = tuple[str, Any]
"""Something an app does, and the message of it."""


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


def staged(
    name: str,
    incoming: list[Message],
    script: list[Step],
    *,
    gone: str = "http.disconnect",
    slow: bool = False,
    breaks_at: int | None = None,
    limits: Settings = USUAL,
) -> tuple[Run, Ledger, ASGIApp]:
    """A conversation with the middleware, ready to be played."""
    run = Run(App(script), Peer(incoming, gone, breaks_at))
    ledger = Ledger(run.peer if slow else None)
    metered = UsageFlowMiddleware(
        run.app,
        settings=limits,
        feed=FixedFeed(policies(name)),
        recorder=cast("Recorder", ledger),
    )
    return run, ledger, metered


def both(
    template: dict[str, Any],
    incoming: list[Message],
    script: list[Step],
    name: str,
    *,
    breaks_at: int | None = None,
    **options: Any,
) -> tuple[Run, Run, Ledger]:
    """The conversation without the middleware and with it, under the policies of this name."""
    gone = f"{template['type']}.disconnect"

    async def play() -> tuple[Run, Run, Ledger]:
        alone = Run(App(script), Peer(incoming, gone, breaks_at))
        await alone.play(alone.app, given_scope(template))
        with_it, ledger, metered = staged(
            name, incoming, script, gone=gone, breaks_at=breaks_at, **options
        )
        await with_it.play(metered, given_scope(template))
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
        assert "internal error" not in (event.reason or "")
        assert not set(event.identity.value or "") & set("\0\n")


@dataclass(frozen=True)
class Theatre:
    """Everything above, for the tests."""

    given_scope: Callable[..., Scope] = given_scope
    made: Callable[..., Message] = made
    both: Callable[..., tuple[Run, Run, Ledger]] = both
    staged: Callable[..., tuple[Run, Ledger, ASGIApp]] = staged
    assert_untouched: Callable[[Run, Run], None] = assert_untouched
    assert_told: Callable[[list[UsageEvent]], None] = assert_told
    policies: Callable[[str], PolicySet] = policies
    scopes: Callable[..., st.SearchStrategy[dict[str, Any]]] = scopes
    contents: st.SearchStrategy[bytes] = contents
    bodies: Callable[..., st.SearchStrategy[tuple[list[bytes], list[tuple[bytes, bytes]]]]] = (
        body_and_headers
    )
    small: Settings = SMALL
    usual: Settings = USUAL
    count_all: frozenset[str] = COUNT_ALL
    count_sockets: frozenset[str] = COUNT_SOCKETS


@pytest.fixture(scope="session")
def theatre() -> Theatre:
    """The tools of this folder."""
    return Theatre()
