"""Usage that clients of the API tell: one core for every dialect.

An event is told once however often it is sent: under the same idempotency key the same content gets
the original answer, other content is a conflict. What a request looks like is the API's, what an
event leads to `entries`'s. Whoever sends what cannot be taken is told why.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import Select, select

from usageflow import events
from usageflow.db.columns import table
from usageflow.db.ids import new_id
from usageflow.db.session import Tx
from usageflow.db.tables import UsageEventRow
from usageflow.ledger import customers, entries, lateness
from usageflow.ledger.customers import DEFAULT, EXTERNAL_ID, Identified, Payer
from usageflow.ledger.entries import Entry
from usageflow.ledger.given import Kind, encoded, looked_up, prepared
from usageflow.periods import Period

FUTURE_SKEW: Final = timedelta(minutes=5)
"""How far a client's clock may be ahead of ours."""
METADATA_BYTES_MAX: Final = 16_384
"""Longest metadata of an event, as JSON: it is kept for ever, and billed for nothing."""
METADATA_DEPTH_MAX: Final = 10
"""Objects within objects of metadata; nobody reads deeper ones."""
UNIQUE_PROPERTY: Final = "user_id"
"""What UNIQUE_COUNT tells apart, if its metric does not say."""


class Filter(NamedTuple):
    """An event counts only if this property of its metadata is one of these."""

    property: str
    values: Collection[str]


class Measure(NamedTuple):
    """What of a metric concerns an event: see `MetricRow`."""

    id: str
    key: str
    aggregation: str = "SUM"
    property: str | None = None
    filters: Sequence[Filter] = ()


class Tracked(NamedTuple):
    """One event as it is told, in whatever dialect.

    `customer_external_id` None is the default customer, `occurred_at` (aware) None is now. Without
    an `idempotency_key` every telling is another event. `source` is the path it was told at.
    """

    customer_external_id: str | None
    metric: Measure
    quantity: Decimal
    occurred_at: datetime | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, Any] | None = None
    source: str = ""


class Rules(NamedTuple):
    """What an organization has chosen (`catalog.organization_settings`)."""

    late_hours: int = 72
    unknown_customer: Literal["create", "refuse"] = "create"


class Told(NamedTuple):
    """An event as it is in the ledger; `metadata` is JSON."""

    id: str
    customer_id: str | None
    quantity: Decimal
    occurred_at: datetime
    received_at: datetime
    metadata: str | None
    fingerprint: str


class Outcome(NamedTuple):
    """What became of an item. `event` is there if it is in the ledger, `code` if it is not."""

    status: Literal["accepted", "duplicate", "conflict", "refused"]
    event: Told | None = None
    code: str = ""
    message: str = ""


_CONFLICT: Final = Outcome(
    "conflict",
    code="idempotency_conflict",
    message="this idempotency key belongs to an event with other content",
)
_encoder: Final = msgspec.json.Encoder(decimal_format="number")
_ID: Final[dict[str, Kind]] = {"organization_id": "text", "id": "text"}


def take(tx: Tx, organization_id: str, items: Sequence[Tracked], rules: Rules) -> list[Outcome]:
    """What became of each item, in order. One that is refused never fails the others."""
    drafts = [_draft(organization_id, item, tx.now) for item in items]
    keyed = [one.id for one in drafts if isinstance(one, Entry) and one.idempotency_key]
    known = _told(tx, organization_id, keyed)
    fresh = [one for one in drafts if isinstance(one, Entry) and one.id not in known]
    court = _court(tx, organization_id, fresh, rules)
    judged: list[Entry | Outcome] = []
    first: dict[str, Entry] = {}
    for draft in drafts:
        refused = None
        if isinstance(draft, Entry) and draft.id not in known and draft.id not in first:
            refused = _refusal(draft, court)
            if refused is None:
                first[draft.id] = draft
        judged.append(refused or draft)
    new = _enter(tx, organization_id, list(first.values()), court.payers)
    # of two transactions with one key, the later one finds only now what the other has stored
    known |= new | _told(tx, organization_id, first.keys() - new.keys())
    return [
        one if isinstance(one, Outcome) else _outcome(one, known[one.id], new, first)
        for one in judged
    ]


