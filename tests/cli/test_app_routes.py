"""The routes of apps of four frameworks, through mounts, routers, hosts and middleware."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from usageflow.cli.app_routes import WRAPPERS_MAX, routes_of
from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.middleware import FixedFeed, UsageFlowMiddleware
from usageflow.policies import PolicySet
from usageflow.policies.app_routes import AppRoute

Read = Callable[[Any], list[AppRoute]]


class Wrapper:
    """A middleware as users write it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on."""
        await self.app(scope, receive, send)


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An app that cannot be looked into."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """The routes of an app, as if its module had it."""

    def routes(app: Any) -> list[AppRoute]:
        module: Any = type(sys)("module_of_the_app")
        module.app = app
        monkeypatch.setitem(sys.modules, "module_of_the_app", module)
        return routes_of("module_of_the_app:app")

    return routes


def texts(routes: list[AppRoute]) -> list[str]:
    """`METHOD /template name` of each route."""
    return [f"{route.method} {route.template} {route.name}" for route in routes]


def starlette_app() -> Any:
    """Routes, converters, mounts, an app in an app, a host, a static folder, a WebSocket."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    async def end(_: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    class Endpoint:
        """A class takes any method."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            """Answer."""
            await PlainTextResponse("ok")(scope, receive, send)

    inner = Starlette(routes=[Route("/", end, name="home"), Route("/{y:int}", end, name="y")])
    return Starlette(
        routes=[
            Route("/items/{id}.json", end, name="item"),
            Route("/n/{n:int}/{f:float}/{u:uuid}", end, methods=["POST", "GET"], name="forms"),
            Route("/any", Endpoint(), name="any"),
            Mount(
                "/m/{tenant}",
                routes=[Route("/files/{p:path}", end, name="files")],
                middleware=[Middleware(Wrapper)],
            ),
            Mount("/inner", app=Wrapper(inner)),
            Mount("/opaque", app=nothing, name="opaque"),
            Mount("/static", app=StaticFiles(directory="."), name="static"),
            WebSocketRoute("/live/{room}", end, name="live"),
            Host("{tenant}.example.org", app=Router([Route("/h", end, name="hosted")])),
        ]
    )


def test_starlette(read: Read) -> None:
    """In its own order; a mount without an app that can be read is whatever it may serve."""
    routes = read(starlette_app())
    assert texts(routes) == [
        "GET /items/{id}.json item",
        "GET /n/{n:int}/{f:float}/{u:uuid} forms",
        "POST /n/{n:int}/{f:float}/{u:uuid} forms",
        "ANY /any any",
        "GET /m/{tenant}/files/{p:path} files",
        "GET /inner/ home",
        "GET /inner/{y:int} y",
        "ANY /opaque/{path:path} opaque",
        "GET /static/{path:path} static",
        "WEBSOCKET /live/{room} live",
        "GET /h hosted",
    ]
    assert routes[-1].host == "x.example.org"
    assert [route.host for route in routes[:-1]] == [None] * 10


def test_a_mount_s_own_routes_are_seen_behind_any_middleware(read: Read) -> None:
    """Also one that keeps what it wraps where nobody looks; the mount knows its routes."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Mount, Route

    class Secretive:
        """A middleware with a name of its own for the app."""

        def __init__(self, app: Any) -> None:
            self.hidden = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            """Pass on."""
            await self.hidden(scope, receive, send)

    mount = Mount("/m", routes=[Route("/a", nothing, name="a")], middleware=[Middleware(Secretive)])
    assert texts(read(Starlette(routes=[mount]))) == ["GET /m/a a"]


def fastapi_app() -> Any:
    """Routers in routers, a mount in a router, static frontends, an app in the app."""
    from fastapi import APIRouter, FastAPI, WebSocket
    from starlette.routing import Route

    inner, outer = APIRouter(), APIRouter(prefix="/outer")

    @inner.get("/items/{item}")
    async def item(item: str) -> str:
        return item

    @inner.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.close()

    async def mounted(_: Any) -> None: ...

    inner.mount("/raw", app=nothing, name="raw")
    outer.include_router(inner, prefix="/inner")
    outer.frontend("/pages", directory=".")
    below = FastAPI(openapi_url=None)
    below.router.routes.append(Route("/deep", mounted, name="deep"))
    app = FastAPI(openapi_url=None)
    app.include_router(outer, prefix="/v1")
    app.mount("/below", below)
    app.frontend("/", directory=".")
    app.add_middleware(Wrapper)
    return app


