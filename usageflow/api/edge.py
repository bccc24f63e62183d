"""What an edge asks: the policies to apply, and to take what it spooled and what it discovered.

Both need a key with the scope usage.write and act for the key's organization alone. Database work
runs in worker threads; what a batch means is decided in the ledger.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from usageflow.api.batches import decoded, lines_of, too_large
from usageflow.api.problems import Problem, json_response
from usageflow.catalog import endpoints, keys
from usageflow.catalog.policies import CurrentPolicies, current
from usageflow.config import Settings
from usageflow.db.session import Database, Tx
from usageflow.ledger import store
from usageflow.middleware.endpoints import read_report
from usageflow.policies.reason import Reason
from usageflow.recorder.sink import API_KEY_HEADER, ENDPOINTS_PATH, EVENTS_PATH, POLICIES_PATH

SCOPE: Final = "usage.write"
KEY_USE_GRAIN: Final = timedelta(minutes=1)
"""How exactly a key's last use is known."""


class EdgeEndpoints:
    """`/api/edge/*` over one database. `on_events` is called after a batch was committed."""

    def __init__(self, db: Database, settings: Settings, on_events: Callable[[], None]) -> None:
        self._db = db
        self._settings = settings
        self._on_events = on_events
        self._noted_at: dict[str, datetime] = {}

    def routes(self) -> list[Route]:
        """The endpoints with their paths."""
        return [
            Route(POLICIES_PATH, self.policies, methods=["GET"]),
            Route(EVENTS_PATH, self.events, methods=["POST"]),
            Route(ENDPOINTS_PATH, self.endpoints, methods=["POST"]),
        ]

    async def policies(self, request: Request) -> Response:
        """The organization's current policies; 304 while the edge's copy is current."""
        caller = await self._authenticate(request.headers)
        if isinstance(caller, Problem):
            return caller.response()
        found = await run_in_threadpool(self._current, caller.organization_id)
        headers = {"etag": found.etag, "cache-control": "no-cache"}
        if _names(request.headers.get("if-none-match", ""), found.etag):
            return Response(status_code=304, headers=headers)
        listed = [
            {"version": version, "policy": msgspec.Raw(document.encode())}
            for document, version in found.items
        ]
        return json_response({"policies": listed}, headers=headers)

    async def events(self, request: Request) -> Response:
        """Take a batch of NDJSON lines; the answer has one result per line, in order."""
        caller = await self._authenticate(request.headers)
        if isinstance(caller, Problem):
            return caller.response()
        body = await _body(request, self._settings.ingest_bytes_max)
        if isinstance(body, Problem):
            return body.response()
        encoding = request.headers.get("content-encoding", "")
        results = await run_in_threadpool(self._take, caller, body, encoding)
        if isinstance(results, Problem):
            return results.response()
        self._on_events()
        return json_response({"results": results})

    async def endpoints(self, request: Request) -> Response:
        """Take a report of endpoints that no policy matches; how many of them are kept."""
        caller = await self._authenticate(request.headers)
        if isinstance(caller, Problem):
            return caller.response()
        body = await _body(request, self._settings.ingest_bytes_max)
        if isinstance(body, Problem):
            return body.response()
        found = await run_in_threadpool(self._note_endpoints, caller, body)
        return found.response() if isinstance(found, Problem) else json_response(found)

    async def _authenticate(self, headers: Headers) -> keys.Caller | Problem:
        secret = presented_key(headers)
        if secret is None:
            return _unauthorized("invalid_api_key", f"no API key: send it as {API_KEY_HEADER}")
        found = await run_in_threadpool(self._look_up, secret)
        if isinstance(found, keys.Caller):
            return found
        if found.code == "insufficient_scope":
            return Problem(403, found.code, found.message)
        return _unauthorized(found.code, found.message)

    def _look_up(self, secret: str) -> keys.Caller | keys.Refusal:
        with self._db.reading() as tx:
            return keys.authenticate(tx, secret, SCOPE)

    def _current(self, organization_id: str) -> CurrentPolicies:
        with self._db.reading() as tx:
            return current(tx, organization_id)

    def _take(
        self, caller: keys.Caller, body: bytes, encoding: str
    ) -> list[store.ItemResult] | Problem:
        settings = self._settings
        plain = decoded(body, encoding, bytes_max=settings.ingest_bytes_max)
        if isinstance(plain, Problem):
            return plain
        lines = lines_of(plain, events_max=settings.ingest_events_max)
        if isinstance(lines, Problem):
            return lines
        with self._db.transaction() as tx:
            results = store.append(
                tx, caller.organization_id, lines, unknown_metric=settings.unknown_metric
            )
            self._note_use(tx, caller.key_id)
        return results

    def _note_endpoints(self, caller: keys.Caller, body: bytes) -> dict[str, int] | Problem:
        found = read_report(body)
        if isinstance(found, Reason):
            return Problem(400, "invalid_body", found.text)
        with self._db.transaction() as tx:
            endpoints.report(tx, caller.organization_id, found)
            self._note_use(tx, caller.key_id)
        return {"endpoints": len(found)}

    def _note_use(self, tx: Tx, key_id: str) -> None:
        """Last in the transaction and seldom: edges share keys and must not wait for one row."""
        noted_at = self._noted_at.get(key_id)
        if noted_at is None or tx.now - noted_at >= KEY_USE_GRAIN:
            keys.mark_used(tx, key_id)
            self._noted_at[key_id] = tx.now


def presented_key(headers: Headers) -> str | None:
    """The API key of a request: our own header, or else a bearer token."""
    own = headers.get(API_KEY_HEADER)
    if own is not None:
        return own.strip()
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _unauthorized(code: str, message: str) -> Problem:
    """A 401; it must tell how to authenticate (RFC 9110, section 15.5.2)."""
    return Problem(401, code, message, {"www-authenticate": 'Bearer realm="usageflow"'})


def _names(condition: str, etag: str) -> bool:
    """Whether an If-None-Match list names this tag (RFC 9110, 13.1.2: weak comparison)."""
    tags = {tag.strip().removeprefix("W/") for tag in condition.split(",")}
    return "*" in tags or etag in tags


async def _body(request: Request, bytes_max: int) -> bytes | Problem:
    """The request's raw body; reading stops at the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            return too_large(bytes_max)
    return bytes(body)
