"""`usageflow statement`: where all metered usage is, and whether the parts add up. Reads only."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, scope
from usageflow.cli.tables import printed, table
from usageflow.errors import ConfigurationError

if TYPE_CHECKING:
    from usageflow.db.session import Tx
    from usageflow.ledger.statement import Line

HEADER: Final = (
    *("event name", "metered", "settled", "in flight", "parked", "quarantined", "held"),
    "written off",
)
LANES_HEADER: Final = ("customer", "event name", "sum of", "kept", "found")


def statement(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    at: Annotated[
        datetime | None,
        typer.Option(
            help="the statement that was stored for this UTC hour, instead of one of this moment",
            formats=["%Y-%m-%dT%H", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%SZ"],
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="compare every lane with its events and units instead")
    ] = False,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Show where all metered usage is, and if it adds up."""
    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        right = (
            _compare(tx, found.organization_id, as_json=as_json)
            if verify
            else _tell(tx, found.organization_id, at, as_json=as_json)
        )
    if not right:
        raise typer.Exit(1)


def _tell(tx: "Tx", organization_id: str, at: datetime | None, *, as_json: bool) -> bool:
    """Print the statement; whether it adds up."""
    moment, lines = _lines(tx, organization_id, at)
    if as_json:
        _print_json({"at": moment, "lines": [_document(line) for line in lines]})
    else:
        _print_table(lines)
        if at is None:
            _print_unknown(tx, organization_id)
    return not any(line.difference for line in lines)


def _compare(tx: "Tx", organization_id: str, *, as_json: bool) -> bool:
    """Print the lanes that are not what they are made of; whether there are none."""
    from usageflow.ledger.statement import verify

    found = verify(tx, organization_id)
    if as_json:
        _print_json([one._asdict() for one in found])
    elif found:
        print(table(LANES_HEADER, [(*one[:3], f"{one.kept:f}", f"{one.found:f}") for one in found]))
    else:
        print("every lane is what its events and units add up to")
    return not found


def _lines(tx: "Tx", organization_id: str, at: datetime | None) -> "tuple[datetime, list[Line]]":
    """The statement of this moment, or the stored one of an hour, with its time.

    Raises ConfigurationError if none was stored for that hour.
    """
    from usageflow.ledger import statement as ledger
    from usageflow.periods import hour_start

    if at is None:
        return tx.now, ledger.statement(tx, organization_id)
    hour = hour_start(at.replace(tzinfo=UTC))
    lines = ledger.stored(tx, organization_id, hour)
    if not lines:
        newest = ledger.latest(tx, organization_id)
        has = "none is" if newest is None else f"the newest is of {newest:%Y-%m-%dT%H}"
        raise ConfigurationError(f"no statement is stored for {hour:%Y-%m-%dT%H}; {has}")
    return hour, lines


def _print_unknown(tx: "Tx", organization_id: str) -> None:
    """How much is in no sum at all."""
    from usageflow.ledger.inbox import unknown

    if count := unknown(tx, organization_id):
        events = "1 event is" if count == 1 else f"{count} events are"
        print(f"{events} in no sum: nobody knows whose or how much; see `usageflow inbox`")


def _document(line: "Line") -> dict[str, object]:
    return {**line._asdict(), "difference": line.difference}


def _print_json(document: object) -> None:
    """Quantities are JSON numbers with every digit they have, never through a binary float."""
    import msgspec

    encoded = msgspec.json.Encoder(decimal_format="number").encode(document)
    sys.stdout.buffer.write(encoded + b"\n")
    sys.stdout.buffer.flush()


def _print_table(lines: "Sequence[Line]") -> None:
    rows = [(line.event_name, *(f"{part:f}" for part in line[1:])) for line in lines]
    print(table(HEADER, rows))
    wrong = [
        f"{line.event_name} differs by {line.difference:f}" for line in lines if line.difference
    ]
    print(f"\n{printed('; '.join(wrong)) or 'adds up'}")
