"""Two edges on a request's way: what one records the other leaves out, and no client can claim."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.middleware import FixedFeed, UsageFlowMiddleware
from usageflow.middleware.conversation import METHOD as WEBSOCKET
from usageflow.middleware.discovery import Discovery
from usageflow.middleware.hops import CLAIMED
from usageflow.middleware.meter import Meter
from usageflow.middleware.policy_sources import Assembly
from usageflow.policies import PolicySet, parse_file
from usageflow.policies.hops import HOP_HEADER, HOP_HEADERS, hop_header, hop_key
from usageflow.proxy.gateway import Gateway
from usageflow.recorder import read_spool

POLICY = """
[[policy]]
name = "{metric}-{mode}"
match = "{match}"
identify = [ {source} ]
field = "account_id"
metric = "{metric}"
mode = "{mode}"
on_ledger_failure = "{on_ledger_failure}"
"""
HEADER = '{ from = "header", name = "x-account" }'
STATE = '{ from = "metadata", name = "account" }'
SHARED: dict[str, Any] = {"hop_key": "shared" * 3}
KEY = cast("bytes", hop_key(Settings(**SHARED)))
CALLS = frozenset({"CALL"})
ACCOUNT = (b"x-account", b"acct_1")
OK: list[Message] = [
    {"type": "http.response.start", "status": 200, "headers": []},
    {"type": "http.response.body", "body": b"ok"},
]


def policies(
    *metrics: str,
    mode: str = "live",
    match: str = "GET /metered",
    source: str = HEADER,
    on_ledger_failure: str = "open",
) -> str:
    """A policy for each metric."""
    return "# policies\n" + "\n".join(
        POLICY.format(
            metric=metric,
            mode=mode,
            match=match,
            source=source,
            on_ledger_failure=on_ledger_failure,
        )
        for metric in metrics
    )


def signed(
    *, method: str = "GET", target: bytes = b"/metered", key: bytes = KEY, late_s: int = 0
) -> tuple[bytes, bytes]:
    """The field of an edge that has metered CALL."""
    now_s = int(time.time()) - late_s
    value = hop_header(key, method=method, target=target, claims=CALLS, now_s=now_s)
    return HOP_HEADER, value


class Proxy:
    """A forwarder that meters: what it calls is another process, which has the fields alone."""

    def __init__(
        self, kit: Any, app: ASGIApp, toml: str, *, trusted: bool = True, **options: Any
    ) -> None:
        self.recorder = kit.ManualRecorder()
        self.meter = Meter(
            Settings(**options),
            feed=FixedFeed(kit.policy_set(toml)),
            recorder=self.recorder,
            app=False,
        )
        self.trusted = trusted
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an http scope."""
        match, path = self.meter.match(scope["method"], scope, trusted=self.trusted)
        field = self.meter.hops.header(scope["method"], scope)
        fields = [each for each in scope["headers"] if each[0] not in HOP_HEADERS]
        fields += [(HOP_HEADER, field)] if field else []
        sent = {name: told for name, told in scope.items() if name != CLAIMED}
        exchange = self.meter.exchange(match, scope, path) if match else None

        async def send_watched(message: Message) -> None:
            if match and exchange and exchange.sends(message):
                self.meter.settle(match, exchange, 0.0)
            await send(message)

        await self.app({**sent, "headers": fields}, receive, send_watched)


class App:
    """An app that answers, and what it was given."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once."""
        self.scopes.append(scope)
        for message in OK:
            await send(message)

    @property
    def names(self) -> list[bytes]:
        """Of the fields of the last request."""
        return [name for name, _ in self.scopes[-1]["headers"]]


def ask(kit: Any, app: ASGIApp, *fields: tuple[bytes, bytes], **more: Any) -> None:
    """One request, to its end."""
    client = kit.Client()

    async def serve() -> None:
        await app(kit.scope(headers=[ACCOUNT, *fields], **more), client.receive, client.send)

    asyncio.run(serve())
    assert client.outgoing == OK


