"""What comes from Stripe unasked or on asking: its events, its error reports, accounts. Pure.

Shapes, and how they are read from Stripe's JSON. Whether a webhook is genuine is told in `client`,
what follows from an event elsewhere. Fields that nobody here needs are left out.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

from usageflow.stripe.meter_events import Meter

ERROR_REPORT: Final = "v1.billing.meter.error_report_triggered"
"""Type of the thin event that tells of meter events dropped after they had been accepted."""
NO_METER_FOUND: Final = "v1.billing.meter.no_meter_found"
"""The same for meter events whose event name no meter has."""
KEY_SEPARATOR: Final = "."
"""Between the identifier of a meter event and the rest of an idempotency key; in no identifier."""
_UNKNOWN_FORM: Final = (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError)
"""The last two for a moment that is none."""

Shape = TypeVar("Shape")

logger = logging.getLogger("usageflow.stripe")


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundEvent:
    """An event of Stripe's. `account` is the connected account it is about, None for one's own.

    A snapshot has its `object` and, of an update, the `previous` values of what changed. A `thin`
    one has only the related object's id, type and URL there, or nothing.
    """

    event_id: str
    type: str
    created: datetime
    livemode: bool
    account: str | None
    object: Mapping[str, Any]
    previous: Mapping[str, Any] | None
    thin: bool


class Sample(NamedTuple):
    """One meter event that was dropped; `identifier` is None where Stripe names no other key."""

    code: str
    message: str
    identifier: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """How many meter events of `[window_start, window_end)` were dropped, and samples of them.

    `codes` counts by reason. `meter_id` is None where no meter has the event name.
    """

    event_id: str
    created: datetime
    meter_id: str | None
    codes: Mapping[str, int]
    error_count: int
    samples: tuple[Sample, ...]
    window_start: datetime
    window_end: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Connected:
    """What an authorization code was exchanged for: one may now act for this account."""

    account_id: str
    livemode: bool
    scope: str


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """An account as its owner knows it."""

    account_id: str
    name: str
    livemode: bool

    @property
    def label(self) -> str:
        """Name and id for a person; one that has no other name has its id for it."""
        return self.name if self.name == self.account_id else f"{self.name} ({self.account_id})"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Stripe sends events to, and the secret that it signs them with."""

    endpoint_id: str
    secret: str = field(repr=False)


def inbound_event(raw: Mapping[str, Any]) -> InboundEvent | None:
    """An event, snapshot or thin, from its JSON; None if that is no event."""
    try:
        return _thin(raw) if raw["object"] == "v2.core.event" else _snapshot(raw)
    except _UNKNOWN_FORM:
        return None


def understood(
    raws: Iterable[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Shape | None]
) -> Iterator[Shape]:
    """Read each of these; what is of no known form is told of in the log and left out."""
    for raw in raws:
        try:
            found = read(raw)
        except _UNKNOWN_FORM:
            found = None
        if found is None:
            logger.warning("%r of Stripe is skipped: it has no form we know", raw.get("id"))
        else:
            yield found


def error_report(raw: Mapping[str, Any]) -> ErrorReport:
    """A report from the whole thin event (not from its notification, which has no data).

    One whose samples say little, or nothing, still tells how many were dropped, and when. Raises
    one of _UNKNOWN_FORM if it does not.
    """
    data, dropped_by = raw["data"], raw.get("related_object") or {}
    kinds = data["reason"]["error_types"]
    return ErrorReport(
        event_id=raw["id"],
        created=datetime.fromisoformat(raw["created"]),
        meter_id=dropped_by.get("id"),
        codes={kind["code"]: kind["error_count"] for kind in kinds},
        error_count=data["reason"]["error_count"],
        samples=tuple(
            Sample(
                kind["code"],
                sample.get("error_message") or "",
                _identifier(sample.get("request") or {}),
            )
            for kind in kinds
            for sample in kind.get("sample_errors") or ()
        ),
        window_start=datetime.fromisoformat(data["validation_start"]),
        window_end=datetime.fromisoformat(data["validation_end"]),
        message=data.get("developer_message_summary") or "",
    )


def meter(raw: Mapping[str, Any]) -> Meter:
    """A meter from its JSON. Raises KeyError or TypeError if it is none."""
    return Meter(
        event_name=raw["event_name"],
        meter_id=raw["id"],
        formula=raw["default_aggregation"]["formula"],
        status=raw["status"],
        time_window=raw.get("event_time_window"),
        customer_key=raw["customer_mapping"]["event_payload_key"],
        value_key=raw["value_settings"]["event_payload_key"],
    )


def account_info(raw: Mapping[str, Any], *, livemode: bool) -> AccountInfo:
    """An account from its JSON, by the name that its dashboard shows, else any it has."""
    dashboard = (raw.get("settings") or {}).get("dashboard") or {}
    business = raw.get("business_profile") or {}
    name = dashboard.get("display_name") or business.get("name") or raw.get("email") or raw["id"]
    return AccountInfo(raw["id"], name, livemode)


def _snapshot(raw: Mapping[str, Any]) -> InboundEvent:
    return InboundEvent(
        event_id=raw["id"],
        type=raw["type"],
        created=datetime.fromtimestamp(raw["created"], UTC),
        livemode=raw["livemode"],
        account=raw.get("account"),
        object=raw["data"]["object"],
        previous=raw["data"].get("previous_attributes"),
        thin=False,
    )


def _thin(raw: Mapping[str, Any]) -> InboundEvent:
    """The account is the last part of the context, which may name the one above it first."""
    context = raw.get("context") or ""
    return InboundEvent(
        event_id=raw["id"],
        type=raw["type"],
        created=datetime.fromisoformat(raw["created"]),
        livemode=raw["livemode"],
        account=context.rpartition("/")[2] or None,
        object=raw.get("related_object") or {},
        previous=None,
        thin=True,
    )


def _identifier(request: Mapping[str, Any]) -> str | None:
    """The identifier of a sample's meter event.

    Stripe's documents show both the identifier and the idempotency key of the request there; the
    key begins with the identifier (see `client.send_meter_event`).
    """
    named = request.get("identifier") or request.get("idempotency_key") or ""
    return named.partition(KEY_SEPARATOR)[0] or None
