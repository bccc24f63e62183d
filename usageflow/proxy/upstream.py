"""Where the upstream is, and how a connection to it is opened. It sends no requests."""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, UpstreamUnreachable
from usageflow.proxy.connection import UpstreamConnection
from usageflow.proxy.pool import OnLost

_DEFAULT_PORTS = {"http": 80, "https": 443}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The address of the API behind the proxy. `authority` is its name in a Host header."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    authority: bytes

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `http://host[:port]` or `https://...`. Raises ConfigurationError.

        A path is refused: requests are forwarded under the very path that was metered.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"upstream {url!r} is not a URL: {error}") from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ConfigurationError(f"upstream {url!r} must look like http://host:port")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ConfigurationError(
                f"upstream {url!r} must be a scheme, a host and a port alone: paths are forwarded "
                "as they are"
            )
        return cls(
            host=parts.hostname,
            port=_DEFAULT_PORTS[parts.scheme] if port is None else port,
            tls=ssl.create_default_context() if parts.scheme == "https" else None,
            authority=parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii"),
        )

    async def connect(self, on_lost: OnLost, settings: Settings) -> UpstreamConnection:
        """Open a connection, with TLS if the URL says so. Raises UpstreamUnreachable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(settings.upstream_connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(
                        loop, header_bytes_max=settings.upstream_header_bytes_max, on_lost=on_lost
                    ),
                    self.host,
                    self.port,
                    ssl=self.tls,
                )
        except TimeoutError:
            raise UpstreamUnreachable("The upstream did not accept a connection in time.") from None
        except OSError as error:  # refused, no route, no such name, a certificate that fails
            logger.warning("no connection to %s port %s: %s", self.host, self.port, error)
            raise UpstreamUnreachable("The upstream does not accept connections.") from error
        return connection
