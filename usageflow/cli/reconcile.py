"""`usageflow reconcile`: compare ledger and Stripe now, and correct or accept what differs."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from usageflow.cli.options import DatabaseOption, ReasonOption
from usageflow.cli.scope import (
    AccountOption,
    OrganizationOption,
    Scope,
    require_no_options,
    scope,
)
from usageflow.cli.tables import printed, table
from usageflow.errors import ConfigurationError

if TYPE_CHECKING:
    from usageflow.db.tables import ReconciliationRow
    from usageflow.stripe.reconciliation import Report
    from usageflow.stripe.status import Waiting

HEADER: Final = (
    *("id", "customer", "event name", "hour", "expected", "Stripe shows", "class", "proposal"),
    "reason",
)

HOURS_MAX: Final = 24 * 366
"""A year: Stripe takes no usage that is older than 35 days."""
ID_MAX: Final = 2**63 - 1
"""The largest number the database holds."""


def _difference() -> Any:
    return typer.Argument(metavar="ID", min=1, max=ID_MAX, help="which one", show_default=False)


app = typer.Typer(help="Compare with Stripe now; correct or accept differences.")
YesOption = Annotated[bool, typer.Option("--yes", help="do not ask")]


@app.callback(invoke_without_command=True)
def reconcile(
    context: typer.Context,
    *,
    hours: Annotated[
        int | None,
        typer.Option(
            "--hours",
            min=1,
            max=HOURS_MAX,
            help="only the last so many hours; default: all that are not settled",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    account: AccountOption = None,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Compare what is not settled yet with Stripe, and show what differs, why, and what to do."""
    if context.invoked_subcommand is not None:
        require_no_options(context)
        return
    from usageflow.periods import hour_start
    from usageflow.stripe import differences
    from usageflow.stripe.reconciliation import reconcile as compare
    from usageflow.stripe.status import waiting

    with scope(database, organization) as found, found.gateway(account) as (account_id, gateway):
        with found.db.reading() as tx:
            since = None if hours is None else hour_start(tx.now - timedelta(hours=hours))
        report = compare(
            found.db,
            account_id,
            gateway,
            reads_per_day=found.settings.stripe_reads_per_day,
            since=since,
            everything=True,
        )
        with found.db.reading() as tx:
            rows = differences.listed(tx, found.organization_id, account_id=account_id)
            waits = waiting(tx, account_id)
            if as_json:
                _print_json(report, rows)
            else:
                _print_table(report, rows, waits)


@app.command()
def apply(
    difference: Annotated[int | None, _difference()] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="all that have a proposal")] = False,
    yes: YesOption = False,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Carry out what is proposed for a difference, or for all of them."""
    if (difference is None) is not every:
        raise ConfigurationError("say which difference to apply: its ID, or --all")
    with scope(database, organization) as found:
        wanted = _proposed(found, difference)
        for row in wanted:
            what = f"{_proposal(row)} for {row.stripe_customer_id}, {row.event_name}"
            print(f"{row.id}: {printed(what)}")
        if not wanted:
            raise ConfigurationError(
                "nothing is proposed; `usageflow reconcile` shows what differs"
            )
        if not yes:
            typer.confirm("Apply?", abort=True)
        refusals = [refusal for row in wanted if (refusal := _apply(found, row)) is not None]
    if refusals:
        raise ConfigurationError("\n".join(refusals))


@app.command()
def dismiss(
    difference: Annotated[int, _difference()],
    *,
    reason: ReasonOption,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Accept a difference as it is, from now on."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe import corrections

    with scope(database, organization) as found:
        with found.db.transaction() as tx:
            refusal = corrections.dismiss(
                tx, found.organization_id, difference, reason=reason, actor=CLI
            )
        if refusal is not None:
            raise ConfigurationError(refusal)
        print(f"{difference}: dismissed")


def _proposed(found: Scope, difference: int | None) -> "list[ReconciliationRow]":
    """Open differences with a proposal; only one of them, if it is told."""
    from usageflow.stripe import differences

    with found.db.reading() as tx:
        rows = [
            row
            for row in differences.listed(tx, found.organization_id)
            if row.state == "open" and row.proposal and difference in (None, row.id)
        ]
        tx.session.expunge_all()
    return rows


def _apply(found: Scope, row: "ReconciliationRow") -> str | None:
    """Apply one proposal and say so; or why not."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe import corrections

    assert row.id is not None  # noqa: S101 - it is stored
    with found.gateway(row.account_id) as (_, gateway):
        refusal = corrections.apply(found.db, found.organization_id, row.id, gateway, actor=CLI)
    if refusal is None:
        print(f"{row.id}: applied")
        return None
    return f"{row.id}: {refusal}"


def _print_json(report: "Report", rows: "Sequence[ReconciliationRow]") -> None:
    """Quantities are JSON numbers with every digit they have, never through a binary float."""
    import msgspec

    document = {**asdict(report), "differences": [_document(row) for row in rows]}
    encoded = msgspec.json.Encoder(decimal_format="number").encode(document)
    sys.stdout.buffer.write(encoded + b"\n")
    sys.stdout.buffer.flush()


def _document(row: "ReconciliationRow") -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state,
        "stripe_customer_id": row.stripe_customer_id,
        "event_name": row.event_name,
        "hour": row.hour,
        "expected": row.expected,
        "observed": row.observed,
        "classification": row.classification,
        "reason": row.reason,
        "proposal": row.proposal,
        "quantity": row.quantity,
        "identifier": row.identifier,
        "first_seen_at": row.first_seen_at,
        "checked_at": row.checked_at,
    }


def _print_table(report: "Report", rows: "Sequence[ReconciliationRow]", waits: "Waiting") -> None:
    counts = f"{report.agreed} agree, {report.differed} differ, {report.decided} units decided"
    print(f"{report.compared} sums compared with {report.reads} reads: {counts}")
    if waits.next is not None:
        units = "1 unit waits" if waits.units == 1 else f"{waits.units} units wait"
        print(
            f"{units} until the hour is over for 2 hours; the next can be compared at "
            f"{waits.next:%Y-%m-%d %H:%M} UTC"
        )
    if report.left:
        print("There was more to compare, but today's reads are used up.")
    for what, why in report.unread.items():
        print(printed(f"{what} could not be compared: {why}"))
    if rows:
        print(f"\n{table(HEADER, [_cells(row) for row in rows])}")


def _cells(row: "ReconciliationRow") -> tuple[str, ...]:
    return (
        str(row.id),
        row.stripe_customer_id,
        row.event_name,
        f"{row.hour:%Y-%m-%d %H:%M}",
        f"{row.expected:f}",
        f"{row.observed:f}",
        row.classification,
        _proposal(row) if row.state == "open" else f"{_proposal(row)} (applied)",
        row.reason,
    )


def _proposal(row: "ReconciliationRow") -> str:
    match row.proposal:
        case None:
            return "-"
        case "unit":
            return f"send {row.quantity:+f}"
        case kind:
            return f"{kind} {row.identifier}"
