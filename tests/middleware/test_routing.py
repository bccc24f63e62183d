"""What is metered is what the app routes: Starlette, FastAPI, Litestar and Quart are asked.

Every handler answers with its own template, and there is one policy for each template. Whatever
path is sent, a request that reaches a handler is counted by that handler's policy alone, and a
request that reaches none is not counted. The exceptions are those that docs/matching.md names; each
is spelled out here where it is allowed.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.policies import Policy, PolicySet
from usageflow.policies.paths import PathRules, route_path
from usageflow.policies.surroundings import Surroundings

MOUNT = "/sub"
TEMPLATES = [
    "GET /",
    "GET /items",
    "GET /items/",
    "GET /items/prices",
    "GET /items/{id}",
    "GET /items/{id}/parts",
    "GET /n/{n:int}",
    "GET /n/{f:float}",
    "GET /n/{u:uuid}",
    "GET /n/{s}",
    "GET /files/{rest:path}",
    "GET /caf\u00e9",
    "POST /only",
    "GET /dir/",
    "GET /sub/",
    "GET /sub/x",
    "GET /sub/{id}",
    "GET /sub/items/{rest:path}",
    "GET /sub/dir/",
    "GET /{page}",
    "GET /{shop}/{item}",
]
LITESTAR_TEMPLATES = [
    "GET /",
    "GET /items",
    "GET /items/prices",
    "GET /items/{id}",
    "GET /items/{id}/parts",
    "GET /n/{n}",
    "GET /files/{rest:path}",
    "GET /caf\u00e9",
    "POST /only",
    "ANY /sub",
    "ANY /sub/{rest:path}",
    "GET /{page}",
    "GET /{shop}/{item}",
]
"""Litestar tells neither typed parameters nor a final slash apart; a mount serves every method."""
LITESTAR_RULES = "double-slash,final-slash,newline"
QUART_RULES = "werkzeug"


@dataclass(frozen=True)
class Served:
    """What an app made of a request: its status, and the template of the handler it reached."""

    status: int
    template: str | None = None


class Framework:
    """An app, and the policies of its templates under the path rules that the docs name for it."""

    def __init__(self, app: ASGIApp, templates: list[str], rules: str = "") -> None:
        self.templates = templates
        self._app = app
        self._loop = asyncio.new_event_loop()
        policies = [(policy_for(template), "1") for template in templates]
        surroundings = Surroundings(path_rules=PathRules.parse(rules))
        self.policies = PolicySet.build(policies, surroundings)
        assert self.policies.problems == ()

    def close(self) -> None:
        """Let go of the event loop."""
        self._loop.close()

    def served(self, scope: Scope) -> Served:
        """Send a request without a body; the app may change its own copy of the scope."""
        return self._loop.run_until_complete(served_by(self._app, {**scope}))

    def counted(self, scope: Scope, status: int) -> str | None:
        """The template whose policy counts this request, as the middleware finds it."""
        match = self.policies.match(
            scope["method"],
            route_path(scope),
            scope["headers"],
            scope["query_string"],
            scope["raw_path"],
        )
        names = [one.policy.name for one in match.policies if one.fires(status)] if match else []
        assert len(names) <= 1
        return names[0] if names else None


def policy_for(template: str) -> Policy:
    """All count the same metric, so that exactly one can apply."""
    return Policy.model_validate(
        {
            "name": template,
            "match": template,
            "identify": [{"from": "header", "name": "x-account"}],
            "field": "account_id",
            "metric": "CALL",
        }
    )


async def served_by(app: ASGIApp, scope: Scope) -> Served:
    """The app's answer; a server answers 500 for an app that raises."""
    sent: list[Message] = []
    incoming: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await app(scope, receive, send)
    except Exception:  # noqa: BLE001 - whatever it was
        return Served(500)
    for key, value in sent[0]["headers"]:
        if bytes(key).lower() == b"x-template":
            return Served(sent[0]["status"], unquote(bytes(value).decode()))
    return Served(sent[0]["status"])


def request(method: str, target: str, root: str = "", *, front: str | None = None) -> Scope:
    """The scope that uvicorn builds; `front` is what it puts before the path, or else the root."""
    raw_path, _, query = target.partition("?")
    front = root if front is None else front
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "root_path": root,
        "path": front + unquote(raw_path),
        "raw_path": (front + raw_path).encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }


