"""Command line options that are settings: name, help and environment variable come from the field.

An option that is not given leaves its setting to the environment and then to the default.
"""

import os
from dataclasses import fields
from typing import Annotated, Any

import typer

from usageflow.config import Settings, variable

_FIELDS = {item.name: item for item in fields(Settings)}


def setting(name: str) -> Any:
    """The option of a field of Settings: `spool_dir` is `--spool-dir`."""
    item = _FIELDS[name]
    default = "" if item.default is None else f"; default: {item.default}"
    return typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{item.metadata['doc']} [{variable(name)}{default}]",
        show_default=False,
    )


DatabaseOption = Annotated[str | None, setting("database")]
HostOption = Annotated[str | None, setting("host")]
PortOption = Annotated[int | None, setting("port")]


def server_settings(**given: Any) -> Settings:
    """The settings of a command that works on the database.

    What the environment says to an edge on the same machine (which server, with which key) is left
    out: otherwise the first key could not be created while USAGEFLOW_SERVER is already set.
    """
    edge = {variable("server"), variable("api_key")}
    environ = {name: value for name, value in os.environ.items() if name not in edge}
    return Settings.read(environ, **given)