def recorded(edge: Any) -> list[tuple[str, str]]:
    """Metric and state of what an edge has recorded."""
    events: list[UsageEvent] = edge.meter.recorder.events
    return [(event.metric, event.state) for event in events]


@pytest.fixture
def inner(kit: Any) -> Callable[..., UsageFlowMiddleware]:
    """Make the middleware in an app, with a key shared by all edges."""

    def make(toml: str, app: ASGIApp | None = None, **options: Any) -> UsageFlowMiddleware:
        wrapped: UsageFlowMiddleware = kit.wrap(
            app or App(), kit.ManualRecorder(), toml, **{**SHARED, **options}
        )
        return wrapped

    return make


def chain(
    kit: Any, inner: Callable[..., UsageFlowMiddleware], *tomls: str, **options: Any
) -> list[Any]:
    """Edges of which each calls the next: proxies, and the middleware last."""
    edges: list[Any] = [inner(tomls[-1])]
    for toml in reversed(tomls[:-1]):
        edges.insert(0, Proxy(kit, edges[0], toml, **{**SHARED, **options}))
    return edges


# What edges of one key record


def test_the_first_edge_records_and_the_second_leaves_it_out(kit: Any, inner: Any) -> None:
    """Both have the policy; the request is billed once, and the app sees nothing of it."""
    app = App()
    middleware = inner(policies("CALL"), app)
    proxy = Proxy(kit, middleware, policies("CALL"), **SHARED)
    ask(kit, proxy)
    assert (recorded(proxy), recorded(middleware)) == ([("CALL", "counted")], [])
    assert app.names == [b"x-account"]
    assert middleware.meter.hops.unverified == 0


def test_the_second_edge_records_what_the_first_does_not(kit: Any, inner: Any) -> None:
    """Claims are of metrics, not of requests."""
    first, second = chain(kit, inner, policies("CALL"), policies("CALL", "TOKEN"))
    ask(kit, first)
    assert (recorded(first), recorded(second)) == ([("CALL", "counted")], [("TOKEN", "counted")])


@pytest.mark.parametrize("second_has", ["", "OTHER"])
def test_claims_reach_the_last_of_three_edges(kit: Any, inner: Any, second_has: str) -> None:
    """An edge in between tells of those before it, whether it meters anything or not."""
    own = [second_has] if second_has else []
    edges = chain(kit, inner, policies("CALL"), policies(*own), policies("CALL", "OTHER", "LAST"))
    ask(kit, edges[0])
    last = ["LAST"] if own else ["OTHER", "LAST"]
    assert [[metric for metric, _ in recorded(edge)] for edge in edges] == [["CALL"], own, last]


@pytest.mark.parametrize(
    ("modes", "states"),
    [
        (("shadow", "shadow"), (["shadow"], [])),
        (("shadow", "live"), (["shadow"], ["counted"])),
        (("live", "shadow"), (["counted"], ["shadow"])),
    ],
)
def test_a_rehearsal_takes_no_bill_away(
    kit: Any, inner: Any, modes: tuple[str, str], states: tuple[list[str], list[str]]
) -> None:
    """Shadow and live are claimed apart: each is recorded once."""
    edges = chain(kit, inner, *(policies("CALL", mode=mode) for mode in modes))
    ask(kit, edges[0])
    assert tuple([state for _, state in recorded(edge)] for edge in edges) == states


def test_an_edge_without_a_policy_claims_nothing(kit: Any, inner: Any) -> None:
    """Neither is the request signed."""
    app = App()
    middleware = inner(policies("CALL", match="GET /elsewhere"), app)
    proxy = Proxy(kit, middleware, policies("CALL", match="GET /elsewhere"), **SHARED)
    ask(kit, proxy)
    assert app.names == [b"x-account"]


def test_a_request_that_is_claimed_is_not_refused(kit: Any, inner: Any) -> None:
    """Its policy is closed and the disk fails, but it is another edge that records it."""
    middleware = inner(policies("CALL", on_ledger_failure="closed"))
    middleware.meter.recorder.healthy = False
    ask(kit, middleware, signed())
    assert recorded(middleware) == []