Place = tuple[str, str, str]
"""Method, path within the app or mount, and template of a route."""


def outside() -> Iterator[Place]:
    """The routes of the app itself."""
    for template in TEMPLATES:
        method, path = template.split(" ")
        if not path.startswith(f"{MOUNT}/"):
            yield method, path, template


def inside() -> Iterator[Place]:
    """The routes of what is mounted."""
    for template in TEMPLATES:
        method, path = template.split(" ")
        if path.startswith(f"{MOUNT}/"):
            yield method, path.removeprefix(MOUNT), template


def starlette_app() -> Framework:
    """Routes, and a router that is mounted."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Mount, Route

    def routes(places: Iterable[Place]) -> Iterator[Route]:
        for method, path, template in places:

            async def handler(request: Request, name: str = quote(template)) -> Response:
                return Response(headers={"x-template": name})

            yield Route(path, handler, methods=[method])

    app = Starlette(routes=[Mount(MOUNT, routes=list(routes(inside()))), *routes(outside())])
    return Framework(app, TEMPLATES)


def fastapi_app() -> Framework:
    """Routes of routers with and without a prefix, and a sub-app that is mounted."""
    from fastapi import APIRouter, FastAPI, Response

    def add(router: APIRouter | FastAPI, places: Iterable[Place]) -> None:
        for method, path, template in places:

            def endpoint(name: str) -> Callable[[], Response]:
                return lambda: Response(headers={"x-template": name})

            methods = ["GET", "HEAD"] if method == "GET" else [method]
            router.add_api_route(path, endpoint(quote(template)), methods=methods)

    app, sub = FastAPI(openapi_url=None), FastAPI(openapi_url=None)
    items, rest = APIRouter(), APIRouter()
    add(sub, inside())
    add(items, [(m, p.removeprefix("/items"), t) for m, p, t in outside() if "/items" in p])
    add(rest, [place for place in outside() if "/items" not in place[1]])
    app.include_router(items, prefix="/items")
    app.mount(MOUNT, sub)
    app.include_router(rest)
    return Framework(app, TEMPLATES)


def litestar_app() -> Framework:
    """Routes with typed parameters, a router with a prefix, and an app that is mounted."""
    from litestar import Litestar, Response, Router, asgi, get, post

    def route(template: str, path: str | None = None) -> Any:
        method, written = template.split(" ")

        async def handler() -> Response[None]:
            return Response(None, headers={"x-template": quote(template)})

        typed = re.sub(r"{(\w+)}", r"{\1:str}", written if path is None else path)
        return (get if method == "GET" else post)(typed, name=template)(handler)

    @asgi(MOUNT, is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        template = f"ANY {MOUNT}" if scope["path"] == "/" else f"ANY {MOUNT}/{{rest:path}}"
        headers = [(b"x-template", quote(template).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    below = [template for template in LITESTAR_TEMPLATES if template.startswith("GET /items/")]
    items = Router("/items", route_handlers=[route(t, t.partition("/items")[2]) for t in below])
    apart = {*below, "GET /n/{n}", f"ANY {MOUNT}", f"ANY {MOUNT}/{{rest:path}}"}
    routes = [route(template) for template in LITESTAR_TEMPLATES if template not in apart]
    routes += [items, mounted, route("GET /n/{n}", "/n/{n:int}")]
    return Framework(
        Litestar(routes, openapi_config=None),  # type: ignore[arg-type]
        LITESTAR_TEMPLATES,
        LITESTAR_RULES,
    )


def quart_app() -> Framework:
    """Routes with converters, and a blueprint."""
    from quart import Blueprint, Quart, Response

    def add(router: Quart | Blueprint, places: Iterable[Place]) -> None:
        for method, path, template in places:

            async def handler(*, name: str = quote(template), **_: object) -> Response:
                return Response("", headers={"x-template": name})

            rule = re.sub(r"{(\w+)(?::(\w+))?}", lambda m: f"<{m[2] or 'string'}:{m[1]}>", path)
            router.add_url_rule(rule, re.sub(r"\W", "_", template), handler, methods=[method])

    app = Quart(__name__, static_folder=None)
    sub = Blueprint("sub", __name__, url_prefix=MOUNT)
    add(sub, inside())
    app.register_blueprint(sub)
    add(app, outside())
    return Framework(app, TEMPLATES, QUART_RULES)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def frameworks() -> Iterator[dict[str, Framework]]:
    """Each app is built once."""
    built = {
        "starlette": starlette_app(),
        "fastapi": fastapi_app(),
        "litestar": litestar_app(),
        "quart": quart_app(),
    }
    yield built
    for framework in built.values():
        framework.close()


FRAMEWORKS = pytest.mark.parametrize("name", ["starlette", "fastapi", "litestar", "quart"])
UUID = "0190a0b0-0000-7000-8000-000000000001"
NAMES = ["items", "prices", "n", "files", "sub", "dir", "only", "caf%C3%A9", "parts", "x"]
ODD = [
    *("", ".", "..", "%2e%2e", "%2F", "a%2Fb", "%0A", "x%0A", "x%0Ay", "7%0A", "items%0A", "%20"),
    *("ITEMS", "Sub", "%69tems", "subway", "items%2F7", "007", "1.5", "1.", "-7", "1_0", "%00"),
    *(UUID, UUID.upper(), UUID.replace("-", ""), "%D9%A1", "%FF", "%C3%BC", "{id}", ":id", "*"),
    *("a;b", "a%3Fb", "api", "http:"),
]
CHANGES = [
    *("{swapped}{tail}", "{encoded}{tail}", "{head}/{tail}", "{head}/{segment}/{tail}"),
    *("{head}{tail}/{segment}", "{head}{tail}{segment}", "/{segment}{head}{tail}", "/{segment}"),
    *("/{segment}/..{head}{tail}", "{head}{tail}/", "{head}{tail}%0A", "/{head}{tail}", "{tail}"),
    *("http://host{head}{tail}", "{head}{tail}?v=1"),
]
"""Ways to write a target differently: it is cut in two somewhere, and there is another segment."""
methods = st.sampled_from(["GET", "GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "DELETE", "get"])
segments = st.sampled_from(NAMES) | st.sampled_from(ODD)


@st.composite
def targets(draw: st.DrawFn, templates: list[str]) -> str:
    """A request target that is one of the templates, or nearly."""
    path = quote(draw(st.sampled_from(templates)).split(" ")[1], safe="/{}:")
    target = re.sub(r"{[^}]*}", lambda _: draw(segments), path)
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        cut = draw(st.integers(0, len(target)))
        head, tail = target[:cut], target[cut:]
        target = change.format(
            head=head,
            tail=tail,
            swapped=head.swapcase(),
            encoded=re.sub(r"\w", lambda letter: f"%{ord(letter[0]):02x}", head),
            segment=draw(segments),
        )
    return target


def agree(name: str, framework: Framework, scope: Scope) -> None:
    """The handler's own policy counts, or none; but for the exceptions on the page."""
    served = framework.served(scope)
    counted = framework.counted(scope, served.status)
    path = route_path(scope)
    if name in ("starlette", "fastapi") and "\n" in path and path.startswith(f"{MOUNT}/"):
        # Mounts and newlines: another route of the app may serve it, but none for nothing.
        assert counted or not served.template
    elif name == "quart" and served.status == 308:
        # A redirect for a slash, though another template matches the path as it was sent.
        assert not served.template
    elif name == "litestar" and re.match(rf"/*{MOUNT[1:]}[^/]", path):
        # A mount serves all paths that begin as it does, whether or not a segment ends there.
        assert served.template == f"ANY {MOUNT}/{{rest:path}}"
    else:
        assert counted == served.template, served


