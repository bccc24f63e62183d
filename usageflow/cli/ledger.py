"""`usageflow ledger`: whether what is added up is what the events add up to, and to mend it."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, scope

if TYPE_CHECKING:
    from usageflow.ledger import values, windows

app = typer.Typer(help="Verify and rebuild what is derived from events.", no_args_is_help=True)

HEADER: Final = ("customer", "metric", "hour", "value", "stored", "by the events")


@app.command()
def verify(
    *,
    limit: Annotated[int, typer.Option(min=1, help="how many differences are shown")] = 50,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Recompute windows and values from the events, and compare. Ends with 1 if they differ."""
    from usageflow.cli.tables import table
    from usageflow.ledger import derived, windows

    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        differences = derived.verify(tx, found.organization_id)
        compared = len(windows.totals(tx, found.organization_id))
    if differences:
        print(table(HEADER, [_cells(one) for one in differences[:limit]]))
        more = f"; the first {limit} are shown" if len(differences) > limit else ""
        print(
            f"{len(differences)} differences{more}. `usageflow ledger rebuild` mends them",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    print(f"{compared} windows are what their events add up to")


@app.command()
def rebuild(organization: OrganizationOption = "default", database: DatabaseOption = None) -> None:
    """Make windows and values again from the events. Usage waits meanwhile."""
    from usageflow.ledger import derived, windows

    with scope(database, organization) as found, found.db.transaction() as tx:
        differences = derived.verify(tx, found.organization_id)
        derived.rebuild(tx, found.organization_id)
        made = len(windows.totals(tx, found.organization_id))
    print(f"{made} windows made again, {len(differences)} differences mended")


def _cells(difference: "windows.Difference | values.Difference") -> tuple[str, ...]:
    place, stored, expected = difference
    customer_id, metric, hour, *value = place
    return (
        customer_id,
        metric,
        f"{hour:%Y-%m-%d %H:%M}",
        value[0] if value else "-",
        _told(stored),
        _told(expected),
    )


def _told(held: "windows.Sum | int | None") -> str:
    if held is None:
        return "-"
    if isinstance(held, int):
        return f"{held} events"
    return f"{held.total:f} of {held.events}, max {held.maximum:f}, last {held.last:f}"