def test_fastapi(read: Read) -> None:
    """Included routers with all their prefixes, and frontends at the end, where they are tried."""
    assert texts(read(fastapi_app())) == [
        "GET /v1/outer/inner/items/{item} item",
        "WEBSOCKET /v1/outer/inner/live live",
        "ANY /v1/outer/inner/raw/{path:path} raw",
        "GET /below/deep deep",
        "GET /{path:path} frontend",
        "GET /v1/outer/pages/{path:path} frontend",
    ]


def test_fastapi_s_own_pages_are_routes_too(read: Read) -> None:
    """They answer requests; whoever does not meter them says so."""
    from fastapi import FastAPI

    assert texts(read(FastAPI()))[:2] == ["GET /openapi.json openapi", "GET /docs swagger_ui_html"]


def litestar_app() -> Any:
    """Handlers with several methods and paths, all forms of parameters, a mount, a WebSocket."""
    from litestar import Litestar, Router, WebSocket, asgi, get, post, websocket
    from litestar.params import FromPath
    from litestar.types import Receive, Scope, Send

    @get("/items/{item:str}")
    async def item(item: FromPath[str]) -> str:
        return item

    @post("/items/{item:str}")
    async def save(item: FromPath[str]) -> str:
        return item

    @get(["/", "/files/{file:path}"])
    async def files(file: FromPath[Path] = Path()) -> str:
        return str(file)

    @get("/users/{user:uuid}/orders/{order:int}")
    async def order(user: FromPath[UUID], order: FromPath[int]) -> str:
        return f"{user}{order}"

    @asgi("/mount", is_mount=True, copy_scope=True)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        from litestar.response.base import ASGIResponse

        await ASGIResponse(body=b"ok")(scope, receive, send)

    @websocket("/live")
    async def live(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.close()

    v1 = Router("/v1", route_handlers=[item, save])
    return Litestar([v1, files, order, mount, live], openapi_config=None)


def test_litestar(read: Read) -> None:
    """Each method with its handler; Litestar's own answers to OPTIONS are not listed."""
    assert sorted(texts(read(litestar_app()))) == [
        "ANY /mount mount",
        "GET / files",
        "GET /files/{file:path} files",
        "GET /users/{user:uuid}/orders/{order:int} order",
        "GET /v1/items/{item:str} item",
        "POST /v1/items/{item:str} save",
        "WEBSOCKET /live live",
    ]


def quart_app() -> Any:
    """A blueprint, converters, a rule without strict slashes, redirects, a WebSocket."""
    from quart import Blueprint, Quart
    from werkzeug.routing import Rule

    app = Quart("app", static_folder=None)
    blueprint = Blueprint("b", "app", url_prefix="/b")

    async def end(**_: Any) -> str:
        return "ok"

    blueprint.add_url_rule("/<int:n>/", "n", end)
    app.register_blueprint(blueprint)
    app.add_url_rule("/files/<path:rest>", "files", end, methods=["GET", "POST"])
    app.add_url_rule("/lang/<any(de, fr):lang>/<string(length=2):two>.txt", "lang", end)
    app.add_url_rule("/loose/<x>/", "loose", end, strict_slashes=False)
    app.add_url_rule(
        "/options", "options", end, methods=["OPTIONS"], provide_automatic_options=False
    )
    app.add_websocket("/live/<room>", "live", end)
    app.url_map.add(Rule("/old", redirect_to="/files/x"))
    app.url_map.add(Rule("/elsewhere", endpoint="cdn", build_only=True))
    return app


def test_quart(read: Read) -> None:
    """Also when only its bound `asgi_app` can be seen inside of a middleware."""
    app = quart_app()
    found = texts(read(app))
    assert sorted(found) == [
        "GET /b/<int:n>/ b.n",
        "GET /files/<path:rest> files",
        "GET /lang/<any(de, fr):lang>/<string(length=2):two>.txt lang",
        "GET /loose/<x>/ loose",
        "OPTIONS /options options",
        "POST /files/<path:rest> files",
        "WEBSOCKET /live/<room> live",
    ]
    assert texts(read(Wrapper(app.asgi_app))) == found


def test_quart_with_hosts(read: Read) -> None:
    """With host matching each rule may have its own."""
    from quart import Quart

    async def end(**_: Any) -> str:
        return "ok"

    app = Quart("app", host_matching=True, static_host="static.example.org", static_folder=None)
    app.add_url_rule("/a", "a", end, host="<tenant>.example.org")
    assert [(route.template, route.host) for route in read(app)] == [("/a", "x.example.org")]


def test_usageflow_is_looked_through(read: Read, tmp_path: Path) -> None:
    """Like any other middleware, in any depth that an app has."""
    metered = UsageFlowMiddleware(
        starlette_app(),
        settings=Settings(spool_dir=str(tmp_path)),
        feed=FixedFeed(PolicySet.EMPTY),
    )
    assert texts(read(Wrapper(metered))) == texts(read(starlette_app()))


def test_an_app_that_describes_itself(read: Read) -> None:
    """Whatever it is made with; also where it is mounted."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    class Described:
        """An app of a framework that nobody knows."""

        def openapi(self) -> dict[str, Any]:
            """Its description; its servers are where it is mounted."""
            return {
                "openapi": "3.1.0",
                "servers": [{"url": "https://api.example.com/v1"}],
                "paths": {"/x/{id}": {"get": {"operationId": "x"}}},
            }

    assert texts(read(Described())) == ["GET /x/{id} x"]
    mounted = Starlette(routes=[Mount("/m", app=Described())])  # type: ignore[arg-type]  # no call
    assert texts(read(mounted)) == ["GET /m/x/{id} x"]


@pytest.mark.parametrize("make", [starlette_app, fastapi_app, litestar_app, quart_app])
def test_samples_reach_the_app(read: Read, make: Callable[[], Any]) -> None:
    """Every sample of a route with a handler is a request that the framework routes to one."""
    app = make()
    requests = [
        (route.host or "test", method, path)
        for route in read(app)
        if route.name not in ("opaque", "raw", "static", "frontend", "deep", "live")
        for method, path in route.requests(())
    ]
    assert requests
    answers = [(asyncio.run(status(app, *request)), request) for request in requests]
    assert [answer for answer in answers if answer[0] not in (200, 201)] == []


async def status(app: Any, host: str, method: str, path: str) -> int:
    """The status of the app's answer to a request without a body."""
    sent: list[Any] = []
    incoming = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        return incoming.pop() if incoming else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", host.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "extensions": {},
        "state": {},
    }
    await asyncio.wait_for(app(scope, receive, send), 5)
    return int(sent[0]["status"])


