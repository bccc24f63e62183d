"""The routes of an app: from Starlette, FastAPI, Litestar, Quart, or whatever describes itself.

Reads what frameworks keep of their routes and imports none of them; the user's module does. Whoever
wraps an app (UsageFlowMiddleware, other middleware) is looked through. Judges nothing.
"""

import importlib
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from usageflow.cli.openapi import document_routes, read_document
from usageflow.errors import ConfigurationError
from usageflow.policies.app_routes import ANY, AppRoute, Piece

WEBSOCKET: Final = "WEBSOCKET"
WRAPPERS_MAX: Final = 100
"""Layers of middleware around an app; a wrapper that holds itself has no end."""

_WRAPPED: Final = ("app", "_app", "__wrapped__", "__self__")
"""Where wrappers keep what they wrap; the last is the object of a bound method."""
_DOCUMENTS: Final = (".json", ".yaml", ".yml")
_REST: Final = re.compile(r"(?:/.*)?")
_BELOW: Final = re.compile("/.*")
_FINAL_SLASH: Final = re.compile(r"/?")
_PARAMETER: Final = re.compile(r"\{(\w+)[^}]*\}")
_WERKZEUG_PARAMETER: Final = re.compile(r"<(?:[^<>]*:)?(\w+)>")
_LITESTAR_FORMS: Final = {
    "str": r"[^/]+",
    "path": r".*[^/]",
    "int": r"[+-]?[0-9]+",
    "float": r"[+-]?[0-9]+(?:\.[0-9]+)?",
    "decimal": r"[+-]?[0-9]+(?:\.[0-9]+)?",
    "uuid": r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "date": r"\d{4}-\d\d-\d\d",
    "datetime": r"\d{4}-\d\d-\d\dT[^/]+",
    "time": r"\d\d:\d\d:\d\d",
    "timedelta": r"P[^/]+|[0-9]+",
}


class _Place(NamedTuple):
    """Where routes are mounted."""

    template: str = ""
    pieces: tuple[Piece, ...] = ()
    host: str | None = None

    def route(self, method: str, template: str, name: str, pieces: Iterable[Piece]) -> AppRoute:
        """A route in this place."""
        every = (*self.pieces, *pieces)
        return AppRoute.of(method, self.template + template, name, every, self.host)


_HERE: Final = _Place()
_specificity: Final = attrgetter("specificity")


def routes_of(target: str) -> list[AppRoute]:
    """The routes of `module:attribute`, `module:factory()` or an OpenAPI file, as they are tried.

    Raises ConfigurationError if they cannot be read; the message names the way that remains.
    """
    if Path(target).suffix in _DOCUMENTS:
        return document_routes(read_document(Path(target)), served=True)
    app = _imported(target)
    routes = _routes(app, _HERE)
    if routes is None:
        raise ConfigurationError(
            f"the routes of {target} ({type(app).__name__}) cannot be read: pass a file with its "
            "OpenAPI description instead"
        )
    return routes


