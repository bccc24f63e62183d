"""`usageflow inbox`: what needs a human, each with its reason. Deciding is `inbox_actions`'s."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from usageflow.cli import inbox_actions
from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, require_no_options, scope

if TYPE_CHECKING:
    from usageflow.db.session import Tx
    from usageflow.ledger.inbox import Item

SHOWN_MAX: Final = 50
"""Items a person is shown: what a terminal can hold. `--json` has them all."""
KEYS_MAX: Final = 500
"""Keys in one statement: well below the least number of variables a database takes."""

SHOWN_CHARS: Final = 16
"""Of a unit's identifier: `uf1_` and 60 bits, which tell units apart; commands take it."""

HEADER: Final = (
    *("what", "id", "when", "metric or meter", "where", "identity", "quantity", "reason"),
)
NOUNS: Final = {"event": "event", "unit": "unit", "difference": "difference", "rejection": "line"}

app = typer.Typer(help="What needs a human, and what they decide about it.")
app.command("attach")(inbox_actions.attach)
app.command("detach")(inbox_actions.detach)
app.command("retry")(inbox_actions.retry)
app.command("carry")(inbox_actions.carry)
app.command("write-off")(inbox_actions.write_off)


@dataclass(frozen=True, slots=True)
class Details:
    """What an item is of: an event has a metric, a policy and a request, a unit an event name.

    `value` is None if nobody knows whose it is, `quantity` if nothing could be measured. A
    difference has no identity, but the customer at Stripe.
    """

    field: str
    value: str | None
    quantity: Decimal | None
    stripe_customer: str | None = None
    metric: str | None = None
    event_name: str | None = None
    policy: str | None = None
    policy_version: str | None = None
    request: str | None = None
    """Method and template of the request; what it asked for is nobody's business."""
    status: int | None = None
    occurred_at: datetime | None = None

    @property
    def where(self) -> str:
        """What a person looks for to mend the cause."""
        if self.policy is None:
            return self.stripe_customer or ""
        return f"{self.policy}: {self.request} {self.status or ''}"


AllDetails = Mapping[tuple[str, str | None], Details]
"""Details by kind and key of their item; a refused line has none."""


