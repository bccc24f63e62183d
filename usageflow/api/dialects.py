"""How usage is told over HTTP, in each of its dialects. Pure: bytes in, claims or problems out.

A claim says what the client said; which metric it means, and whose it is, is found out later.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from usageflow.api.batches import lines_of
from usageflow.api.exact_json import YEARS
from usageflow.api.problems import Problem

PLAIN: Final = re.compile(r"-?[0-9]{1,38}(\.[0-9]{1,12})?")
"""A number in a string, as `exact_json` has it."""
NDJSON_TYPES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")
CLOUDEVENTS_TYPE: Final = "application/cloudevents+json"
CLOUDEVENTS_BATCH_TYPE: Final = "application/cloudevents-batch+json"


class Claim(NamedTuple):
    """One event as a client told it. `metric` is a key, an id or a token.

    `customer` is an external id, `customer_id` an id of ours. Without a `quantity` it is what the
    metric's property has in the `metadata`.
    """

    metric: str
    customer: str | None
    customer_id: str | None
    quantity: Decimal | None
    occurred_at: datetime | None
    idempotency_key: str | None
    metadata: Mapping[str, Any] | None


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A field that is misspelt is refused: nobody would see that it was left out."""


class Track(_Strict):
    """`POST /api/track` (usageflow-getting-started, step 7)."""

    metric: str
    amount: Decimal
    customerId: str | None = None  # noqa: N815 - the document's name
    metadata: dict[str, Any] | None = None
    timestamp: str | None = None
    idempotencyKey: str | None = None  # noqa: N815 - as above; in batches, which have one header


class Usage(_Strict):
    """`POST /api/v1/sdk/track` and `/api/v1/usage` (fluxrate-quickstart, step 6)."""

    meter_token: str | None = None
    meter_id: str | None = None
    meter_name: str | None = None
    customer_external_id: str | None = None
    customer_id: str | None = None
    quantity: Decimal | None = None
    timestamp: str | None = None
    idempotency_key: str | None = None
    metadata: dict[str, Any] | None = None
    properties: dict[str, Any] | None = None


class CloudEvent(msgspec.Struct, kw_only=True):
    """A structured CloudEvent (CloudEvents 1.0, JSON format); it may have other attributes."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    data: dict[str, Any] | None = None


class _Batch(_Strict):
    events: list[msgspec.Raw]


class _Form(msgspec.Struct):
    """Tells the two forms of a batch's events apart."""

    metric: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind, float_hook=Decimal)


_TRACK: Final = _decoder(Track)
_USAGE: Final = _decoder(Usage)
_CLOUDEVENT: Final = _decoder(CloudEvent)
_BATCH: Final = _decoder(_Batch)
_RAWS: Final = _decoder(list[msgspec.Raw])
_FORM: Final = _decoder(_Form)


def track(body: bytes, header_key: str | None) -> Claim | Problem:
    """The event of `/api/track`; its key is in the header `Idempotency-Key`."""
    told = _read(_TRACK, body)
    return told if isinstance(told, Problem) else _of_track(told, header_key)


def usage(body: bytes, header_key: str | None) -> Claim | Problem:
    """The event of `/api/v1/sdk/track` or `/api/v1/usage`."""
    told = _read(_USAGE, body)
    return told if isinstance(told, Problem) else _of_usage(told, header_key)


def cloudevent(body: bytes) -> Claim | Problem:
    """One CloudEvent."""
    told = _read(_CLOUDEVENT, body)
    return told if isinstance(told, Problem) else _of_cloudevent(told)


def batch(body: bytes, media_type: str, *, events_max: int) -> list[Claim | Problem] | Problem:
    """The events of a batch, each in either form: `{"events": [...]}`, or a line each."""
    if media_type in NDJSON_TYPES:
        lines = lines_of(body, events_max=events_max)
        return lines if isinstance(lines, Problem) else [_either(line) for line in lines]
    told = _read(_BATCH, body)
    if isinstance(told, Problem):
        return told
    events: Sequence[msgspec.Raw] = told.events
    return _too_many(len(events), events_max) or [_either(bytes(one)) for one in events]


def cloudevents(body: bytes, *, events_max: int) -> list[Claim | Problem] | Problem:
    """A batch of CloudEvents."""
    told = _read(_RAWS, body)
    if isinstance(told, Problem):
        return told
    return _too_many(len(told), events_max) or [cloudevent(bytes(one)) for one in told]


def _either(event: bytes) -> Claim | Problem:
    form = _read(_FORM, event)
    if isinstance(form, Problem):
        return form
    return usage(event, None) if form.metric is msgspec.UNSET else track(event, None)


Told = TypeVar("Told")


def _read(decoder: "msgspec.json.Decoder[Told]", body: bytes) -> Told | Problem:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        return _invalid(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Problem(400, "invalid_json", f"the body is not JSON: {error}")


def _of_track(told: Track, header_key: str | None) -> Claim | Problem:
    at = _instant(told.timestamp)
    if isinstance(at, Problem):
        return at
    key = told.idempotencyKey if header_key is None else header_key
    return Claim(told.metric, told.customerId, None, told.amount, at, key, told.metadata)


def _of_usage(told: Usage, header_key: str | None) -> Claim | Problem:
    meters = [
        name for name in (told.meter_token, told.meter_id, told.meter_name) if name is not None
    ]
    if len(meters) != 1:
        return _invalid("name the meter by one of meter_token, meter_id and meter_name")
    if told.customer_external_id is not None and told.customer_id is not None:
        return _invalid("name the customer by one of customer_external_id and customer_id")
    if told.metadata is not None and told.properties is not None:
        return _invalid("send metadata or properties, not both")
    at = _instant(told.timestamp)
    if isinstance(at, Problem):
        return at
    return Claim(
        meters[0],
        told.customer_external_id,
        told.customer_id,
        told.quantity,
        at,
        header_key if told.idempotency_key is None else told.idempotency_key,
        told.metadata if told.properties is None else told.properties,
    )


def _of_cloudevent(told: CloudEvent) -> Claim | Problem:
    """`id` tells events of one `source` apart (CloudEvents 1.0, 3.1)."""
    if told.specversion != "1.0":
        return _invalid("specversion must be 1.0")
    at = _instant(told.time)
    if isinstance(at, Problem):
        return at
    data = told.data or {}
    quantity = data.get("quantity", data.get("value"))
    if quantity is not None:
        quantity = _quantity(quantity)
        if isinstance(quantity, Problem):
            return quantity
    key = msgspec.json.encode([told.source, told.id]).decode()
    return Claim(told.type, told.subject, None, quantity, at, key, told.data)


def number(value: Any) -> Decimal | None:
    """A JSON number, or one in a string, exactly; None for anything else."""
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        return None  # Decimal would take underscores, blanks and other scripts' digits
    try:
        return msgspec.convert(value, Decimal)
    except msgspec.ValidationError:
        return None


def _quantity(value: Any) -> Decimal | Problem:
    found = number(value)
    return _invalid("data.quantity must be a number") if found is None else found


def _instant(text: str | None) -> datetime | Problem | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.utcoffset() is None or at.year not in YEARS:
        return _invalid(
            "a time is ISO 8601 with an offset, such as 2025-03-01T00:00:00Z, in the years "
            f"{YEARS.start} to {YEARS.stop - 1}"
        )
    return at.astimezone(UTC)


def _invalid(message: str) -> Problem:
    return Problem(400, "invalid", message)


def _too_many(count: int, events_max: int) -> Problem | None:
    if count <= events_max:
        return None
    return Problem(413, "too_many_events", f"more than {events_max} events; send several batches")
