"""`usageflow up`: server and proxy in one command, on one machine."""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from usageflow.cli.config_file import section_of
from usageflow.cli.logs import log_to_stderr
from usageflow.cli.options import (
    CONFIG_VARIABLE,
    ConfigOption,
    DatabaseOption,
    HostOption,
    PortOption,
    server_settings,
    setting,
)
from usageflow.cli.policies import sound_file
from usageflow.config import Settings, variable
from usageflow.errors import ConfigurationError

if TYPE_CHECKING:
    from usageflow.up import Plan

CHILD = (sys.executable, "-m", "usageflow.cli.up_child")
"""Runs a command of `usageflow` until it ends, or this process does."""
OF_SERVER = frozenset({"server", "stripe"})
OF_PROXY = frozenset({"edge", "proxy", "upstream", "hops"})
"""The sections of the settings that each of them gets: no more secrets than it needs."""
SERVER_STOP_S_MAX = 25.0
"""Above what the server takes to stop: 10 s for its requests, twice 5 s for its worker."""
FLUSH_S_MAX = 15.0
"""What the proxy may take to stop beyond draining its requests and then its spool."""


def up(
    *,
    upstream: Annotated[list[str] | None, setting("upstream")] = None,
    listen: Annotated[str | None, setting("listen")] = None,
    policies: Annotated[str | None, setting("policies")] = None,
    database: DatabaseOption = None,
    host: HostOption = None,
    port: PortOption = None,
    workers: Annotated[int | None, setting("workers")] = None,
    tls_cert: Annotated[str | None, setting("tls_cert")] = None,
    tls_key: Annotated[str | None, setting("tls_key")] = None,
    spool_dir: Annotated[str | None, setting("spool_dir")] = None,
    durability: Annotated[str | None, setting("durability")] = None,
    admin_listen: Annotated[str | None, setting("admin_listen")] = None,
    access_log: Annotated[str | None, setting("access_log")] = None,
    config: ConfigOption = None,
) -> None:
    """Run server and proxy together on this machine."""
    log_to_stderr()
    settings = server_settings(
        config,
        upstream=",".join(upstream) if upstream else None,
        listen=listen,
        policies=policies,
        database=database,
        host=host,
        port=port,
        workers=workers,
        tls_cert=tls_cert,
        tls_key=tls_key,
        spool_dir=spool_dir,
        durability=durability,
        admin_listen=admin_listen,
        access_log=access_log,
    )
    if settings.upstream is None:
        from usageflow.proxy.targets import NO_UPSTREAM

        raise ConfigurationError(NO_UPSTREAM)
    if settings.policies is not None:
        sound_file(Path(settings.policies))
    _require_free(settings)
    from usageflow.up import run

    run(_plan(settings))


def environment(
    settings: Settings, sections: frozenset[str], inherited: Mapping[str, str], **given: str | None
) -> dict[str, str]:
    """The environment of a child: what is `inherited`, but of our settings only these sections.

    `given` replaces a setting; None leaves it out. The file was read already, and is not again.
    """
    names = [item.name for item in fields(Settings)]
    values: dict[str, Any] = {
        name: getattr(settings, name) for name in names if section_of(name) in sections
    }
    values.update(given)
    ours = {variable(name): str(value) for name, value in values.items() if value is not None}
    known = {variable(name) for name in names}
    rest = {name: text for name, text in inherited.items() if name not in known}
    return rest | ours | {CONFIG_VARIABLE: os.devnull}


def _plan(settings: Settings) -> "Plan":
    from usageflow.up import Plan
    from usageflow.up.child import Program, reachable

    def say() -> None:
        print(f"proxy   {_shown(settings)}  in front of {settings.upstream}")
        print(f"server  {url}", flush=True)

    url = f"http://{_joined(reachable(settings.host), settings.port)}"
    file = None if settings.policies is None else Path(settings.policies)
    return Plan(
        server=Program(
            name="server",
            command=(*CHILD, "serve"),
            environ=environment(settings, OF_SERVER, os.environ),
            listen=_joined(settings.host, settings.port),
            stop_s_max=SERVER_STOP_S_MAX,
        ),
        proxy=Program(
            name="proxy",
            command=(*CHILD, "proxy"),
            # its policies are the server's, and its key is made when the server is there
            environ=environment(
                settings, OF_PROXY, os.environ, server=url, api_key=None, policies=None
            ),
            listen=settings.listen,
            stop_s_max=2 * settings.drain_timeout_s + FLUSH_S_MAX,
        ),
        database=settings.database,
        key_name=f"up {socket.gethostname()}:{settings.port}",
        policies=file,
        read_policies=sound_file,
        poll_s=settings.policy_poll_s,
        on_ready=say,
    )


def _require_free(settings: Settings) -> None:
    """Raises ConfigurationError for an address that is taken, before anything is started."""
    from usageflow.addresses import bound_socket, host_and_port

    bound_socket(settings.host, settings.port, option="--port").close()
    if not settings.listen.startswith("unix:"):
        bound_socket(*host_and_port(settings.listen), option="--listen").close()


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _shown(settings: Settings) -> str:
    if settings.listen.startswith("unix:"):
        return settings.listen
    return f"{'https' if settings.tls_cert else 'http'}://{settings.listen}"