def test_a_request_that_is_claimed_is_no_unknown_endpoint(kit: Any, inner: Any) -> None:
    """Discovery is about what no policy meters."""
    middleware = inner(policies("CALL"))
    middleware.meter.discovery = Discovery(10)
    ask(kit, middleware, signed())
    assert middleware.meter.discovery.take() is None
    ask(kit, middleware, path="/other")
    assert middleware.meter.discovery.take() is not None


def test_a_websocket_is_claimed_by_its_handshake(kit: Any) -> None:
    """A GET on the wire, whatever the face of the first edge calls it."""
    toml = policies("CALL", match=f"{WEBSOCKET} /metered")
    first, second = (
        Proxy(kit, App(), toml, **SHARED),
        kit.wrap(App(), kit.ManualRecorder(), toml, **SHARED),
    )
    scope = kit.scope()
    match, _ = first.meter.match(WEBSOCKET, scope)
    assert match is not None
    for method in (WEBSOCKET, "GET"):
        value = first.meter.hops.header(method, scope)
        received = {**kit.scope(headers=[(HOP_HEADER, value)]), "type": "websocket"}
        match, _ = second.meter.match(WEBSOCKET, received, trusted=True)
        assert match is None


# What is not believed


UNBELIEVED: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "garbage": ([(HOP_HEADER, b"1")], "signed with another key"),
    "no value": ([(HOP_HEADER, b"")], "signed with another key"),
    "another key": ([signed(key=b"other")], "signed with another key"),
    "another path": ([signed(target=b"/other")], "for another request"),
    "another query": ([signed(target=b"/metered?x=1")], "for another request"),
    "another method": ([signed(method="HEAD")], "for another request"),
    "old": ([signed(late_s=120)], "60 s old"),
    "from the future": ([signed(late_s=-86_400)], "clocks"),
    "several": ([signed(), signed()], "several"),
}


