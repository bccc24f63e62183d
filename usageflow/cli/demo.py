"""`usageflow demo`: hands its arguments to the demo, which has its own options and help."""

from typing import Final

import typer

PASS_THROUGH: Final = {"ignore_unknown_options": True, "allow_extra_args": True}
"""How the command line is read: every option, `--help` too, belongs to the demo."""


def demo(context: typer.Context) -> None:
    """Run the whole product on loopback with real traffic."""
    from usageflow.demo import main

    raise typer.Exit(main(context.args))
