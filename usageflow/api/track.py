"""The endpoints that usage is told at, in every dialect; one core behind all.

A single event is committed together with those that come at the same time (`group_commit`), a batch
by itself; either is durable before it is answered. What a body may hold is `dialects`'s, what
becomes of it `claims`'s.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from usageflow.api import claims, dialects
from usageflow.api.batches import decoded, too_large
from usageflow.api.claims import Answer, Caller, Credentials, Submission, Taken
from usageflow.api.dialects import CLOUDEVENTS_BATCH_TYPE, Claim
from usageflow.api.group_commit import GroupCommit
from usageflow.api.problems import Problem, json_response
from usageflow.catalog import keys
from usageflow.config import Settings
from usageflow.db.exact import plain
from usageflow.db.session import Database, Tx

TRACK_PATH: Final = "/api/track"
SDK_TRACK_PATH: Final = "/api/v1/sdk/track"
USAGE_PATH: Final = "/api/v1/usage"
BATCH_PATH: Final = "/api/v1/usage/batch"
CLOUDEVENTS_PATH: Final = "/api/v1/cloudevents"
BODY_BYTES_MAX: Final = 65_536
"""Largest body of a single event: its metadata, and room for everything else."""
KEY_HEADERS: Final = ("idempotency-key", "x-idempotency-key")
KEY_USE_GRAIN: Final = timedelta(minutes=1)
"""How exactly a key's last use is known."""
NOT_FOUND: Final = ("unknown_metric", "unknown_customer")
"""What the dialect of meters answers with 404."""
_BUSY: Final = Problem(
    503,
    "busy",
    "more events arrive than can be committed; send the same again",
    {"retry-after": "1"},
)
_Reader: TypeAlias = Callable[[bytes, Request], Sequence[Claim | Problem] | Problem]


class TrackEndpoints:
    """`/api/track` and its like over one database. What is told here is not forwarded to Stripe."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._noted_at: dict[str, datetime] = {}
        self._group = GroupCommit(self._commit)

    def routes(self) -> list[Route]:
        """The endpoints with their paths."""
        return [
            Route(TRACK_PATH, self.track, methods=["POST"]),
            Route(SDK_TRACK_PATH, self.usage, methods=["POST"]),
            Route(USAGE_PATH, self.usage, methods=["POST"]),
            Route(BATCH_PATH, self.batch, methods=["POST"]),
            Route(CLOUDEVENTS_PATH, self.cloudevents, methods=["POST"]),
        ]

    async def track(self, request: Request) -> Response:
        """One event: `{"metric", "amount", "customerId"?, "metadata"?, "timestamp"?}`."""
        body = await _body(request, BODY_BYTES_MAX)
        claim = body if isinstance(body, Problem) else dialects.track(body, _key(request))
        return _tracked(await self._take_one(request, claim))

    async def usage(self, request: Request) -> Response:
        """One event: a meter's token, id or name, a customer, and a quantity or properties."""
        body = await _body(request, BODY_BYTES_MAX)
        claim = body if isinstance(body, Problem) else dialects.usage(body, _key(request))
        return _metered(await self._take_one(request, claim))

    async def batch(self, request: Request) -> Response:
        """Many events, each in either form, answered one by one."""
        return await self._take_many(request, self._events)

    async def cloudevents(self, request: Request) -> Response:
        """One CloudEvent, or a batch of them answered one by one."""
        if _media_type(request) == CLOUDEVENTS_BATCH_TYPE:
            return await self._take_many(request, self._cloudevents)
        body = await _body(request, BODY_BYTES_MAX)
        claim = body if isinstance(body, Problem) else dialects.cloudevent(body)
        return _tracked(await self._take_one(request, claim))

    async def _take_one(self, request: Request, claim: Claim | Problem) -> Taken | Problem:
        """In one transaction with the others that wait."""
        if self._group.full:
            return _BUSY
        submission = Submission(Credentials.of(request), [claim], request.url.path)
        answer = await self._group.submit(submission)
        return answer if isinstance(answer, Problem) else answer.taken[0]

    async def _take_many(self, request: Request, read: _Reader) -> Response:
        """In a transaction of their own. Who may not send them is told before they are read."""
        credentials = Credentials.of(request)
        caller = await run_in_threadpool(self._caller, credentials)
        if isinstance(caller, Problem):
            return caller.response()
        body = await _body(request, self._settings.ingest_bytes_max)
        if isinstance(body, Problem):
            return body.response()
        answer = await run_in_threadpool(self._read_and_take, request, credentials, body, read)
        if isinstance(answer, Problem):
            return answer.response()
        return json_response({"results": [_result(one) for one in answer.taken]})

    def _caller(self, credentials: Credentials) -> Caller | Problem:
        with self._db.reading() as tx:
            return claims.caller_of(tx, credentials)

    def _read_and_take(
        self, request: Request, credentials: Credentials, body: bytes, read: _Reader
    ) -> Answer | Problem:
        encoding = request.headers.get("content-encoding", "")
        plain_body = decoded(body, encoding, bytes_max=self._settings.ingest_bytes_max)
        if isinstance(plain_body, Problem):
            return plain_body
        told = read(plain_body, request)
        if isinstance(told, Problem):
            return told
        return self._commit([Submission(credentials, told, request.url.path)])[0]

    def _events(self, body: bytes, request: Request) -> Sequence[Claim | Problem] | Problem:
        events_max = self._settings.ingest_events_max
        return dialects.batch(body, _media_type(request), events_max=events_max)

    def _cloudevents(self, body: bytes, _: Request) -> Sequence[Claim | Problem] | Problem:
        return dialects.cloudevents(body, events_max=self._settings.ingest_events_max)

    def _commit(self, submissions: Sequence[Submission]) -> list[Answer | Problem]:
        with self._db.transaction() as tx:
            answers = claims.take(tx, submissions)
            used = {one.caller.key_id for one in answers if isinstance(one, Answer)}
            for key_id in sorted(key_id for key_id in used if key_id is not None):
                self._note_use(tx, key_id)
        return answers

    def _note_use(self, tx: Tx, key_id: str) -> None:
        """Last in the transaction and seldom: clients share keys and must not wait for one row."""
        noted_at = self._noted_at.get(key_id)
        if noted_at is None or tx.now - noted_at >= KEY_USE_GRAIN:
            keys.mark_used(tx, key_id)
            self._noted_at[key_id] = tx.now


