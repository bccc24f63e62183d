"""`usageflow usage`: totals per customer, metric and hour, and how much of them Stripe has."""

import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, Scope, scope
from usageflow.cli.tables import printed, table

if TYPE_CHECKING:
    from usageflow.db.session import Tx
    from usageflow.ledger.inbox import Gap
    from usageflow.ledger.usage import Fed, Forwarded, Slot, Usage
    from usageflow.stripe.access import AccountAccess
    from usageflow.stripe.accounts import Refused
    from usageflow.stripe.applied import Sent, Shown

    Way = tuple[str, AccountAccess | Refused, list[Sent]]

Applied = Mapping[tuple[str, str, datetime], Decimal | None]
"""What Stripe has, by customer, event name and hour; None if that is not known."""

HEADER = ("customer", "metric", "hour", "quantity", "events", "Stripe meter", "sent", "applied")
METERS_HEADER = ("customer", "Stripe meter", "hour", "metrics", "sent", "applied")
GAPS_HEADER = ("not recorded of", "metric", "events", "quantity", "reason")


class Compared(NamedTuple):
    """What both sides have of one customer, meter and hour; `applied` is None if not known."""

    customer: str
    event_name: str
    hour: datetime
    accepted: Decimal
    metrics: int
    applied: Decimal | None


