"""`usageflow audit`: who changed what, and whether the log is as it was written. Reads only."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, scope

app = typer.Typer(help="Show and verify the log of every change.", no_args_is_help=True)

HEADER: Final = ("entry", "at", "who", "what", "subject", "request")
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
    """List changes, the latest first; below each what it changed, from and to."""
    from usageflow.catalog.audit import listing
    from usageflow.cli.tables import printed, table

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
                entry.request_id or "-",
            )
            for entry in entries
        ]
        changes = [tuple(_changes(entry.before, entry.after)) for entry in entries]
    header, rule, *lines = table(HEADER, rows).splitlines()
    print(header, rule, sep="\n")
    for line, changed in zip(lines, changes, strict=True):
        print(line, *(f"       {printed(one)}" for one in changed), sep="\n")
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


def _changes(before: str | None, after: str | None) -> Iterator[str]:
    """What differs between the two, which are JSON objects or None: `state: OPEN -> PAID`."""
    old, new = (_fields(told) for told in (before, after))
    for name in old | new:
        if name not in old:
            yield f"{name}: {new[name]}"
        elif name not in new:
            yield f"{name}: {old[name]} ->"
        elif old[name] != new[name]:
            yield f"{name}: {old[name]} -> {new[name]}"


def _fields(told: str | None) -> dict[str, str]:
    """An object's fields, each as it is written, and text without its quotes."""
    found = {} if told is None else msgspec.json.decode(told, type=dict[str, msgspec.Raw])
    return {name: _text(bytes(value)) for name, value in found.items()}


def _text(value: bytes) -> str:
    return msgspec.json.decode(value, type=str) if value.startswith(b'"') else value.decode()
