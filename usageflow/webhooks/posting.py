"""One POST to an endpoint: to an address that was checked, once, bounded in time and in bytes.

No redirect is followed, no proxy is asked, nothing is tried again. What the answer means is
decided in `retries`.
"""

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpcore

from usageflow.webhooks.addresses import Target, all_public, target
from usageflow.webhooks.retries import complaint

CONNECT_S: Final = 5.0
"""Longest wait for a connection, TLS included."""
TOTAL_S: Final = 15.0
"""Longest time from looking up the name to the end of the answer: who takes long should take the
event into a queue and answer."""
ANSWER_BYTES_MAX: Final = 65_536
"""Of the answer no more is read."""
ANSWER_CHARS_MAX: Final = 1_000
"""Of the answer no more is kept for the log."""
ERROR_CHARS_MAX: Final = 300
NOT_PUBLIC: Final = (
    "is not at a public address, so nothing was sent; the server's setting "
    "USAGEFLOW_WEBHOOKS_PRIVATE=on permits it"
)
"""Said of a host; who tries webhooks on their own machine meets it first."""

_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""PostgreSQL keeps no NUL; a terminal obeys some of the others."""

Resolve = Callable[[str, int], Sequence[str]]
"""Host and port to addresses. Raises OSError for a name that has none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: a status with the beginning of the answer, or no status.

    `error` says in words what is wrong, if anything is.
    """

    status: int | None
    error: str | None
    answer: str
    duration_ms: int


def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses the system knows for a name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


@dataclass(frozen=True, slots=True)
class Poster:
    """How webhooks are posted. `private` permits addresses that are not public."""

    private: bool
    tls: ssl.SSLContext
    resolve: Resolve = resolve
    total_s: float = TOTAL_S
    clock: Callable[[], float] = time.monotonic

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Post `body` once. Never raises for what the other side does."""
        began_s = self.clock()
        status, error, answer = self._outcome(url, headers, body, began_s + self.total_s)
        if error is not None:
            error = printable(error)[:ERROR_CHARS_MAX]
        return Outcome(status, error, answer, int((self.clock() - began_s) * 1_000))

    def _outcome(
        self, url: str, headers: Mapping[str, str], body: bytes, ends_s: float
    ) -> tuple[int | None, str | None, str]:
        where = target(url)
        if isinstance(where, str):
            return None, f"the URL {where}", ""
        try:
            addresses = self.resolve(where.host, where.port)
        except (OSError, UnicodeError) as error:
            return None, f"{where.host} cannot be looked up: {_words(error)}", ""
        if not self.private and not all_public(addresses):
            # which address it is may be the secret of an internal name server
            return None, f"{where.host} {NOT_PUBLIC}", ""
        try:
            return self._exchange(where, headers, body, _Pinned(addresses, self.clock, ends_s))
        except (httpcore.TimeoutException, TimeoutError) as error:
            late = "connection" if isinstance(error, httpcore.ConnectTimeout) else "answer"
            return None, f"no {late} in time", ""
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return None, _words(error), ""

    def _exchange(
        self, where: Target, headers: Mapping[str, str], body: bytes, network: "_Pinned"
    ) -> tuple[int, str | None, str]:
        url = httpcore.URL(scheme=where.scheme, host=where.host, port=where.port, target=where.path)
        lines = [(b"host", where.authority.encode())]
        lines += [(name.encode(), value.encode()) for name, value in headers.items()]
        timeouts = {"connect": CONNECT_S, "read": self.total_s, "write": self.total_s}
        with (
            httpcore.ConnectionPool(ssl_context=self.tls, network_backend=network) as pool,
            pool.stream(
                "POST",
                url,
                headers=lines,
                content=body,
                extensions={"timeout": timeouts},
            ) as response,
        ):
            return response.status, complaint(response.status), _beginning(response)


class _Pinned(httpcore.NetworkBackend):
    """Connects to these addresses and no others, whatever the name; all ends at `ends_s`."""

    def __init__(self, addresses: Iterable[str], clock: Callable[[], float], ends_s: float) -> None:
        self._addresses = list(addresses)
        self._clock = clock
        self._ends_s = ends_s
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that takes one."""
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._addresses:
            try:
                bound_s = self.bound_s(timeout)
                stream = self._network.connect_tcp(
                    address, port, bound_s, local_address, socket_options
                )
                return _Bounded(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    def bound_s(self, timeout: float | None) -> float:
        """The time that one step may take. Raises TimeoutError if none is left."""
        left_s = self._ends_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        return left_s if timeout is None else min(timeout, left_s)


class _Bounded(httpcore.NetworkStream):
    """A connection of which every step ends when the whole must: drops of bytes gain no time."""

    def __init__(self, stream: httpcore.NetworkStream, network: _Pinned) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has arrived."""
        return self._stream.read(max_bytes, self._network.bound_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self._stream.write(buffer, self._network.bound_s(timeout))

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """The same connection under TLS, verified by the name of the URL."""
        bound_s = self._network.bound_s(timeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, bound_s)
        return _Bounded(stream, self._network)

    def get_extra_info(self, info: str) -> Any:
        """What the connection knows about itself."""
        return self._stream.get_extra_info(info)


def printable(text: str) -> str:
    """`text` of strangers, as it can be stored and shown."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _beginning(response: httpcore.Response) -> str:
    """What was answered, as far as it came: the status has decided already."""
    body = b""
    try:
        for chunk in response.iter_stream():
            body += chunk
            if len(body) >= ANSWER_BYTES_MAX:
                break
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError):
        pass
    return printable(body.decode(errors="replace"))[:ANSWER_CHARS_MAX]


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
