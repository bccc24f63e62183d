"""`usageflow audit`: who changed what, and whether the log is as it was written. Reads only."""

import sys
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, scope

app = typer.Typer(help="Show and verify the log of every change.", no_args_is_help=True)

HEADER: Final = ("entry", "at", "who", "what", "subject", "before", "after", "request")
SHOWN: Final = 50
"""Entries a person is shown unless they ask for more."""


@app.command("list")
def list_entries(
    *,
    action: Annotated[
        str | None,
        typer.Option(help="entries whose action begins with this, as plan.", show_default=False),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="entries about this id", show_default=False)
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="entries of this person or key", show_default=False)
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            help="entries from this moment on (UTC)",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%SZ"],
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many at most")] = SHOWN,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """List changes, the latest first."""
    from usageflow.catalog.audit import listing
    from usageflow.cli.tables import table

    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        entries, total = listing(
            tx,
            found.organization_id,
            action=action,
            subject=subject,
            actor=actor,
            since=None if since is None else since.replace(tzinfo=UTC),
            offset=0,
            limit=limit,
        )
        rows = [
            (
                str(entry.seq),
                f"{entry.at:%Y-%m-%d %H:%M:%S}",
                entry.actor,
                entry.action,
                entry.subject,
                entry.before or "-",
                entry.after or "-",
                entry.request_id or "-",
            )
            for entry in entries
        ]
    print(table(HEADER, rows))
    if total > limit:
        print(f"{total - limit} more: --limit {total} shows all", file=sys.stderr)


@app.command()
def verify(organization: OrganizationOption = "default", database: DatabaseOption = None) -> None:
    """Check that no entry was changed, removed or put in since it was written.

    Keep what it prints elsewhere: whoever writes the whole log anew gets another hash.
    """
    from usageflow.catalog.audit import head
    from usageflow.catalog.audit import verify as verify_chain

    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        problem = verify_chain(tx, found.organization_id)
        end, entries = head(tx, found.organization_id)
    if problem is not None:
        print(problem, file=sys.stderr)
        raise typer.Exit(1)
    print(f"{entries} entries, as they were written; the last has the hash {end or '-'}")
