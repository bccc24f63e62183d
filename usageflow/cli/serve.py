"""`usageflow serve`: the HTTP API and the worker over one database."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from usageflow.cli.logs import log_to_stderr
from usageflow.cli.options import (
    ConfigOption,
    DatabaseOption,
    HostOption,
    PortOption,
    server_settings,
)
from usageflow.cli.policies import sound_file


def serve(
    database: DatabaseOption = None,
    host: HostOption = None,
    port: PortOption = None,
    policies: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="policy file to publish first", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the server: HTTP API and worker over one database."""
    log_to_stderr()
    settings = server_settings(config, database=database, host=host, port=port)
    published = None if policies is None else sound_file(policies)
    from usageflow.server import serve as run

    run(settings, policies=published, tell=partial(print, flush=True))
