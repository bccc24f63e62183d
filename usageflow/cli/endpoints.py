"""`usageflow endpoints`: what no policy matches, and a policy to begin with. Reads only."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, scope
from usageflow.errors import ConfigurationError

if TYPE_CHECKING:
    from usageflow.catalog.endpoints import Unmatched

SHOWN_MAX: Final = 50
"""Endpoints a person is shown: what a terminal can hold. `--json` has them all."""
HEADER: Final = ("requests", "endpoint", "answers", "first seen", "last seen")


def endpoints(
    *,
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="ENDPOINT", help='print a policy to begin with for one, as "POST /v1/chat"'
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON line per endpoint, all of them")
    ] = False,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Show the endpoints that no policy matches."""
    from usageflow.catalog.endpoints import listed

    with scope(database, organization, reading=True) as scoped, scoped.db.reading() as tx:
        found = listed(tx, scoped.organization_id)
    if draft is not None:
        _print_draft(draft, found)
    elif as_json:
        _print_lines(found)
    else:
        _print_table(found)


def _print_draft(name: str, found: "list[Unmatched]") -> None:
    from usageflow.catalog.drafts import draft

    for one in found:
        if f"{one.method} {one.template}" == name:
            print(draft(one), end="")
            return
    raise ConfigurationError(f"no unmatched endpoint is {name!r}; `usageflow endpoints` lists them")


def _print_lines(found: "list[Unmatched]") -> None:
    import msgspec

    for one in found:
        sys.stdout.buffer.write(msgspec.json.encode(one._asdict()) + b"\n")
    sys.stdout.buffer.flush()


def _print_table(found: "list[Unmatched]") -> None:
    from usageflow.cli.tables import table

    if not found:
        print("No requests were reported that no policy matches.")
        return
    print(table(HEADER, [_cells(one) for one in found[:SHOWN_MAX]]))
    if (more := len(found) - SHOWN_MAX) > 0:
        print(f"\n... and {more} more; --json shows them all")
    print('\n--draft "METHOD /template" prints a policy to begin with')


def _cells(one: "Unmatched") -> tuple[str, ...]:
    return (
        str(one.requests),
        f"{one.method} {one.template}",
        " ".join(map(str, one.sketch.statuses)),
        f"{one.first_seen_at:%Y-%m-%d %H:%M}",
        f"{one.last_seen_at:%Y-%m-%d %H:%M}",
    )
