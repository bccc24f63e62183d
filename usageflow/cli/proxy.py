"""`usageflow proxy`: the metering middleware around a streaming forwarder."""

from typing import Annotated

from usageflow.cli.logs import log_to_stderr
from usageflow.cli.options import setting
from usageflow.config import Settings
from usageflow.errors import ConfigurationError


def proxy(
    *,
    upstream: Annotated[str | None, setting("upstream")] = None,
    listen: Annotated[str | None, setting("listen")] = None,
    server: Annotated[str | None, setting("server")] = None,
    api_key: Annotated[str | None, setting("api_key")] = None,
    policies: Annotated[str | None, setting("policies")] = None,
    spool_dir: Annotated[str | None, setting("spool_dir")] = None,
    durability: Annotated[str | None, setting("durability")] = None,
) -> None:
    """Run a metering proxy in front of an API in any language."""
    settings = Settings.read(
        upstream=upstream,
        listen=listen,
        server=server,
        api_key=api_key,
        policies=policies,
        spool_dir=spool_dir,
        durability=durability,
    )
    if settings.upstream is None:
        raise ConfigurationError("no upstream: pass --upstream URL or set USAGEFLOW_UPSTREAM")
    from usageflow.middleware import UsageFlowMiddleware
    from usageflow.proxy import ReverseProxy
    from usageflow.proxy.serve import run

    log_to_stderr()
    metered = UsageFlowMiddleware(
        ReverseProxy(settings.upstream, settings=settings), settings=settings
    )
    run(metered, listen=settings.listen, drain_timeout_s=settings.drain_timeout_s)