@app.callback(invoke_without_command=True)
def inbox(
    context: typer.Context,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON line per item, all of them")
    ] = False,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Show what needs a human, the newest first, and why."""
    if context.invoked_subcommand is not None:
        require_no_options(context)
        return
    from usageflow.ledger.inbox import count, items

    with scope(database, organization, reading=True) as scoped, scoped.db.reading() as tx:
        organization_id = scoped.organization_id
        waiting = count(tx, organization_id)
        limit = waiting if as_json else SHOWN_MAX
        found = items(tx, organization_id, limit)
        shown = sorted(found, key=lambda item: item.since, reverse=True)[:limit]
        details = _details(tx, organization_id, shown)
    if as_json:
        _print_lines(shown, details)
    else:
        _print_table(shown, details, waiting)


def _details(tx: "Tx", organization_id: str, shown: "list[Item]") -> AllDetails:
    return {
        **_of_events(tx, organization_id, _keys("event", shown)),
        **_of_units(tx, organization_id, _keys("unit", shown)),
        **_of_differences(tx, organization_id, _keys("difference", shown)),
    }


def _keys(kind: str, shown: "list[Item]") -> Iterator[list[str]]:
    """The keys of one kind, as many at a time as one statement may have."""
    keys = [item.key for item in shown if item.kind == kind and item.key is not None]
    return (keys[start : start + KEYS_MAX] for start in range(0, len(keys), KEYS_MAX))


def _of_events(
    tx: "Tx", organization_id: str, keys: Iterable[list[str]]
) -> dict[tuple[str, str | None], Details]:
    from sqlmodel import col, select

    from usageflow.db.tables import UsageEventRow

    ours = select(UsageEventRow).where(col(UsageEventRow.organization_id) == organization_id)
    return {
        ("event", row.id): Details(
            row.identity_field,
            row.identity_value,
            row.quantity,
            metric=row.metric,
            event_name=row.event_name,
            policy=row.policy,
            policy_version=row.policy_version,
            request=f"{row.request_method} {row.request_route}",
            status=row.request_status,
            occurred_at=row.occurred_at,
        )
        for some in keys
        for row in tx.session.exec(ours.where(col(UsageEventRow.id).in_(some)))
    }


def _of_units(
    tx: "Tx", organization_id: str, keys: Iterable[list[str]]
) -> dict[tuple[str, str | None], Details]:
    from sqlmodel import col, select

    from usageflow.db.tables import LaneRow, UnitRow

    both = (
        select(UnitRow, LaneRow)
        .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        .where(col(UnitRow.organization_id) == organization_id)
    )
    return {
        ("unit", unit.identifier): Details(
            lane.identity_field,
            lane.identity_value,
            unit.quantity,
            stripe_customer=unit.stripe_customer_id,
            event_name=lane.event_name,
            occurred_at=unit.occurred_at,
        )
        for some in keys
        for unit, lane in tx.session.exec(both.where(col(UnitRow.identifier).in_(some)))
    }


def _of_differences(
    tx: "Tx", organization_id: str, keys: Iterable[list[str]]
) -> dict[tuple[str, str | None], Details]:
    """The quantity is what Stripe lacks; what it has too much of is negative."""
    from sqlmodel import col, select

    from usageflow.db.exact import add
    from usageflow.db.tables import ReconciliationRow

    ours = select(ReconciliationRow).where(
        col(ReconciliationRow.organization_id) == organization_id
    )
    return {
        ("difference", str(row.id)): Details(
            "",
            None,
            add(row.expected, row.observed.copy_negate()),
            stripe_customer=row.stripe_customer_id,
            event_name=row.event_name,
            occurred_at=row.hour,
        )
        for some in keys
        for row in tx.session.exec(ours.where(col(ReconciliationRow.id).in_(map(int, some))))
    }


def _print_lines(shown: "list[Item]", details: AllDetails) -> None:
    """Quantities are JSON numbers with every digit they have, never through a binary float."""
    import msgspec

    encoder = msgspec.json.Encoder(decimal_format="number")
    for item in shown:
        document = _document(item, details.get((item.kind, item.key)))
        sys.stdout.buffer.write(encoder.encode(document) + b"\n")
    sys.stdout.buffer.flush()


def _document(item: "Item", of: Details | None) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "state": item.state,
        "since": item.since,
        "id": item.key,
        "metric": of and of.metric,
        "event_name": of and of.event_name,
        "identity": {"field": of.field, "value": of.value} if of and of.value else None,
        "stripe_customer": of and of.stripe_customer,
        "quantity": of and of.quantity,
        "policy": of and of.policy,
        "policy_version": of and of.policy_version,
        "request": of and of.request,
        "status": of and of.status,
        "occurred_at": of and of.occurred_at,
        "reason": item.reason,
        "line": None if of else item.subject,
    }


def _print_table(shown: "list[Item]", details: AllDetails, waiting: int) -> None:
    from usageflow.cli.tables import table

    if not shown:
        print("The inbox is empty: nothing needs you.")
        return
    print(table(HEADER, [_cells(item, details.get((item.kind, item.key))) for item in shown]))
    if more := waiting - len(shown):
        print(f"\n... and {more} more; --json shows them all")


def _cells(item: "Item", of: Details | None) -> tuple[str, ...]:
    """The id of what a command takes; a refused line has no more than what could be read of it."""
    name, where, identity, quantity = "?", "", f"id {item.key}" if item.key else "?", "?"
    taken = (item.key or "")[:SHOWN_CHARS] if item.kind in ("unit", "difference") else ""
    if of is not None:
        name = of.metric or of.event_name or "?"
        where = of.where.strip()
        identity = "?" if of.value is None else f"{of.field} {of.value}"
        quantity = "?" if of.quantity is None else f"{of.quantity:f}"
    what, when = f"{item.state} {NOUNS[item.kind]}", f"{item.since:%Y-%m-%d %H:%M}"
    return what, taken, when, name, where, identity, quantity, item.reason
