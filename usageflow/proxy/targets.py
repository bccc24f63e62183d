"""Where the API behind the proxy is, and how a connection to it is opened.

Reads the `upstream` settings, resolves names and dials. It speaks no HTTP, keeps no connection and
chooses between no targets.
"""

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar
from urllib.parse import SplitResult, urlsplit

from usageflow.config import Settings, variable
from usageflow.errors import ConfigurationError, UpstreamUnreachable

logger = logging.getLogger(__name__)

NO_UPSTREAM: Final = "no upstream: pass --upstream URL or set USAGEFLOW_UPSTREAM"

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_UNIX: Final = "unix:"
_NAME: Final = re.compile(r"[a-z0-9._-]+")
"""What may stand in a Host header and in DNS; underscores occur within container networks."""
_CREDENTIALS: Final = re.compile(r"(?<=//).*@")
"""They are refused, and not repeated in the message."""
_LOOKS: Final = "must look like http://host:port, https://host or unix:/path/of.sock"

Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""The IP addresses of a name, best first. Raises OSError if there are none."""

_REFUSED: Final = "The upstream does not accept connections."
_TOO_LATE: Final = "The upstream did not accept a connection in time."

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One place where the API is served. Each is equal to itself alone: the hash costs nothing.

    `path` is that of a unix socket; `host` is then empty. `server_name` is what TLS asks for and
    verifies. `authority` is the target's own name in a Host header, `name` that for people: neither
    holds a secret.
    """

    host: str
    port: int
    path: str | None
    tls: ssl.SSLContext | None
    server_name: str | None
    authority: bytes
    name: str


def parse_targets(settings: Settings) -> tuple[Target, ...]:
    """The targets of the `upstream` setting, in order. Raises ConfigurationError naming a bad one.

    Paths are refused: requests are forwarded under the very path that was metered.
    """
    if settings.upstream is None:
        raise ConfigurationError(NO_UPSTREAM)
    items = [item.strip() for item in settings.upstream.split(",")]
    tls = _tls(settings) if any(item.lower().startswith("https:") for item in items) else None
    targets = {}
    for item in items:
        target = _parse(item, tls, settings.upstream_sni)
        if target.name in targets:
            raise ConfigurationError(f"upstream {item!r} is given twice")
        targets[target.name] = target
    return tuple(targets.values())


