"""What a quantity may take: the parts of its document, how they are read, and what it may say.

Checks at save time what would fail for every request. Evaluates nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import lru_cache, partial
from typing import Final

from usageflow._types import JSON, Headers
from usageflow.policies.expressions import EXPRESSIONS_KEPT, Expression
from usageflow.policies.facts import Facts, request_json, response_json
from usageflow.policies.query import query_pairs
from usageflow.policies.reason import Reason
from usageflow.policies.routes import Route, Template
from usageflow.policies.suggestions import did_you_mean

PARTS: Final = {
    "request": ("method", "path", "headers", "query", "params", "body", "bytes"),
    "response": ("status", "headers", "body", "bytes", "duration_ms"),
    "websocket": (
        "messages",
        "messages_in",
        "messages_out",
        "bytes",
        "bytes_in",
        "bytes_out",
        "seconds",
        "received",
        "sent",
    ),
}
"""What a quantity expression may take, by section of the document it is evaluated on."""
LASTING: Final = frozenset(
    {("request", part) for part in ("method", "path", "headers", "query", "params")}
    | {("response", part) for part in ("status", "headers")}
)
"""Parts that stay as they are once a response has begun."""
WEBSOCKET: Final = "WEBSOCKET"
"""The method by which `match` names the routes of WebSockets."""

_OF_HTTP: Final = ("request", "response")
"""The sections that every request has."""
_TEXTS: Final = (
    ("request", "method"),
    ("request", "path"),
    ("request", "headers", None),
    ("request", "params", None),
    ("request", "query", None),
    ("response", "headers", None),
)
"""Paths whose values are texts; None is any name."""
_NOT_OF_WEBSOCKETS: Final = {
    ("request", "body"): "websocket.received",
    ("request", "bytes"): "websocket.bytes_in",
    ("response", "body"): "websocket.sent",
    ("response", "bytes"): "websocket.bytes_out",
    ("response", "duration_ms"): "websocket.seconds",
}
"""Parts that a WebSocket has not, and what is meant."""


@lru_cache(EXPRESSIONS_KEPT)
def needed_parts(quantity: Decimal | str) -> frozenset[tuple[str, str]]:
    """The (section, part) pairs of the document that this quantity takes."""
    if isinstance(quantity, Decimal):
        return frozenset()
    return frozenset(pair for path in Expression.of(quantity).mentions for pair in _pairs(path))


def _pairs(path: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    if len(path) > 1:
        return ((path[0], path[1]),)
    return ((section, part) for section in path or _OF_HTTP for part in PARTS[section])


def quantity_expression(text: str) -> str:
    """`text`, if it is an expression over the document; raises ValueError with what is wrong."""
    expression = Expression.of(text)
    for path in expression.mentions:
        _check_path(path)
    messages = {part for section, part in needed_parts(text) if section == "websocket"}
    single = messages & {"received", "sent"}
    if single and messages > single:
        raise ValueError(
            "websocket.received and websocket.sent are single messages; count them alone"
        )
    if expression.yields is not None:
        raise ValueError(f"yields {expression.yields}, never a number")
    if expression.keys is not None and _is_text(expression.keys):
        raise ValueError(f"is text, never a number; write to_number({text})")
    return text


def quantity_problem_for(text: str, routes: Sequence[Route]) -> str | None:
    """Why this expression can never be measured on one of these routes; None if it can."""
    paths = sorted(Expression.of(text).mentions)
    problems = (_problem_on(route, path) for route in routes for path in paths if len(path) > 1)
    return next(filter(None, problems), None)


def _check_path(path: tuple[str, ...]) -> None:
    section, part = (*path, None, None)[:2]
    if section is None:
        return
    if section not in PARTS:
        raise ValueError(f'"{section}" is none of {", ".join(PARTS)}{did_you_mean(section, PARTS)}')
    if part is None:
        if section == "websocket":
            raise ValueError("takes the whole WebSocket; name its part, such as websocket.messages")
        return
    if part not in PARTS[section]:
        hint = did_you_mean(part, PARTS[section])
        raise ValueError(
            f"{section}.{part} does not exist; {section} has {', '.join(PARTS[section])}{hint}"
        )
    name = path[2] if part == "headers" and len(path) > 2 else ""  # noqa: PLR2004 - section.part.name
    if name != name.lower():
        raise ValueError(
            f'names of headers are in lower case here: write {section}.headers."{name.lower()}"'
        )


def _is_text(path: tuple[str, ...]) -> bool:
    return any(
        len(path) == len(known) and all(b in (a, None) for a, b in zip(path, known, strict=True))
        for known in _TEXTS
    )


def _problem_on(route: Route, path: tuple[str, ...]) -> str | None:
    """What is wrong with taking this path on this route. ANY is HTTP and WebSockets alike."""
    section, part, *names = path
    if (section, part) == ("request", "params") and names:
        known = route.template.parameters
        if names[0] not in known:
            hint = did_you_mean(names[0], known)
            return f'the path "{route.template.text}" has no parameter "{names[0]}"{hint}'
    if route.methods is None:
        return None
    if section == "websocket" and route.methods != {WEBSOCKET}:
        return f'{section}.{part} is of WebSockets only, and "{route.text}" is not'
    if WEBSOCKET in route.methods and (section, part) in _NOT_OF_WEBSOCKETS:
        return f"a WebSocket has no {section}.{part}; write {_NOT_OF_WEBSOCKETS[section, part]}"
    return None


def read_part(
    pair: tuple[str, str], facts: Facts, template: Template, segments: Sequence[str]
) -> JSON | Reason:
    """One part of the document, as far as the exchange came; a Reason if it cannot be read."""
    return _READERS[pair](facts, template, segments)


def _headers(headers: Headers) -> dict[str, str]:
    """Repeated fields are joined as RFC 9110, section 5.2, permits."""
    joined: dict[str, str] = {}
    for key, value in headers:
        name, text = key.decode("latin-1"), value.decode("latin-1")
        joined[name] = f"{joined[name]}, {text}" if name in joined else text
    return joined


def _query(facts: Facts) -> dict[str, JSON] | Reason:
    """A parameter is a text; one that occurs several times is a list of texts."""
    values: dict[str, list[str]] = {}
    pairs = query_pairs(facts.query_string)
    if isinstance(pairs, Reason):
        return pairs
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _params(_: Facts, template: Template, segments: Sequence[str]) -> dict[str, str]:
    return {name: template.value(name, segments) for name in template.parameters}


def _of_websocket(part: str, facts: Facts, _t: Template, _s: Sequence[str]) -> JSON | Reason:
    return facts.websocket.get(part, Reason(f"websocket.{part} is not of this request"))


_READERS: Final[dict[tuple[str, str], Callable[[Facts, Template, Sequence[str]], JSON]]] = {
    ("request", "method"): lambda facts, _t, _s: facts.method,
    ("request", "path"): lambda facts, _t, _s: facts.path,
    ("request", "headers"): lambda facts, _t, _s: _headers(facts.request_headers),
    ("request", "query"): lambda facts, _t, _s: _query(facts),
    ("request", "params"): _params,
    ("request", "body"): lambda facts, _t, _s: request_json(facts),
    ("request", "bytes"): lambda facts, _t, _s: facts.request_body.bytes_total,
    ("response", "status"): lambda facts, _t, _s: facts.status,
    ("response", "headers"): lambda facts, _t, _s: _headers(facts.response_headers),
    ("response", "body"): lambda facts, _t, _s: response_json(facts),
    ("response", "bytes"): lambda facts, _t, _s: facts.response_body.bytes_total,
    ("response", "duration_ms"): lambda facts, _t, _s: facts.duration_ms,
} | {("websocket", part): partial(_of_websocket, part) for part in PARTS["websocket"]}