def usage(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    no_stripe: Annotated[bool, typer.Option("--no-stripe", help="do not ask Stripe")] = False,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Show usage per customer, metric and hour, and at Stripe."""
    from usageflow.ledger import inbox, units
    from usageflow.ledger.usage import by_slot, not_summed, totals

    with scope(database, organization, reading=True) as found:
        organization_id = found.organization_id
        with found.db.reading() as tx:
            rows = totals(tx, organization_id)
            gaps = inbox.gaps(tx, organization_id)
            waiting = inbox.count(tx, organization_id)
            states = units.summary(tx, organization_id)
            other_meters = not_summed(tx, organization_id)
            ways = [] if no_stripe else _ways(tx, found)
        shown = _shown(found, ways)
    slots = by_slot(rows)
    own, meters = _own(slots, shown), _compared(slots, shown, other_meters)
    if as_json:
        document = {
            "usage": _documents(rows, own),
            "stripe": [_compared_document(meter) for meter in meters],
            "gaps": [_gap_document(gap) for gap in gaps],
            "inbox": waiting,
            "units": states,
        }
        _print_json(document)
    else:
        _print_tables(rows, own, meters, gaps)
        print(f"\n{waiting} in the inbox")


def _ways(tx: "Tx", found: Scope) -> "list[Way]":
    """Name, access and what was sent of each of the organization's accounts that got anything."""
    from usageflow.catalog.secrets import Keyring
    from usageflow.stripe.access import access
    from usageflow.stripe.accounts import OF_STRIPE, accounts
    from usageflow.stripe.applied import sent

    keyring = Keyring.read(found.settings.encryption_keys)
    ways = [
        (row.account, access(row, found.settings, keyring), sent(tx, row.id))
        for row in accounts(tx, found.organization_id)
        if row.kind in OF_STRIPE
    ]
    return [way for way in ways if way[2]]


def _shown(found: Scope, ways: "Sequence[Way]") -> "Shown":
    """What Stripe has, asked with each account's own access; no transaction is open meanwhile."""
    from usageflow.stripe.applied import Shown, ask

    shown = Shown()
    for account, reached, pairs in ways:
        told = ask(found.settings, reached, pairs)
        if isinstance(told, str):
            why = printed(f"what Stripe has is not known for {account}: {told}")
            print(f"usageflow: {why}", file=sys.stderr)
        shown.add(pairs, None if isinstance(told, str) else told)
    return shown


def _print_json(document: Mapping[str, Any]) -> None:
    """Quantities are JSON numbers with every digit they have, never through a binary float."""
    import msgspec

    encoded = msgspec.json.Encoder(decimal_format="number").encode(document)
    sys.stdout.buffer.write(encoded + b"\n")
    sys.stdout.buffer.flush()


def _print_tables(
    rows: Sequence["Usage"], own: Applied, meters: Sequence[Compared], gaps: Sequence["Gap"]
) -> None:
    """Of the meters only those that are not told by a line of usage: fed by several metrics, or
    by none that the ledger knows.
    """
    print(table(HEADER, _cells(rows, own)))
    if others := [_compared_cells(meter) for meter in meters if meter.metrics != 1]:
        print(f"\n{table(METERS_HEADER, others)}")
    if gaps:
        print(f"\n{table(GAPS_HEADER, [_gap_cells(gap) for gap in gaps])}")


def _documents(rows: Sequence["Usage"], own: Applied) -> list[dict[str, Any]]:
    return [
        {
            "customer": row.customer,
            "field": row.field,
            "metric": row.metric,
            "hour": row.hour,
            "quantity": row.total,
            "events": row.events,
            "stripe": [
                {
                    "event_name": part.event_name,
                    "accepted": part.accepted,
                    "pending": part.pending,
                    "stuck": part.stuck,
                    "applied": own.get((row.customer, part.event_name, row.hour)),
                }
                for part in row.forwarded
            ],
        }
        for row in rows
    ]


def _own(slots: Mapping["Slot", "Fed"], shown: "Shown") -> Applied:
    """What Stripe has of a single metric; a meter of several cannot be told apart."""
    return {slot: shown.get(*slot) for slot, fed in slots.items() if fed.metrics == 1}


def _compared(
    slots: Mapping["Slot", "Fed"], shown: "Shown", without: Collection[str]
) -> "list[Compared]":
    """Both sides of every slot that either knows, but for the event names of `without`."""
    from usageflow.ledger.usage import NOTHING, Slot

    known = slots.keys() | {Slot(*key) for key in shown.values}
    return [
        Compared(*slot, *slots.get(slot, NOTHING), shown.get(*slot))
        for slot in sorted(known)
        if slot.event_name not in without
    ]


def _compared_document(meter: "Compared") -> dict[str, Any]:
    document = meter._asdict()
    del document["metrics"]
    return document


def _compared_cells(meter: "Compared") -> tuple[str, ...]:
    return (
        meter.customer,
        meter.event_name,
        f"{meter.hour:%Y-%m-%d %H:%M}",
        str(meter.metrics),
        f"{meter.accepted:f}",
        "?" if meter.applied is None else f"{meter.applied:f}",
    )


def _cells(rows: Sequence["Usage"], own: Applied) -> list[tuple[str, ...]]:
    """A line for each event name the usage goes to, one without for usage that stays here."""
    return [
        (
            row.customer,
            row.metric,
            f"{row.hour:%Y-%m-%d %H:%M}",
            f"{row.total:f}",
            str(row.events),
            *(_stripe_cells(row, part, own) if part else ("-", "-", "-")),
        )
        for row in rows
        for part in row.forwarded or (None,)
    ]


def _stripe_cells(row: "Usage", part: "Forwarded", own: Applied) -> tuple[str, ...]:
    has = own.get((row.customer, part.event_name, row.hour))
    return part.event_name, f"{part.accepted:f}", "?" if has is None else f"{has:f}"


def _gap_document(gap: "Gap") -> dict[str, Any]:
    known = gap.value is not None
    return {
        "identity": {"field": gap.field, "value": gap.value} if known else None,
        "metric": gap.metric,
        "events": gap.events,
        "quantity": gap.quantity,
        "reason": gap.reason,
    }


def _gap_cells(gap: "Gap") -> tuple[str, ...]:
    return (
        "?" if gap.value is None else f"{gap.field} {gap.value}",
        gap.metric,
        str(gap.events),
        "?" if gap.quantity is None else f"{gap.quantity:f}",
        gap.reason,
    )
