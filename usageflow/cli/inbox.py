"""`usageflow inbox`: what needs a human, each with its reason. Deciding is `inbox_actions`'s."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from usageflow.cli import inbox_actions
from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, require_no_options, scope

if TYPE_CHECKING:
    from usageflow.ledger.inbox import Item
    from usageflow.ledger.inbox_details import AllDetails, Details

SHOWN_MAX: Final = 50
"""Items a person is shown: what a terminal can hold. `--json` has them all."""
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
    from usageflow.ledger.inbox_details import details

    with scope(database, organization, reading=True) as scoped, scoped.db.reading() as tx:
        organization_id = scoped.organization_id
        waiting = count(tx, organization_id)
        limit = waiting if as_json else SHOWN_MAX
        found = items(tx, organization_id, limit)
        shown = sorted(found, key=lambda item: item.since, reverse=True)[:limit]
        of = details(tx, organization_id, shown)
    if as_json:
        _print_lines(shown, of)
    else:
        _print_table(shown, of, waiting)


def _print_lines(shown: "list[Item]", of: "AllDetails") -> None:
    """Quantities are JSON numbers with every digit they have, never through a binary float."""
    import msgspec

    from usageflow.ledger.inbox_details import document

    encoder = msgspec.json.Encoder(decimal_format="number")
    for item in shown:
        told = document(item, of.get((item.kind, item.key)))
        sys.stdout.buffer.write(encoder.encode(told) + b"\n")
    sys.stdout.buffer.flush()


def _print_table(shown: "list[Item]", of: "AllDetails", waiting: int) -> None:
    from usageflow.cli.tables import table

    if not shown:
        print("The inbox is empty: nothing needs you.")
        return
    print(table(HEADER, [_cells(item, of.get((item.kind, item.key))) for item in shown]))
    if more := waiting - len(shown):
        print(f"\n... and {more} more; --json shows them all")


def _cells(item: "Item", of: "Details | None") -> tuple[str, ...]:
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
