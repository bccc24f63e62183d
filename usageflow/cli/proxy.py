"""`usageflow proxy`: a metering reverse proxy in front of an API in any language."""

import sys
from typing import Annotated, Final

from usageflow.cli.logs import log_to_stderr
from usageflow.cli.options import ConfigOption, edge_settings, setting

WORKER: Final = (sys.executable, "-m", "usageflow.cli.proxy_worker")


def proxy(
    *,
    upstream: Annotated[list[str] | None, setting("upstream")] = None,
    listen: Annotated[str | None, setting("listen")] = None,
    workers: Annotated[int | None, setting("workers")] = None,
    tls_cert: Annotated[str | None, setting("tls_cert")] = None,
    tls_key: Annotated[str | None, setting("tls_key")] = None,
    admin_listen: Annotated[str | None, setting("admin_listen")] = None,
    access_log: Annotated[str | None, setting("access_log")] = None,
    server: Annotated[str | None, setting("server")] = None,
    api_key: Annotated[str | None, setting("api_key")] = None,
    policies: Annotated[str | None, setting("policies")] = None,
    spool_dir: Annotated[str | None, setting("spool_dir")] = None,
    durability: Annotated[str | None, setting("durability")] = None,
    config: ConfigOption = None,
) -> None:
    """Run a metering proxy in front of an API in any language."""
    log_to_stderr()
    settings = edge_settings(
        config,
        upstream=",".join(upstream) if upstream else None,
        listen=listen,
        workers=workers,
        tls_cert=tls_cert,
        tls_key=tls_key,
        admin_listen=admin_listen,
        access_log=access_log,
        server=server,
        api_key=api_key,
        policies=policies,
        spool_dir=spool_dir,
        durability=durability,
    )
    from usageflow.proxy.soundness import require_sound

    require_sound(settings)
    if settings.workers > 1:
        from usageflow.proxy.workers import run as run_workers

        run_workers(settings, WORKER)
    else:
        from usageflow.proxy.serve import run

        run(settings)
