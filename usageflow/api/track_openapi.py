"""What OpenAPI tells of the endpoints that usage is told at; they are no routes of FastAPI."""

from collections.abc import Mapping
from typing import Any, Final

from usageflow.api import track

_JSON: Final = "application/json"
_NUMBER: Final = {"type": "number", "exclusiveMinimum": 0}
_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 500}
_TIME: Final = {"type": "string", "format": "date-time"}
_OBJECT: Final = {"type": "object", "additionalProperties": True}
_ERROR: Final = {"$ref": "#/components/schemas/ErrorAnswer"}


def _strict(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def _maybe(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [dict(schema), {"type": "null"}]}


_TRACK: Final = _strict(
    ["metric", "amount"],
    metric=_NAME,
    amount=_NUMBER,
    customerId=_maybe(_NAME),
    metadata=_maybe(_OBJECT),
    timestamp=_maybe(_TIME),
    idempotencyKey=_maybe(_NAME),
)
_METER: Final = ("meter_token", "meter_id", "meter_name")
_USAGE: Final = _strict(
    [],
    **dict.fromkeys((*_METER, "customer_external_id", "customer_id"), _maybe(_NAME)),
    quantity=_maybe(_NUMBER),
    timestamp=_maybe(_TIME),
    idempotency_key=_maybe(_NAME),
    metadata=_maybe(_OBJECT),
    properties=_maybe(_OBJECT),
)
_CLOUDEVENT: Final = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _NAME,
        "source": _NAME,
        "type": _NAME,
        "subject": _maybe(_NAME),
        "time": _maybe(_TIME),
        "data": _maybe(_OBJECT),
    },
}
_TRACKED: Final = _strict(
    ["success", "eventId", "acceptance"],
    success={"const": True},
    eventId={"type": "string"},
    acceptance={"const": "ACCEPTED"},
)
_METERED: Final = _strict(
    ["id", "customer_id", "meter_id", "quantity", "timestamp", "created_at", "meta_data"],
    id={"type": "string"},
    customer_id={"type": "string"},
    meter_id={"type": "string"},
    quantity={"type": "string"},
    timestamp=_TIME,
    created_at=_TIME,
    meta_data=_maybe(_OBJECT),
)
_RESULTS: Final = _strict(
    ["results"],
    results={
        "type": "array",
        "items": _strict(
            ["status", "eventId"],
            status={"enum": ["accepted", "duplicate", "conflict", "refused"]},
            eventId=_maybe({"type": "string"}),
            error=_strict(["code", "message"], code={"type": "string"}, message={"type": "string"}),
        ),
    },
)
_REFUSALS: Final = {
    "400": "The event cannot be read or taken; the message says why",
    "401": "No key or session, or one that is not good",
    "403": "Not permitted",
    "409": "The idempotency key belongs to an event with other content",
    "413": "The body is too large",
    "503": "The database does not answer, or too much is waiting; send the same again later",
}
_OF_METERS: Final = {"404": "There is no such metric or customer"}
_OF_BATCHES: Final = {"415": "The Content-Encoding is neither gzip nor none"}


def _operation(
    name: str,
    summary: str,
    bodies: Mapping[str, Any],
    answers: Mapping[str, Any],
    *,
    others: Mapping[str, str] | None = None,
    with_key: bool = True,
) -> dict[str, Any]:
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": _NAME,
        "description": "The same event under the same key counts once, however often it is sent",
    }
    told = {
        status: {"description": "Durable", "content": {_JSON: {"schema": schema}}}
        for status, schema in answers.items()
    }
    refused = {
        status: {"description": words, "content": {_JSON: {"schema": _ERROR}}}
        for status, words in {**_REFUSALS, **(others or {})}.items()
    }
    content = {media_type: {"schema": schema} for media_type, schema in bodies.items()}
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "tags": ["usage"],
            "x-permission": "usage.write",
            "parameters": [key] if with_key else [],
            "requestBody": {"required": True, "content": content},
            "responses": {**told, **refused},
        }
    }


_EVENTS: Final = _strict(["events"], events={"type": "array", "items": {"type": "object"}})
OPENAPI: Final[Mapping[str, Any]] = {
    track.TRACK_PATH: _operation("track", "Tell one event", {_JSON: _TRACK}, {"200": _TRACKED}),
    track.SDK_TRACK_PATH: _operation(
        "sdk_track",
        "Tell one event of a meter",
        {_JSON: _USAGE},
        {"201": _METERED},
        others=_OF_METERS,
    ),
    track.USAGE_PATH: _operation(
        "tell_usage",
        "Tell one event of a meter, by quantity or properties",
        {_JSON: _USAGE},
        {"201": _METERED},
        others=_OF_METERS,
    ),
    track.BATCH_PATH: _operation(
        "tell_batch",
        "Tell many events, in the form of /api/track or of /api/v1/usage; one result for each",
        {_JSON: _EVENTS, "application/x-ndjson": {"type": "string"}},
        {"200": _RESULTS},
        others=_OF_BATCHES,
        with_key=False,
    ),
    track.CLOUDEVENTS_PATH: _operation(
        "tell_cloudevents",
        "Tell usage as CloudEvents: type is the metric, subject the customer",
        {
            "application/cloudevents+json": _CLOUDEVENT,
            "application/cloudevents-batch+json": {"type": "array", "items": {"type": "object"}},
        },
        {"200": {"anyOf": [_TRACKED, _RESULTS]}},
        others=_OF_BATCHES,
        with_key=False,
    ),
}
"""Path items of each path, in the words of OpenAPI 3.1; `ErrorAnswer` is the app's."""