@pytest.mark.parametrize("case", UNBELIEVED)
def test_what_is_not_believed_is_metered_and_told_once(
    inner: Any, kit: Any, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    """In doubt a request is billed; the log says why, and what the client sent is the app's."""
    fields, why = UNBELIEVED[case]
    app = App()
    middleware = inner(policies("CALL"), app)
    for _ in range(3):
        ask(kit, middleware, *fields)
    assert recorded(middleware) == [("CALL", "counted")] * 3
    assert middleware.meter.hops.unverified == 3
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert why in told.getMessage()
    assert app.names == [b"x-account", *(name for name, _ in fields)]


def test_only_the_name_itself_is_read(kit: Any, inner: Any) -> None:
    """A name that CGI takes for the same is a field of the client's, not a second copy."""
    middleware = inner(policies("CALL"))
    ask(kit, middleware, (b"usageflow_hop", signed()[1]))
    assert recorded(middleware) == [("CALL", "counted")]
    ask(kit, middleware, (b"usageflow_hop", b"x"), signed())
    assert len(recorded(middleware)) == 1


@pytest.mark.parametrize(
    ("first", "second", "unverified"),
    [
        ({"api_key": "uf_1"}, {"api_key": "uf_1"}, 0),
        ({"api_key": "uf_1", **SHARED}, {"api_key": "uf_2", **SHARED}, 0),
        ({"api_key": "uf_1"}, {"api_key": "uf_2"}, 1),
        ({"api_key": "uf_1"}, {}, 1),
        ({}, {"api_key": "uf_1"}, None),
        ({}, {}, None),
    ],
)
def test_the_keys_of_the_edges(
    kit: Any, first: dict[str, Any], second: dict[str, Any], unverified: int | None
) -> None:
    """Without a key that is shared both meter; the second knows it if the first has any key."""
    recorder, app = kit.ManualRecorder(), App()
    middleware = kit.wrap(app, recorder, policies("CALL"), **second)
    proxy = Proxy(kit, middleware, policies("CALL"), **first)
    ask(kit, proxy)
    assert recorded(proxy) == [("CALL", "counted")]
    assert recorded(middleware) == ([] if unverified == 0 else [("CALL", "counted")])
    assert middleware.meter.hops.unverified == (unverified or 0)


def test_a_proxy_believes_trusted_peers_only(
    kit: Any, inner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An app may show what it was sent to a client, and the client may send it to the proxy."""
    edges = chain(kit, inner, policies("CALL"), policies("CALL"), trusted=False)
    ask(kit, edges[0], signed())
    assert [recorded(edge) for edge in edges] == [[("CALL", "counted")], []]
    assert edges[0].meter.hops.unverified == 1
    assert "USAGEFLOW_TRUSTED_PROXIES" in caplog.text


def test_an_edge_that_does_not_know_its_peer_believes_none(kit: Any, inner: Any) -> None:
    """To forget to say whom to trust costs no money."""
    match, _ = inner(policies("CALL")).meter.match("GET", kit.scope(headers=[signed()]))
    assert match is not None


# Targets


@pytest.mark.parametrize(
    ("target", "more"),
    [
        (b"/metered?x=%20", {"query_string": b"x=%20"}),
        (b"/metered", {"query_string": b""}),
        (b"/%6Detered", {"raw_path": b"/%6Detered"}),
        (b"/metered", {"raw_path": None}),
        (b"/api/metered", {"path": "/api/metered", "root_path": "/api"}),
        (b"/metered", {"path": "/api/metered", "root_path": "/api"}),
    ],
)
def test_the_target_is_what_was_sent(
    kit: Any, inner: Any, target: bytes, more: dict[str, Any]
) -> None:
    """Byte for byte, and without the root path that a server was told to put before it."""
    middleware = inner(policies("CALL"))
    ask(kit, middleware, signed(target=target), **more)
    assert recorded(middleware) == []


def test_a_path_without_its_raw_form_is_written_as_clients_do(kit: Any, inner: Any) -> None:
    """ASGI servers need not tell the raw path."""
    middleware = inner(policies("CALL", match="GET /{rest:path}"))
    ask(kit, middleware, signed(target=b"/a%20b:%C3%A9"), path="/a b:é", raw_path=b"")
    assert recorded(middleware) == []


def test_a_path_that_is_no_text_is_metered(kit: Any, inner: Any) -> None:
    """Nothing raises for it."""
    middleware = inner(policies("CALL", match="GET /{rest:path}"))
    scope = {**kit.scope(headers=[signed()], raw_path=b""), "path": "/\udcff"}
    match, _ = middleware.meter.match("GET", scope)
    assert match is not None
    assert middleware.meter.hops.unverified == 1


# Two middlewares in one process


def test_two_middlewares_around_one_app_meter_once(kit: Any, inner: Any) -> None:
    """They need no key: no client can write to a scope."""
    within = inner(policies("CALL", "TOKEN"), hop_key=None)
    around = inner(policies("CALL"), within, hop_key=None)
    ask(kit, around)
    assert (recorded(around), recorded(within)) == ([("CALL", "counted")], [("TOKEN", "counted")])


def test_what_a_header_claims_reaches_the_inner_of_two_middlewares(kit: Any, inner: Any) -> None:
    """Only the outer one sees the header."""
    within = inner(policies("CALL", "TOKEN"))
    around = inner(policies("CALL", "OTHER"), within)
    ask(kit, around, signed())
    assert (recorded(around), recorded(within)) == ([("OTHER", "counted")], [("TOKEN", "counted")])


@pytest.mark.parametrize("shortens", [True, False])
@pytest.mark.parametrize("path", ["/sub/metered", "/sub"])
def test_an_app_that_is_mounted_with_its_own_middleware(
    kit: Any, inner: Any, path: str, *, shortens: bool
) -> None:
    """Whether the router takes its prefix from the path or not."""
    toml = policies("CALL", match="GET /{rest:path}")
    mounted = inner(toml)

    async def router(scope: Scope, receive: Receive, send: Send) -> None:
        rest = scope["path"].removeprefix("/sub") or "/" if shortens else scope["path"]
        await mounted({**scope, "path": rest, "root_path": "/sub"}, receive, send)

    around = inner(toml, router)
    ask(kit, around, path=path)
    assert (recorded(around), recorded(mounted)) == ([("CALL", "counted")], [])


def test_an_app_mounted_by_starlette(kit: Any, inner: Any) -> None:
    """With its real router."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    toml = policies("CALL", match="GET /{rest:path}")
    mounted = inner(toml)
    around = inner(toml, Starlette(routes=[Mount("/sub", mounted)]))
    ask(kit, around, path="/sub/metered")
    assert (recorded(around), recorded(mounted)) == ([("CALL", "counted")], [])


def test_what_an_app_asks_of_itself_is_metered(kit: Any) -> None:
    """A batch of requests, each a copy of the scope with another path, is so many requests."""
    app = App()

    async def batch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/batch":
            return await app(scope, receive, send)
        for path in ("/items/1", "/items/2"):
            await subject({**scope, "path": path, "raw_path": path.encode()}, receive, _unheard)
        return await app(scope, receive, send)

    toml = policies("CALL", match="GET /{rest:path}")
    subject = kit.wrap(batch, kit.ManualRecorder(), toml)
    ask(kit, subject, path="/batch")
    assert recorded(subject) == [("CALL", "counted")] * 3


async def _unheard(message: Message) -> None:
    """Nobody reads it."""


# Policies that need an app


def warnings_of(caplog: pytest.LogCaptureFixture, toml: str, *, app: bool) -> Iterable[str]:
    """What is told when these policies are put in force."""
    parsed = parse_file(toml, "p.toml")
    assembly = Assembly(Settings(), {}, app=app)
    try:
        assert isinstance(assembly.build(parsed.policies, (), "p.toml"), PolicySet)
    finally:
        assembly.keys.close()
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("source", "app", "told"),
    [(STATE, False, True), (STATE, True, False), (f"{STATE}, {HEADER}", False, False)],
)
def test_a_policy_that_only_an_app_can_serve_is_told_of_in_a_proxy(
    caplog: pytest.LogCaptureFixture, source: str, *, app: bool, told: bool
) -> None:
    """It could never tell whose a request is; another source is enough."""
    found = warnings_of(caplog, policies("CALL", source=source), app=app)
    assert ['policy "CALL-live" identifies only' in each for each in found] == [True] * told


# Real servers


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
@pytest.mark.anyio
@pytest.mark.parametrize("trusted", ["127.0.0.1", None])
async def test_two_proxies_and_the_app_s_server(
    kit: Any, inner: Any, tmp_path: Path, trusted: str | None
) -> None:
    """Over TCP: the first proxy records; the second does too unless it trusts the first."""
    toml = tmp_path / "policies.toml"
    toml.write_text(policies("CALL"))
    app = App()
    middleware = inner(policies("CALL", "TOKEN"), app)
    config = uvicorn.Config(middleware, log_config=None, lifespan="off", ws="none")
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as closing:

        async def listen(protocol: Callable[[], asyncio.Protocol]) -> int:
            server = await loop.create_server(protocol, "127.0.0.1", 0)
            closing.callback(server.close)
            port: int = server.sockets[0].getsockname()[1]
            return port

        port = await listen(lambda: HttpToolsProtocol(config, state, {}))
        gateways: list[Gateway] = []
        for name in ("second", "first"):
            settings = Settings(
                upstream=f"http://127.0.0.1:{port}",
                policies=str(toml),
                spool_dir=str(tmp_path / name),
                trusted_proxies=trusted,
                **SHARED,
            )
            gateways.append(Gateway(settings))
            await gateways[-1].start()
            closing.push_async_callback(gateways[-1].aclose)
            port = await listen(gateways[-1].connection)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /metered?a=%20 HTTP/1.1\r\nHost: a\r\nX-Account: acct_1\r\n"
            b"Usageflow_Hop: x\r\nConnection: close\r\n\r\n"
        )
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not HOP_HEADERS.intersection(app.names)
    assert recorded(middleware) == [("TOKEN", "counted")]
    spooled = [len(list(read_spool(tmp_path / name))) for name in ("first", "second")]
    assert spooled == [1, 0 if trusted else 1]
    assert gateways[0].meter.hops.unverified == (0 if trusted else 1)