def _tracked(taken: Taken | Problem) -> Response:
    """The answer of `/api/track`; the same for an event that was told before."""
    if isinstance(taken, Problem):
        return taken.response()
    if taken.outcome.event is None:
        return _refusal(taken).response()
    event_id = taken.outcome.event.id
    return json_response({"success": True, "eventId": event_id, "acceptance": "ACCEPTED"})


def _metered(taken: Taken | Problem) -> Response:
    """The answer of meters: the event."""
    if isinstance(taken, Problem):
        return taken.response()
    event = taken.outcome.event
    if event is None:
        refusal = _refusal(taken)
        status = 404 if refusal.code in NOT_FOUND else refusal.status
        return Problem(status, refusal.code, refusal.message).response()
    content = {
        "id": event.id,
        "customer_id": event.customer_id,
        "meter_id": taken.meter_id,
        "quantity": plain(event.quantity),
        "timestamp": event.occurred_at,
        "created_at": event.received_at,
        "meta_data": None if event.metadata is None else msgspec.Raw(event.metadata.encode()),
    }
    return json_response(content, status=201)


def _refusal(taken: Taken) -> Problem:
    outcome = taken.outcome
    status = 409 if outcome.status == "conflict" else 400
    return Problem(status, outcome.code, outcome.message)


def _result(taken: Taken | Problem) -> dict[str, Any]:
    """What became of one event of a batch."""
    if isinstance(taken, Problem):
        error = {"code": taken.code, "message": taken.message}
        return {"status": "refused", "eventId": None, "error": error}
    outcome = taken.outcome
    if outcome.event is not None:
        return {"status": outcome.status, "eventId": outcome.event.id}
    error = {"code": outcome.code, "message": outcome.message}
    return {"status": outcome.status, "eventId": None, "error": error}


def _key(request: Request) -> str | None:
    """The idempotency key in the headers."""
    return next(
        (value for name in KEY_HEADERS if (value := request.headers.get(name)) is not None), None
    )


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _body(request: Request, bytes_max: int) -> bytes | Problem:
    """The request's raw body; reading stops at the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            return too_large(bytes_max)
    return bytes(body)
