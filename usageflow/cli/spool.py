"""`usageflow spool`: what an edge has recorded and not yet handed to the ledger. Reads only."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from usageflow.errors import ConfigurationError


def spool(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="spool directory", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON line per event")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="check the files instead; exit 1 on damage")
    ] = False,
) -> None:
    """Show the events an edge has not handed over yet."""
    show = _verify if verify else _print_lines if as_json else _print_table
    try:
        show(directory)
    except OSError as error:
        raise ConfigurationError(f"{directory}: {error.strerror}") from None


def _verify(directory: Path) -> None:
    from usageflow.recorder.inspection import verify_spool

    problems = verify_spool(directory)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    print(f"{directory}: no damage")


def _print_lines(directory: Path) -> None:
    """The stored lines byte for byte: what was recorded is what is shown."""
    from usageflow.recorder.inspection import read_spool

    for line in read_spool(directory):
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _print_table(directory: Path) -> None:
    from usageflow.cli.tables import table
    from usageflow.events import decode
    from usageflow.recorder.inspection import read_spool

    events = [decode(line) for line in read_spool(directory)]
    rows = [
        (
            event.occurred_at.isoformat(timespec="seconds"),
            event.policy,
            event.metric,
            f"{event.identity.field}={event.identity.value or '?'}",
            "?" if event.quantity is None else f"{event.quantity:f}",
            event.state,
            event.reason or "",
        )
        for event in events
    ]
    header = ("occurred at", "policy", "metric", "identity", "quantity", "state", "reason")
    print(table(header, rows))
    print(f"\n{len(events)} events not yet in the ledger")
