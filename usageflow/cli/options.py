"""Command line options that are settings, and where a command's settings come from.

Name, help and environment variable of an option come from the field. What is not given as an option
is left to the environment, then to the configuration file, then to the default.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from usageflow.cli import config_file
from usageflow.cli.config_file import Placed
from usageflow.cli.strays import strays
from usageflow.config import Settings, problem_of, variable
from usageflow.errors import ConfigurationError

CONFIG_VARIABLE: Final = "USAGEFLOW_CONFIG"
DEFAULT_CONFIG: Final = "usageflow.toml"
"""Read if it is in the directory that a command is started in, and no other file is named."""
OF_EDGES: Final = ("server", "api_key")
"""Which server an edge ships to, and with which key: of no concern to the server itself."""

_FIELDS = {item.name: item for item in fields(Settings)}
log = logging.getLogger("usageflow.config")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def setting(name: str) -> Any:
    """The option of a field of Settings: `spool_dir` is `--spool-dir`."""
    item = _FIELDS[name]
    default = "" if item.default is None else f"; default: {item.default}"
    return typer.Option(
        _option(name),
        help=f"{item.metadata['doc']} [{variable(name)}{default}]",
        show_default=False,
    )


def _said(text: str) -> str:
    """A reason that says something: who reads the audit log has nothing else."""
    if not text.strip():
        raise typer.BadParameter("say why")
    return text


ReasonOption = Annotated[
    str, typer.Option("--reason", help="why, for the audit log", callback=_said)
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"configuration file [{CONFIG_VARIABLE}; default: {DEFAULT_CONFIG}, if it exists]",
        show_default=False,
    ),
]
DatabaseOption = Annotated[str | None, setting("database")]
HostOption = Annotated[str | None, setting("host")]
PortOption = Annotated[int | None, setting("port")]


def file_settings(config: Path | None = None) -> dict[str, Placed]:
    """What the configuration file says: the one named, or ./usageflow.toml if there is one.

    Raises ConfigurationError if it cannot be read or has mistakes.
    """
    named = config or os.environ.get(CONFIG_VARIABLE)
    path = Path(named or DEFAULT_CONFIG)
    if str(path) == os.devnull:  # `up` has read all for its children, and told what is odd
        return {}
    for stray in strays(os.environ):
        log.warning("%s", stray)
    if not named and not path.is_file():
        return {}
    found = config_file.read(path)
    log.info("configuration file %s", path)
    return found


def edge_settings(config: Path | None = None, **given: Any) -> Settings:
    """The settings of a command that is an edge. Raises ConfigurationError."""
    _require_fit(given)
    return Settings.read(file=_values(file_settings(config)), **given)


def server_settings(config: Path | None = None, **given: Any) -> Settings:
    """The settings of a command that works on the database. Raises ConfigurationError.

    What environment and file say to an edge on the same machine (which server, with which key) is
    left out: otherwise the first key could not be created while USAGEFLOW_SERVER is already set.
    """
    _require_fit(given)
    edge = {variable(name) for name in OF_EDGES}
    environ = {name: value for name, value in os.environ.items() if name not in edge}
    values = _values(file_settings(config))
    for name in OF_EDGES:
        values.pop(name, None)
    return Settings.read(environ, file=values, **given)


def _require_fit(given: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for an option's value, naming the option: it is what was typed."""
    for name, value in given.items():
        problem = None if value is None else problem_of(name, value)
        if problem is not None:
            raise ConfigurationError(f"{_option(name)} {problem}")


def _values(placed: Mapping[str, Placed]) -> dict[str, Any]:
    return {name: given.value for name, given in placed.items()}
