"""`usageflow config`: a complete configuration file to begin with, or what is in force and why."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from usageflow.cli import config_file
from usageflow.cli.options import file_settings
from usageflow.cli.tables import table
from usageflow.config import Settings, variable
from usageflow.errors import ConfigurationError


def config(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="configuration file to check", show_default=False),
    ] = None,
    *,
    check: Annotated[
        bool,
        typer.Option("--check", help="show what is in force and where it comes from, or mistakes"),
    ] = False,
) -> None:
    """Print a complete usageflow.toml, or check one."""
    if not check and file is not None:
        raise ConfigurationError(f"to check a file: usageflow config --check {file}")
    if not check:
        print(config_file.template(), end="")
        return
    from usageflow.proxy.soundness import mistakes

    placed = file_settings(file)
    settings = Settings.read(file={name: given.value for name, given in placed.items()})
    places = {name: given.place for name, given in placed.items()}
    for item in fields(Settings):
        if os.environ.get(variable(item.name)):
            places[item.name] = variable(item.name)
    told = [f"{places.get(name, name)}: {text}" for name, text in mistakes(settings)]
    if told:
        raise ConfigurationError("\n".join(told))
    print(table(("setting", "value", "from"), config_file.in_force(settings, places)))