def _draft(organization_id: str, item: Tracked, now: datetime) -> Entry | Outcome:
    """What the item would be in the ledger, as far as it can be told without looking there."""
    problem = _problem(item, now)
    if problem is not None:
        return problem
    metadata = None if item.metadata is None else _encoder.encode(item.metadata)
    if metadata is not None and (wrong := _metadata_problem(metadata, item.metadata)) is not None:
        return _refused("invalid_metadata", wrong)
    skipped = _filtered(item.metric, item.metadata or {})
    unique = _unique_value(item) if skipped is None else None
    if isinstance(unique, Outcome):
        return unique
    key = item.idempotency_key
    return Entry(
        id=new_id("evt") if key is None else _event_id(organization_id, key),
        metric=item.metric.key,
        quantity=events.plain(item.quantity),
        occurred_at=(item.occurred_at or now).astimezone(UTC),
        identity_field=EXTERNAL_ID,
        identity_value=item.customer_external_id or DEFAULT,
        state="counted" if skipped is None else "skipped",
        fingerprint=_fingerprint(item, unique),
        reason=skipped,
        request_method="POST",
        request_route=item.source,
        idempotency_key=key,
        metadata=None if metadata is None else metadata.decode(),
        unique_value=unique,
    )


def _problem(item: Tracked, now: datetime) -> Outcome | None:
    """What is wrong with the item itself."""
    wrong = events.quantity_problem(item.quantity) or ("0" if not item.quantity else None)
    if wrong is not None:
        return _refused("invalid_quantity", f"the quantity must be above 0, and it is {wrong}")
    named = item.customer_external_id
    if named is not None and not _is_name(named):
        message = (
            f"a customer is named by 1 to {events.IDENTITY_CHARS_MAX} characters that can be seen, "
            "without spaces at its ends"
        )
        return _refused("invalid_customer", message)
    if item.idempotency_key is not None and not _is_name(item.idempotency_key):
        message = f"an idempotency key has 1 to {events.TEXT_CHARS_MAX} characters that can be seen"
        return _refused("invalid_key", message)
    if item.occurred_at is not None and item.occurred_at > now + FUTURE_SKEW:
        return _refused(
            "invalid_timestamp",
            f"{item.occurred_at.isoformat()} is more than {FUTURE_SKEW.seconds // 60} minutes in "
            "the future",
        )
    return None


def _metadata_problem(encoded: bytes, metadata: object) -> str | None:
    if len(encoded) > METADATA_BYTES_MAX:
        return f"metadata of {len(encoded)} bytes; at most {METADATA_BYTES_MAX} are kept"
    brackets = encoded.count(b"{") + encoded.count(b"[")  # fewer cannot be deeper
    if brackets > METADATA_DEPTH_MAX and _depth_exceeds(metadata, METADATA_DEPTH_MAX):
        return f"metadata has more than {METADATA_DEPTH_MAX} objects within each other"
    return None


def _filtered(metric: Measure, metadata: Mapping[str, Any]) -> str | None:
    """Why the metric does not count an event with this metadata; None if it does."""
    for one in metric.filters:
        if _text(metadata.get(one.property)) not in one.values:
            return f"{metric.key} counts only where {one.property} is {' or '.join(one.values)}"
    return None


def _unique_value(item: Tracked) -> str | Outcome | None:
    """What the event tells apart, if its metric does that."""
    if item.metric.aggregation != "UNIQUE_COUNT":
        return None
    name = item.metric.property or UNIQUE_PROPERTY
    value = _text((item.metadata or {}).get(name))
    if value is None or not _is_name(value):
        message = (
            f"{item.metric.key} counts different values of {name}: send one of 1 to "
            f"{events.IDENTITY_CHARS_MAX} characters in the metadata"
        )
        return _refused("invalid_metadata", message)
    return value


def _text(value: Any) -> str | None:
    """A scalar of metadata as text; None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | Decimal) else None


def _is_name(text: str) -> bool:
    return (
        1 <= len(text) <= events.IDENTITY_CHARS_MAX and text.isprintable() and text == text.strip()
    )


def _depth_exceeds(value: Any, limit: int) -> bool:
    if not isinstance(value, Mapping | list):
        return False
    inside: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
    return limit == 0 or any(_depth_exceeds(one, limit - 1) for one in inside)


def _event_id(organization_id: str, key: str) -> str:
    """The same for the same key, and not to be guessed apart from another organization's."""
    told = _encoder.encode([organization_id, key])
    return f"evt_{hashlib.sha256(told).hexdigest()[:32]}"