@FRAMEWORKS
@settings(max_examples=300, deadline=None)
@given(data=st.data(), method=methods)
def test_what_is_served_is_counted(
    frameworks: dict[str, Framework], name: str, method: str, data: st.DataObject
) -> None:
    """Under the template of the handler that was reached, and under none where none was."""
    target = data.draw(targets(frameworks[name].templates))
    agree(name, frameworks[name], request(method, target))


@FRAMEWORKS
@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    root=st.sampled_from(["/api", "/api/v1", "/n", "/api/"]),
    again=st.sampled_from(["", "/api", "/n"]),
)
def test_behind_a_root_path_too(
    frameworks: dict[str, Framework], name: str, root: str, again: str, data: st.DataObject
) -> None:
    """The server puts its root path first; it may be sent once more, or look like a route."""
    framework = frameworks[name]
    target = again + "/" + data.draw(targets(framework.templates)).lstrip("/")
    agree(name, framework, request("GET", target, root))


@pytest.mark.parametrize("name", ["starlette", "fastapi", "litestar"])
@settings(max_examples=100, deadline=None)
@given(data=st.data(), root=st.sampled_from(["/wrong", "/", "/items/7/parts/8"]))
def test_a_wrong_root_path_loses_nothing(
    frameworks: dict[str, Framework], name: str, root: str, data: st.DataObject
) -> None:
    """A root path that is not in front of the path is ignored, as these frameworks ignore it.

    Not so below a mount of Starlette, which routes nothing properly then, and in Quart.
    """
    framework = frameworks[name]
    target = "/" + data.draw(targets(framework.templates)).lstrip("/")
    if not unquote(target).startswith(MOUNT):
        agree(name, framework, request("GET", target, root, front=""))