def circle() -> Any:
    """A wrapper that holds itself."""
    wrapper = Wrapper(None)
    wrapper.app = wrapper
    return wrapper


@pytest.mark.parametrize("make", [lambda: nothing, circle, lambda: 7])
def test_what_cannot_be_read_is_told(read: Read, make: Callable[[], Any]) -> None:
    """With the way that remains."""
    with pytest.raises(ConfigurationError, match="pass a file with its OpenAPI description"):
        read(make())


def test_a_route_of_an_unknown_kind_is_told(read: Read) -> None:
    """Leaving it out would hide what it serves."""
    from starlette.applications import Starlette
    from starlette.routing import BaseRoute

    class Own(BaseRoute):
        """Matches as it likes."""

    with pytest.raises(ConfigurationError, match="type Own cannot be read"):
        read(Starlette(routes=[Own()]))


def test_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes of attributes and factories, from the current directory, as servers have it."""
    (tmp_path / "own_app.py").write_text(
        "from starlette.applications import Starlette\n"
        "from starlette.routing import Route\n"
        "def make():\n    return Starlette(routes=[Route('/made', make)])\n"
        "class Place:\n    app = make()\n"
        "def fail():\n    raise RuntimeError('no database')\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert texts(routes_of("own_app:make()")) == ["GET /made make"]
    assert texts(routes_of("own_app:Place.app")) == ["GET /made make"]
    for target, message in {
        "own_app": "neither module:attribute nor an OpenAPI file",
        ":app": "neither",
        "own_app:": "neither",
        "own_app:nope": "own_app:nope: AttributeError: .*nope",
        "own_app:fail()": "RuntimeError: no database",
        "no_such_app:app": "ModuleNotFoundError: No module named 'no_such_app'",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            routes_of(target)
    assert sys.path == before
    sys.modules.pop("own_app")


def test_wrappers_are_bounded() -> None:
    """Far more layers than an app has."""
    assert WRAPPERS_MAX == 100
