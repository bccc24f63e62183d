"""`usageflow usage`: totals per customer, metric and hour, and how much of them Stripe has."""

import sys
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from functools import reduce
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

Own = Mapping[tuple["Usage", str], Decimal | None]
"""What Stripe has of a line of usage and an event name; None if that is not known."""

HEADER = ("customer", "metric", "hour", "quantity", "events", "Stripe meter", "sent", "applied")
METERS_HEADER = ("Stripe customer", "Stripe meter", "hour", "usage of", "sent", "applied")
GAPS_HEADER = ("not recorded of", "metric", "events", "quantity", "reason")


LEGEND = '"?": Stripe was not asked, did not answer, or has only the sum that stands below'


class Compared(NamedTuple):
    """What both sides have of one slot; `applied` is None if it is not known."""

    slot: "Slot"
    fed: "Fed"
    applied: Decimal | None

    @property
    def told_apart(self) -> bool:
        """Whether there is something in it that no single line of usage tells."""
        return not self.fed.single and bool(self.fed.feeders or self.fed.accepted or self.applied)


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
            slots, other_meters = (
                by_slot(tx, organization_id, rows),
                not_summed(tx, organization_id),
            )
            ways = [] if no_stripe else _ways(tx, found)
        shown = _shown(found, ways)
    own, meters = _own(rows, slots, shown), _compared(slots, shown, other_meters)
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
        else:
            shown.add(pairs, told)
    return shown


def _print_json(document: Mapping[str, Any]) -> None:
    """Quantities are JSON numbers with every digit they have, never through a binary float."""
    import msgspec

    encoded = msgspec.json.Encoder(decimal_format="number").encode(document)
    sys.stdout.buffer.write(encoded + b"\n")
    sys.stdout.buffer.flush()


def _print_tables(
    rows: Sequence["Usage"], own: Own, meters: Sequence[Compared], gaps: Sequence["Gap"]
) -> None:
    """Of the meters only those that no single line of usage tells: fed by several or by none."""
    cells = _cells(rows, own)
    print(table(HEADER, cells))
    others = [_compared_cells(meter) for meter in meters if meter.told_apart]
    if any(line[-1] == "?" for line in (*cells, *others)):
        print(f"\n{LEGEND}")
    if others:
        print(f"\n{table(METERS_HEADER, others)}")
    if gaps:
        print(f"\n{table(GAPS_HEADER, [_gap_cells(gap) for gap in gaps])}")


def _documents(rows: Sequence["Usage"], own: Own) -> list[dict[str, Any]]:
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
                    "written_off": part.written_off,
                    "applied": own[row, part.event_name],
                }
                for part in row.forwarded
            ],
        }
        for row in rows
    ]


def _own(rows: Sequence["Usage"], slots: Mapping["Slot", "Fed"], shown: "Shown") -> Own:
    """What Stripe has of each line; in a slot of several lines it cannot be told apart."""
    return {
        (row, part.event_name): _sum(
            [shown.get(slot) if slots[slot].single else None for slot in part.slots]
        )
        for row in rows
        for part in row.forwarded
    }


def _sum(values: Sequence[Decimal | None]) -> Decimal | None:
    """All of them together; None without any, or if one is not known."""
    from usageflow.db.exact import add

    known = [value for value in values if value is not None]
    return reduce(add, known) if known and len(known) == len(values) else None


def _compared(
    slots: Mapping["Slot", "Fed"], shown: "Shown", without: Collection[str]
) -> "list[Compared]":
    """Both sides of every slot that either knows, but for the event names of `without`."""
    from usageflow.ledger.usage import NOTHING

    return [
        Compared(slot, slots.get(slot, NOTHING), shown.get(slot))
        for slot in sorted(slots.keys() | shown.values.keys())
        if slot.event_name not in without
    ]


def _compared_document(meter: "Compared") -> dict[str, Any]:
    return {
        "stripe_customer": meter.slot.stripe_customer,
        "customers": sorted({customer for customer, *_ in meter.fed.feeders}),
        "event_name": meter.slot.event_name,
        "hour": meter.slot.hour,
        "accepted": meter.fed.accepted,
        "applied": meter.applied,
    }


def _compared_cells(meter: "Compared") -> tuple[str, ...]:
    feeders = dict.fromkeys(f"{customer} {metric}" for customer, metric, _ in meter.fed.feeders)
    return (
        meter.slot.stripe_customer,
        meter.slot.event_name,
        f"{meter.slot.hour:%Y-%m-%d %H:%M}",
        ", ".join([*feeders, *(["corrections"] if meter.fed.corrected else [])]) or "-",
        f"{meter.fed.accepted:f}",
        "?" if meter.applied is None else f"{meter.applied:f}",
    )


def _cells(rows: Sequence["Usage"], own: Own) -> list[tuple[str, ...]]:
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


def _stripe_cells(row: "Usage", part: "Forwarded", own: Own) -> tuple[str, ...]:
    has = own[row, part.event_name]
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