@pytest.mark.parametrize(
    ("name", "target", "template"),
    [
        ("quart", "//items", "GET /items"),
        ("quart", "http://host/items", "GET /items"),
        ("quart", "/n/%D9%A1", "GET /n/{n:int}"),
        ("litestar", "/items/", "GET /items"),
        ("litestar", "//items//prices", "GET /items/prices"),
        ("litestar", "items/7", "GET /items/{id}"),
        ("litestar", "/files/a%0Ab", "GET /files/{rest:path}"),
    ],
)
def test_the_rules_are_needed(
    frameworks: dict[str, Framework], name: str, target: str, template: str
) -> None:
    """Without them these requests are served and not counted, or not as what they are."""
    scope = request("GET", target)
    assert frameworks[name].served(scope) == Served(200, template)
    assert frameworks[name].counted(scope, 200) == template
    assert frameworks["starlette"].counted(scope, 200) != template


@pytest.mark.parametrize("name", ["starlette", "fastapi"])
def test_a_newline_is_no_way_into_a_mount(frameworks: dict[str, Framework], name: str) -> None:
    """Starlette's mounts count a final newline wrongly, and serve this as `/sub/x`."""
    scope = request("GET", "/sub//x%0A")
    assert frameworks[name].served(scope) == Served(200, "GET /sub/x")
    assert frameworks[name].counted(scope, 200) == "GET /sub/x"


def test_a_mount_of_litestar_serves_more_than_it_says(frameworks: dict[str, Framework]) -> None:
    """What the page warns of: `/subway` is a path of the mount `/sub`, and of no template of it."""
    scope = request("GET", "/subway")
    assert frameworks["litestar"].served(scope) == Served(200, "ANY /sub/{rest:path}")
    assert frameworks["litestar"].counted(scope, 200) == "GET /{page}"


def test_a_redirect_for_a_slash_is_an_answer(frameworks: dict[str, Framework]) -> None:
    """What the page warns of: Quart redirects to `/sub/dir/` what `/sub/{id}` matches."""
    scope = request("GET", "/sub/dir")
    assert frameworks["quart"].served(scope) == Served(308)
    assert frameworks["quart"].counted(scope, 308) == "GET /sub/{id}"


@pytest.mark.parametrize("sent", ["/items/7", "/api/items/7"])
def test_the_root_path_of_fastapi_is_seen_inside_of_it(sent: str) -> None:
    """FastAPI serves both; `add_middleware` sees the root path that makes them one route."""
    from fastapi import FastAPI, Response

    seen: list[str] = []

    class Watch:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(route_path(scope))
            await self._app(scope, receive, send)

    with pytest.warns(Warning, match="`root_path` parameter is deprecated"):
        app = FastAPI(openapi_url=None, root_path="/api")
    app.add_api_route("/items/{id}", lambda: Response(headers={"x-template": "item"}))
    app.add_middleware(Watch)
    assert asyncio.run(served_by(app, request("GET", sent))) == Served(200, "item")
    assert seen == ["/items/7"]