def _parse(item: str, tls: ssl.SSLContext | None, sni: str | None) -> Target:
    shown = _CREDENTIALS.sub("***@", item)
    if item.startswith(_UNIX):
        path = item.removeprefix(_UNIX)
        if not path.startswith("/"):
            raise ConfigurationError(f"upstream {shown!r} {_LOOKS}: the path starts with '/'")
        return Target("", 0, path, None, None, b"localhost", item)
    try:
        parts = urlsplit(item)
        host, port = _host(parts), parts.port
    except ValueError as error:
        raise ConfigurationError(f"upstream {shown!r} {_LOOKS}: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS or not host or port == 0:
        raise ConfigurationError(f"upstream {shown!r} {_LOOKS}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(
            f"upstream {shown!r} must be a scheme, a host and a port alone: paths are forwarded "
            "as they are"
        )
    default = _DEFAULT_PORTS[parts.scheme]
    authority = f"[{host}]" if ":" in host else host
    if port not in (None, default):
        authority += f":{port}"
    secure = parts.scheme == "https"
    return Target(
        host=host,
        port=port or default,
        path=None,
        tls=tls if secure else None,
        server_name=(sni or host.rstrip(".")) if secure else None,
        authority=authority.encode("ascii"),
        name=f"{parts.scheme}://{authority}",
    )


def _host(parts: SplitResult) -> str:
    """The host as DNS and a Host header want it; empty if it is none. Raises ValueError."""
    host = parts.hostname or ""
    if "[" in parts.netloc:
        return str(ipaddress.IPv6Address(host))
    host = host.encode("idna").decode("ascii")
    return host if _NAME.fullmatch(host) else ""


def _tls(settings: Settings) -> ssl.SSLContext:
    """TLS 1.2 or later, to a server that is verified. Raises ConfigurationError."""
    try:
        context = ssl.create_default_context(cafile=settings.upstream_ca)
    except OSError as error:
        raise ConfigurationError(
            f"{variable('upstream_ca')} {settings.upstream_ca!r} must be a PEM file with the "
            f"certificates of authorities: {error.strerror}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    certificate, key = settings.upstream_client_cert, settings.upstream_client_key
    if certificate is not None:
        try:  # an empty password: without one OpenSSL would ask for it on the terminal
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise ConfigurationError(
                f"{variable('upstream_client_cert')} {certificate!r} and "
                f"{variable('upstream_client_key')} {key or certificate!r} must be PEM files with "
                f"a certificate and its key, without a password: {error.strerror}"
            ) from None
    return context


class Dialer:
    """Opens connections to one target, within `timeout_s` in all.

    The addresses of its name are remembered; `refresh` looks them up again. Each connection begins
    with another one of them, and goes through all before it fails.
    """

    __slots__ = (
        "_addresses",
        "_known",
        "_looking_up",
        "_reached",
        "_resolve",
        "_timeout_s",
        "_turn",
        "target",
    )

    def __init__(self, target: Target, *, timeout_s: float, resolve: Resolve) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._addresses = _literal(target)
        self._looking_up = asyncio.Lock()
        self._turn = 0
        self._known = self._reached = True

    @property
    def named(self) -> bool:
        """Whether there is a name whose addresses may change."""
        return not _literal(self.target)

    async def dial(self, protocol: Callable[[], _P]) -> tuple[asyncio.Transport, _P, str]:
        """A new connection, its protocol, and the address it leads to.

        Raises UpstreamUnreachable. Logs the cause once, not again until a connection succeeded.
        """
        try:
            opened = await self._through_all(protocol)
        except OSError as error:  # refused, no route, no such name, a certificate that fails
            self._note(error)
            late = isinstance(error, TimeoutError)
            raise UpstreamUnreachable(_TOO_LATE if late else _REFUSED) from error
        self._note(None)
        return opened

    async def refresh(self) -> Collection[str]:
        """Look the name up again; gives the addresses that it has no more.

        When that fails, the last ones stay in force.
        """
        try:
            found = await self._look_up()
        except OSError as error:
            if self._known:
                logger.warning("%s: its name is not resolved: %s", self.target.name, error)
            self._known = False
            return ()
        self._known = True
        gone = set(self._addresses).difference(found)
        self._addresses = found
        return gone

    async def _through_all(self, protocol: Callable[[], _P]) -> tuple[asyncio.Transport, _P, str]:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout_s
        async with asyncio.timeout_at(until):
            addresses = await self._in_turn()
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:  # a share of the time for each: a mute one would leave none for the others
                async with asyncio.timeout((until - loop.time()) / left):
                    return await self._open(protocol, address)
            except OSError:
                if left == 1:
                    raise
        raise AssertionError("a name has at least one address")

    async def _in_turn(self) -> tuple[str, ...]:
        if not self._addresses:
            async with self._looking_up:  # many requests may wait for the first answer: ask once
                if not self._addresses:
                    self._addresses = await self._look_up()
        start = self._turn % len(self._addresses)
        self._turn += 1
        return self._addresses[start:] + self._addresses[:start]

    async def _look_up(self) -> tuple[str, ...]:
        return tuple(await self._resolve(self.target.host))

    async def _open(
        self, protocol: Callable[[], _P], address: str
    ) -> tuple[asyncio.Transport, _P, str]:
        loop = asyncio.get_running_loop()
        target = self.target
        if target.path is not None:
            transport, opened = await loop.create_unix_connection(protocol, target.path)
        else:
            transport, opened = await loop.create_connection(
                protocol, address, target.port, ssl=target.tls, server_hostname=target.server_name
            )
        return transport, opened, address

    def _note(self, error: OSError | None) -> None:
        """Log a change: from reached to not, and back."""
        if error is not None and self._reached:
            cause = str(error) or f"no answer within {self._timeout_s:g} s"
            logger.warning("%s: no connection: %s", self.target.name, cause)
        elif error is None and not self._reached:
            logger.info("%s: connected again", self.target.name)
        self._reached = error is None


async def look_up(name: str) -> Sequence[str]:
    """The addresses of a name, from the system's resolver, in its order. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _literal(target: Target) -> tuple[str, ...]:
    """The address of a target that has no name to look up; else nothing."""
    if target.path is not None:
        return (target.path,)
    try:
        return (str(ipaddress.ip_address(target.host)),)
    except ValueError:
        return ()