def _imported(target: str) -> Any:
    module, colon, path = target.partition(":")
    if not colon or not module or not path:
        raise ConfigurationError(
            f"{target!r} is neither module:attribute nor an OpenAPI file (.json, .yaml)"
        )
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as servers do that are given module:attribute
    try:
        found: Any = importlib.import_module(module)
        for name in path.removesuffix("()").split("."):
            found = getattr(found, name)
        return found() if path.endswith("()") else found
    except Exception as error:
        raise ConfigurationError(f"{target}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)


def _routes(app: Any, place: _Place) -> list[AppRoute] | None:
    """The routes of an app, or of the app that it wraps; None if they cannot be read."""
    for _ in range(WRAPPERS_MAX):
        origins = {kind.__module__.partition(".")[0] for kind in type(app).__mro__}
        if "starlette" in origins and hasattr(app, "routes"):
            return list(_starlette_routes(app, place))  # in their own order
        if "litestar" in origins and hasattr(app, "routes"):
            return sorted(_litestar_routes(app, place), key=_specificity)
        if hasattr(app, "url_map"):
            return sorted(_werkzeug_routes(app.url_map, place), key=_specificity)
        if callable(getattr(app, "openapi", None)):
            described = document_routes(app.openapi(), served=False)
            return [place.route(*each[:4]) for each in described]
        wrapped = [getattr(app, name) for name in _WRAPPED if hasattr(app, name)]
        if not wrapped:
            break
        app = wrapped[0]
    return None


def _starlette_routes(router: Any, place: _Place) -> Iterator[AppRoute]:
    """Of an app or router of Starlette or FastAPI, in their order."""
    for route in router.routes:
        yield from _starlette_route(route, place)
    # FastAPI's static frontends come after everything else.
    for group in getattr(getattr(router, "router", router), "_low_priority_routes", ()):
        yield from _frontends(group, "", place)
    for route in router.routes:
        for context in getattr(route, "effective_low_priority_routes", tuple)():
            yield from _frontends(context.original_route, context.frontend_prefix, place)


def _starlette_route(route: Any, place: _Place) -> Iterator[AppRoute]:
    if hasattr(route, "effective_route_contexts"):  # FastAPI's include_router
        for context in route.effective_route_contexts():
            yield from _starlette_route(context.starlette_route or context, place)
    elif hasattr(route, "host"):
        host = _PARAMETER.sub("x", route.host)
        yield from _mounted(route, place._replace(host=host), _REST)
    elif hasattr(route, "endpoint"):
        methods = _methods(route.methods) if hasattr(route, "methods") else [WEBSOCKET]
        for method in methods:
            yield place.route(method, route.path, route.name, _starlette_pieces(route))
    elif hasattr(route, "path") and hasattr(route, "app"):
        inner = place._replace(
            template=place.template + route.path,
            pieces=(*place.pieces, *_starlette_pieces(route)),
        )
        yield from _mounted(route, inner, _BELOW)
    else:
        raise ConfigurationError(
            f"a route of type {type(route).__name__} cannot be read: pass a file with the app's "
            "OpenAPI description instead"
        )


def _mounted(route: Any, place: _Place, rest: re.Pattern[str]) -> Iterator[AppRoute]:
    """The routes of the app behind a mount or host; if they cannot be read, all that it may get."""
    routes = _routes(route.app, place)
    if routes is not None:
        yield from routes
    elif route.routes:
        yield from _starlette_routes(route, place)
    else:
        static = any(kind.__module__ == "starlette.staticfiles" for kind in type(route.app).__mro__)
        yield place.route("GET" if static else ANY, "/{path:path}", route.name or "", [rest])


def _frontends(group: Any, prefix: str, place: _Place) -> Iterator[AppRoute]:
    for route in group.routes:
        path = (prefix + route.path).rstrip("/")
        yield place.route(
            "GET", path + "/{path:path}", "frontend", [path, _REST if path else _BELOW]
        )


def _starlette_pieces(route: Any) -> Iterator[Piece]:
    """Fixed texts and parameters in turn, as the names and patterns of `route` say."""
    parts = _PARAMETER.split(route.path)
    for index, part in enumerate(parts):
        yield re.compile(route.param_convertors[part].regex) if index % 2 else part


def _litestar_routes(app: Any, place: _Place) -> Iterator[AppRoute]:
    """Litestar does not mind a final slash."""
    for route in app.routes:
        pieces = [piece for part in route.path_components for piece in ("/", _litestar_piece(part))]
        mounted = getattr(getattr(route, "route_handler", None), "is_mount", False)
        end = _REST if mounted else _FINAL_SLASH if pieces else "/"
        for method, name in _litestar_methods(route):
            yield place.route(method, route.path, name, [*pieces, end])


def _litestar_methods(route: Any) -> list[tuple[str, str]]:
    """Methods with the names of their handlers; what Litestar answers to OPTIONS is no route."""
    if hasattr(route, "route_handlers"):
        return sorted(
            (str(method), handler.handler_name)
            for handler in route.route_handlers
            for method in handler.http_methods
            if handler.handler_name != "options_handler"
        )
    kind = WEBSOCKET if route.scope_type == "websocket" else ANY
    return [(kind, route.route_handler.handler_name)]


def _litestar_piece(component: Any) -> Piece:
    if isinstance(component, str):
        return component
    return re.compile(_LITESTAR_FORMS[component.full.rpartition(":")[2]])


def _werkzeug_routes(url_map: Any, place: _Place) -> Iterator[AppRoute]:
    """Of Quart. What only redirects, only builds URLs or answers OPTIONS by itself is no route."""
    for rule in url_map.iter_rules():
        if rule.build_only or rule.redirect_to is not None:
            continue
        host = _WERKZEUG_PARAMETER.sub("x", rule.host) if url_map.host_matching else None
        text = rule.rule if rule.strict_slashes else rule.rule.rstrip("/")
        pieces: list[Piece] = [
            re.compile(rule._converters[part].regex) if index % 2 else part  # noqa: SLF001 - kept nowhere else
            for index, part in enumerate(_WERKZEUG_PARAMETER.split(text))
        ]
        if not rule.strict_slashes:
            pieces.append(_FINAL_SLASH)
        automatic = {"OPTIONS"} if getattr(rule, "provide_automatic_options", False) else set()
        methods = [WEBSOCKET] if rule.websocket else _methods(rule.methods, automatic)
        for method in methods:
            yield place._replace(host=host or place.host).route(
                method, rule.rule, rule.endpoint, pieces
            )


def _methods(methods: Iterable[str] | None, without: Collection[str] = ()) -> list[str]:
    """The methods of a route; HEAD goes with GET. None is any."""
    if methods is None:
        return [ANY]
    named = set(methods) - set(without)
    return sorted(named - {"HEAD"} if "GET" in named else named)
