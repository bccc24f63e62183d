"""One example, driven through the same Exchange and evaluation as a request to the app.

Nothing is recorded and no app is called: what the app would send is part of the example.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final
from urllib.parse import unquote

import msgspec

from usageflow._types import JSON, Headers, Message, Scope
from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.middleware.exchange import Exchange
from usageflow.middleware.limits import Limits
from usageflow.policies import PolicySet, evaluate
from usageflow.policies.examples import Example, HeaderFields
from usageflow.policies.paths import route_path

REHEARSED: Final = "rehearsal"
"""The id of a rehearsed event; it is never recorded."""

_LIMITS: Final = Limits.of(Settings())
_JSON: Final = "application/json"
_SSE: Final = "text/event-stream"
_encoder: Final = msgspec.json.Encoder(decimal_format="number")


def rehearse(
    policies: PolicySet, example: Example, *, now: datetime, limits: Limits = _LIMITS
) -> list[UsageEvent]:
    """The events that this exchange leaves under these policies; `now` is UTC.

    Bodies are bounded as by the default settings, unless `limits` says otherwise.
    """
    moment = example.at or now
    scope = _scope(example)
    path = route_path(scope)
    match = policies.match(
        scope["method"], path, scope["headers"], scope["query_string"], scope["raw_path"]
    )
    if match is None:
        return []
    exchange = Exchange(match, scope, path, limits, started_at_s=moment.timestamp())
    exchange.received({"type": "http.request", "body": _request_body(example)})
    if not any(exchange.sends(message) for message in _response(example)):
        exchange.abandon()
    return evaluate(match, exchange, now=moment, new_id=lambda: REHEARSED)


def _scope(example: Example) -> Scope:
    """The scope of the request, as a server makes it."""
    method, _, target = example.request.partition(" ")
    raw_path, _, query = target.partition("?")
    json_type = _JSON if example.request_json is not None else None
    return {
        "type": "http",
        "method": method.upper(),
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": _headers(example.request_headers, json_type),
        "state": example.metadata,
    }


def _headers(fields: HeaderFields, content_type: str | None) -> Headers:
    """The fields as bytes; the type of the body if they do not say it."""
    headers = [(name.encode(), text.encode()) for name, text in fields]
    if content_type is not None and all(name != b"content-type" for name, _ in headers):
        headers.append((b"content-type", content_type.encode()))
    return headers


def _request_body(example: Example) -> bytes:
    return _body(example.request_body, example.request_json)


def _body(text: str | None, document: JSON) -> bytes:
    return (text or "").encode() if document is None else _encoder.encode(document)


def _response(example: Example) -> Iterator[Message]:
    """The messages of the app; without the last one if the response breaks off."""
    chunks = example.response_chunks
    json_type = _JSON if example.response_json is not None else None
    headers = _headers(example.response_headers, json_type if chunks is None else _SSE)
    yield {"type": "http.response.start", "status": example.response_status, "headers": headers}
    for chunk in chunks or ():
        yield {"type": "http.response.body", "body": chunk.encode(), "more_body": True}
    last = _body(example.response_body, example.response_json)
    yield {"type": "http.response.body", "body": last, "more_body": example.aborted}