def _fingerprint(item: Tracked, unique_value: str | None) -> str:
    """Equal for the same fact: 1 and 1.0 are one quantity, and metadata is no part of it."""
    at = None if item.occurred_at is None else item.occurred_at.astimezone(UTC)
    customer = item.customer_external_id or DEFAULT
    quantity = f"{item.quantity:f}"
    if "." in quantity:
        quantity = quantity.rstrip("0").removesuffix(".")
    fact = [customer, item.metric.key, quantity, at, unique_value]
    return hashlib.sha256(_encoder.encode(fact)).hexdigest()


class _Court(NamedTuple):
    """What is looked up to judge events by.

    A period ends after every moment in it, so what is not older than `young` is in time anywhere.
    """

    rules: Rules
    now: datetime
    young: datetime
    payers: Mapping[Identified, Payer]
    periods: Mapping[str, Sequence[Period]]


def _court(tx: Tx, organization_id: str, drafts: Collection[Entry], rules: Rules) -> _Court:
    asked = {_identity(one) for one in drafts}
    payers = customers.known(tx, organization_id, asked)
    strangers = asked - payers.keys()
    if strangers and (subscriber := customers.subscriber(tx, organization_id)) is not None:
        # the organization itself subscribes: whoever is no customer is its own usage
        payers |= dict.fromkeys(strangers, subscriber)
    young = tx.now - timedelta(hours=rules.late_hours)
    old = [_identity(one) for one in drafts if one.occurred_at < young]
    doubtful = {payers[identity].id for identity in old if identity in payers}
    periods = lateness.periods_of(tx, organization_id, doubtful)
    return _Court(rules, tx.now, young, payers, periods)


def _refusal(draft: Entry, court: _Court) -> Outcome | None:
    """Why this event cannot be taken into the ledger as it is now."""
    identity, rules = _identity(draft), court.rules
    payer = court.payers.get(identity)
    if payer is None and rules.unknown_customer == "refuse" and identity[1] != DEFAULT:
        return _refused("unknown_customer", f"there is no customer {identity[1]}; make it first")
    if payer is not None and payer.archived:
        return _refused("archived_customer", f"the customer {identity[1]} is archived")
    if draft.occurred_at >= court.young:
        return None
    periods = () if payer is None else court.periods.get(payer.id, ())
    if not lateness.is_late(draft.occurred_at, periods, rules.late_hours, court.now):
        return None
    return _refused(
        "outside_window",
        f"{draft.occurred_at.isoformat()} is too late: usage is taken until {rules.late_hours} "
        "hours after the end of its billing period",
    )


def _enter(
    tx: Tx, organization_id: str, drafts: Sequence[Entry], payers: Mapping[Identified, Payer]
) -> dict[str, Told]:
    """Store what is new, and make the customers who are; those that were new, by id."""
    ids = {identity: payer.id for identity, payer in payers.items()}
    strangers = {_identity(one) for one in drafts} - ids.keys()
    if strangers:
        ids |= customers.resolve(tx, organization_id, strangers)
    rows = [one._replace(customer_id=ids[_identity(one)]) for one in drafts]
    new = entries.enter(tx, organization_id, rows)
    return {
        row.id: Told(
            row.id,
            row.customer_id,
            row.quantity or Decimal(0),
            row.occurred_at,
            tx.now,
            row.metadata,
            row.fingerprint,
        )
        for row in rows
        if row.id in new
    }


def _outcome(
    draft: Entry, event: Told, new: Collection[str], first: Mapping[str, Entry]
) -> Outcome:
    if draft.id in new and first[draft.id] is draft:
        return Outcome("accepted", event)
    return Outcome("duplicate", event) if event.fingerprint == draft.fingerprint else _CONFLICT


def _told(tx: Tx, organization_id: str, ids: Collection[str]) -> dict[str, Told]:
    """Those of these events that are in the ledger."""
    if not ids:
        return {}
    asked = encoded(tx, _ID, [(organization_id, one) for one in ids])
    found = tx.session.execute(_stored(tx), {"asked": asked})
    return {row[0]: Told(*row) for row in found}


@prepared
def _stored(tx: Tx) -> Select[Any]:
    rows = table(UsageEventRow)
    columns = [rows.c[name] for name in Told._fields]
    return select(*columns).select_from(looked_up(tx, rows, _ID))


def _identity(draft: Entry) -> Identified:
    return draft.identity_field, draft.identity_value or ""


def _refused(code: str, message: str) -> Outcome:
    return Outcome("refused", code=code, message=message)
