"""`usageflow organizations`: make and list those whose usage it is."""

from typing import Annotated, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import opened

app = typer.Typer(help="Make and list organizations.", no_args_is_help=True)

HEADER: Final = ("organization", "display name", "made")


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(help="what commands call it by, such as acme", show_default=False)
    ],
    *,
    display_name: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="what its people call it", show_default=False),
    ] = None,
    database: DatabaseOption = None,
) -> None:
    """Make an organization, with keys, policies and a Stripe account of its own."""
    from usageflow.catalog.audit import CLI
    from usageflow.catalog.organizations import create as make
    from usageflow.catalog.organizations import default_organization

    with opened(database, new=True) as (db, _), db.transaction() as tx:
        default_organization(tx)  # the first is always there
        make(tx, name, display_name=display_name, actor=CLI)
    print(f"made organization {name}; name it to other commands with --organization {name}")


@app.command("list")
def list_organizations(database: DatabaseOption = None) -> None:
    """List the organizations."""
    from usageflow.catalog.organizations import listing
    from usageflow.cli.tables import table

    with opened(database, reading=True) as (db, _), db.reading() as tx:
        rows = [
            (row.name, row.display_name or "-", f"{row.created_at:%Y-%m-%d %H:%M}")
            for row in listing(tx)
        ]
    print(table(HEADER, rows))
