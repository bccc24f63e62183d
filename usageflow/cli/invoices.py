"""`usageflow invoices`: what customers owe, how it was computed, and to close what is due now."""

from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, opened, scope
from usageflow.errors import ConfigurationError

if TYPE_CHECKING:
    from usageflow.db.billing_tables import InvoiceRow
    from usageflow.db.session import Tx

app = typer.Typer(help="List, explain and recompute invoices; close periods.", no_args_is_help=True)

SHOWN: Final = 50
"""Invoices a person is shown unless they ask for more."""

InvoiceArgument = Annotated[str, typer.Argument(help="id or number of the invoice")]


@app.command("list")
def list_invoices(
    *,
    status: Annotated[
        str | None,
        typer.Option(help="DRAFT, OPEN, PAID, UNCOLLECTIBLE or VOID", show_default=False),
    ] = None,
    customer: Annotated[
        str | None, typer.Option(help="of this customer: id or external id", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many at most")] = SHOWN,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """List invoices, the latest first. HELD is a DRAFT that waits for a person."""
    from usageflow.billing import invoices
    from usageflow.billing.invoice_states import State
    from usageflow.catalog import customers
    from usageflow.cli.tables import table
    from usageflow.db.tables import CustomerRow

    states = get_args(State)
    if status is not None and status.upper() not in states:
        raise ConfigurationError(f"there is no status {status!r}; write {' or '.join(states)}")
    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        payer = None if customer is None else customers.find(tx, found.organization_id, customer)
        if customer is not None and payer is None:
            raise ConfigurationError(f"there is no customer {customer!r}")
        rows, total = invoices.listing(
            tx,
            found.organization_id,
            customer_id=None if payer is None else payer.id,
            state=None if status is None else status.upper(),
            offset=0,
            limit=limit,
        )
        cells = [
            (*_cells(row), tx.session.get_one(CustomerRow, row.customer_id).external_id, row.id)
            for row in rows
        ]
    print(table(("number", "status", "total", "due", "period", "customer", "id"), cells))
    if total > len(rows):
        print(f"{total - len(rows)} more: --limit {total} shows all")


@app.command()
def show(
    invoice: InvoiceArgument,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Show an invoice and its lines."""
    from usageflow.billing.contents import content
    from usageflow.billing.display import amount
    from usageflow.billing.pricing import figure
    from usageflow.cli.tables import printed, table

    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        row = _required(tx, found.organization_id, invoice)
        lines = [
            (
                str(line.position),
                line.description,
                "-" if line.quantity is None else figure(line.quantity),
                amount(line.billed_before, row.currency),
                amount(line.amount, row.currency),
            )
            for line in content(tx, row).lines
        ]
        sums = [
            (name, amount(minor, row.currency))
            for name, minor in (("subtotal", row.subtotal), ("tax", row.tax), ("total", row.total))
        ]
        print("  ".join(cell for cell in _cells(row) if cell != "-"))
        if row.hold_reason is not None:
            print(f"held: {printed(row.hold_reason)}")
    print(table(("line", "what", "quantity", "billed before", "amount"), lines))
    for name, shown in sums:
        print(f"{name} {shown}")


@app.command()
def explain(
    invoice: InvoiceArgument,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Print the arithmetic of an invoice, step by step, to be redone by hand."""
    from usageflow.billing.contents import content
    from usageflow.billing.explain import explain as explained
    from usageflow.cli.tables import printed_lines

    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        row = _required(tx, found.organization_id, invoice)
        print(printed_lines(explained(row, content(tx, row).lines).text), end="")


@app.command()
def recompute(
    invoice: InvoiceArgument,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Compute an issued invoice again from the ledger. Ends with 1 if it differs."""
    from usageflow.billing.recompute import differences
    from usageflow.catalog.refusals import Refused
    from usageflow.cli.tables import printed

    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        different = differences(tx, _required(tx, found.organization_id, invoice))
    if isinstance(different, Refused):
        raise ConfigurationError(different.message)
    for one in different:
        print(printed(one))
    if different:
        raise typer.Exit(1)
    print("the same, byte for byte")


@app.command()
def close(database: DatabaseOption = None) -> None:
    """Close the periods that are over and issue the drafts whose time of grace is, as the server's
    worker does.
    """
    from usageflow.billing import duties

    with opened(database) as (db, _):
        for what, do in (
            ("subscriptions taken up", duties.close_due),
            ("drafts taken up", duties.finalize_due),
        ):
            done = 0
            while taken := do(db):
                done += taken
            print(f"{what}: {done}")


def _required(tx: "Tx", organization_id: str, invoice: str) -> "InvoiceRow":
    from usageflow.billing.invoices import find

    row = find(tx, organization_id, invoice)
    if row is None:
        raise ConfigurationError(f"there is no invoice {invoice!r}; see `usageflow invoices list`")
    return row


def _cells(row: "InvoiceRow") -> tuple[str, ...]:
    from usageflow.billing.display import money
    from usageflow.billing.invoices import amount_due

    return (
        row.number or "-",
        "HELD" if row.hold_reason is not None and row.state == "DRAFT" else row.state,
        money(row.total, row.currency),
        money(amount_due(row), row.currency),
        _period(row),
    )


def _period(row: "InvoiceRow") -> str:
    ends: tuple[Any, ...] = (row.period_start, row.period_end)
    return "-" if None in ends else " to ".join(f"{at:%Y-%m-%d %H:%M}" for at in ends)
