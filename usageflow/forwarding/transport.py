"""HTTP requests that are sent once: no retry, no redirect, a bound on time and on the answer.

What became of a request is a value, and tells whether a byte of it can have left. What an answer
means is the caller's business. Nothing is logged here, and no header is kept.
"""

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    ProxyManager,
    make_headers,
)
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError, ProxyError

ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""Largest body that is read; a page of a hundred objects of Stripe's has a tenth of it."""
_CHUNK_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Names of `headers` are compared without case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer, or only a part of one. Not `sent`: certainly no byte of the request left."""

    reason: str
    sent: bool


class Pool:
    """Kept-alive connections to a few hosts. Safe to use from several threads.

    A request takes at most about `timeout_s` to connect and `timeout_s` to be answered.
    Certificates are verified by `ca_file`, or by the system's authorities. With `environment`,
    proxies named there (HTTPS_PROXY, NO_PROXY and so on) are used; addresses of this machine want
    none.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        connections_max: int,
        environment: bool,
        ca_file: str | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._connections_max = connections_max
        self._environment = environment
        self._ca_file = ca_file
        self._managers: dict[tuple[str, str], PoolManager] = {}

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None = None
    ) -> Answer | Lost:
        """Send one request, once. `url` is http:// or https://."""
        try:
            response = self._manager(url).urlopen(
                method,
                url,
                redirect=False,
                retries=False,
                body=body,
                headers=headers,
                timeout=self._timeout_s,
                preload_content=False,
                decode_content=False,
            )
            with response:
                return self._read(response)
        except HTTPError as error:
            unsent = isinstance(error, NewConnectionError | ProxyError)
            host = urlsplit(url).hostname
            return Lost(f"{host}: {_cause(error)}", sent=not unsent)

    def close(self) -> None:
        """Close every connection that rests; a second time does nothing."""
        for manager in list(self._managers.values()):
            manager.clear()

    def _read(self, response: BaseHTTPResponse) -> Answer | Lost:
        ends = time.monotonic() + self._timeout_s  # a drop of bytes now and then is no answer
        body = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > ANSWER_BYTES_MAX:
                return Lost(f"an answer of more than {ANSWER_BYTES_MAX} bytes", sent=True)
            if time.monotonic() > ends:
                return Lost(f"an answer not complete after {self._timeout_s:g} s", sent=True)
        return Answer(response.status, response.headers, bytes(body))

    def _manager(self, url: str) -> PoolManager:
        parts = urlsplit(url)
        origin = parts.scheme, parts.netloc
        manager = self._managers.get(origin)
        if manager is None:
            manager = self._managers.setdefault(origin, self._made(*origin))
        return manager

    def _made(self, scheme: str, host: str) -> PoolManager:
        """The pool for one origin, through a proxy where the environment names one."""
        proxy = None
        if self._environment and not proxy_bypass(host):
            proxy = getproxies().get(scheme)
        tls = self._tls if scheme == "https" else None
        manager = (
            PoolManager(maxsize=self._connections_max, ssl_context=tls)
            if proxy is None
            else _proxied(proxy, self._connections_max, tls)
        )
        manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return manager

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._ca_file)


def _proxied(proxy: str, connections_max: int, tls: ssl.SSLContext | None) -> ProxyManager:
    url = proxy if "://" in proxy else f"http://{proxy}"
    parts = urlsplit(url)
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    return ProxyManager(
        url,
        maxsize=connections_max,
        ssl_context=tls,
        proxy_headers=make_headers(proxy_basic_auth=login),
    )


@contextmanager
def _connecting(connection: HTTPConnection) -> Iterator[None]:
    """Whatever goes wrong before there is a connection, TLS and tunnel included, sent nothing."""
    try:
        yield
    except Exception as error:
        raise NewConnectionError(connection, str(error)) from error


class _Http(HTTPConnection):
    def connect(self) -> None:
        with _connecting(self):
            super().connect()


class _Https(HTTPSConnection):
    def connect(self) -> None:
        with _connecting(self):
            super().connect()


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


def _cause(error: BaseException) -> BaseException:
    """What began it: the words around it are the library's."""
    return error if error.__cause__ is None else _cause(error.__cause__)
