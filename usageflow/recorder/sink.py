"""Where shipped events go: the seam between the spool and a ledger, and its HTTP form.

A sink takes a batch of event lines and returns once the ledger answers for every one of them. The
standard library's client is enough here: one connection, one thread, no dependency.
"""

import gzip
import http.client
import os
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from usageflow._version import __version__
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.recorder.process import after_fork

API_KEY_HEADER: Final = "x-usageflow-api-key"
EVENTS_PATH: Final = "/api/edge/events"
POLICIES_PATH: Final = "/api/edge/policies"
ENDPOINTS_PATH: Final = "/api/edge/endpoints"
"""What edges and server call each other by; the server imports them from here."""
REPLY_BYTES_MAX: Final = 4_194_304
"""More than 1,000 results with reasons take; a larger reply is not from our server."""


class Sink(Protocol):
    """Takes event lines for good."""

    def deliver(self, lines: bytes, events: int) -> Counter[str]:
        """Hand over `events` lines, each ended by a newline; return how many had which outcome.

        On return the ledger answers for every line (accepted, known already, or set aside with a
        reason). Raises DeliveryError if it does not; then the whole batch is sent again.
        """

    def close(self) -> None:
        """Let go of what delivering needs; called on the thread that delivers."""


class _Result(msgspec.Struct):
    status: str


class _Reply(msgspec.Struct):
    results: list[_Result]


class Http:
    """One keep-alive connection to the server. Used by one thread."""

    def __init__(self, server: str, api_key: str, *, timeout_s: float) -> None:
        scheme, host, port, prefix = _parsed(server)
        if not api_key.isascii() or not api_key.isprintable():
            raise ConfigurationError("the API key holds characters that no key has; copy it again")
        self._prefix = prefix
        self._headers = {API_KEY_HEADER: api_key, "user-agent": f"usageflow/{__version__}"}
        self._name = f"{scheme}://{host}:{port}"
        self._open: Callable[[], http.client.HTTPConnection]
        if scheme == "https":
            context = ssl.create_default_context()
            self._open = lambda: http.client.HTTPSConnection(
                host, port, timeout=timeout_s, context=context
            )
        else:
            self._open = lambda: http.client.HTTPConnection(host, port, timeout=timeout_s)
        self._connection = self._open()
        after_fork(self._leave_to_parent)

    def _leave_to_parent(self) -> None:
        """In a forked child: one socket for two processes would mix up their answers."""
        inherited, self._connection = self._connection, self._open()
        if inherited.sock is not None:
            os.close(inherited.sock.detach())  # only our copy: no goodbye in the parent's name

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None = None,
        *,
        idempotent: bool = True,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower-case names) and body. Raises DeliveryError without an answer.

        A kept-alive connection may have been closed by the server in the meantime, so one more try
        is made on a new one; not if the request is not `idempotent`: `renew` before it.
        """
        reused = self._connection.sock is not None
        try:
            return self._exchange(method, path, headers, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if reused and idempotent:
                return self.request(method, path, headers, body)
            raise DeliveryError(f"no answer from {self._name}: {error!r}") from error

    def renew(self) -> None:
        """Connect anew. Raises DeliveryError if the server cannot be reached."""
        self._connection.close()
        try:
            self._connection.connect()
        except OSError as error:
            self._connection.close()
            raise DeliveryError(f"no answer from {self._name}: {error!r}") from error

    def _exchange(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        self._connection.request(
            method, self._prefix + path, body=body, headers=self._headers | headers
        )
        response = self._connection.getresponse()
        content = response.read(REPLY_BYTES_MAX + 1)
        if len(content) > REPLY_BYTES_MAX:
            self._connection.close()
            raise DeliveryError(f"{self._name} answered with more than {REPLY_BYTES_MAX} bytes")
        return response.status, {k.lower(): v for k, v in response.getheaders()}, content

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()


class HttpSink:
    """The server's batch endpoint."""

    def __init__(self, connection: Http) -> None:
        self._connection = connection

    def deliver(self, lines: bytes, events: int) -> Counter[str]:
        """See Sink."""
        status, headers, content = self._connection.request(
            "POST",
            EVENTS_PATH,
            {"content-type": "application/x-ndjson", "content-encoding": "gzip"},
            gzip.compress(lines, compresslevel=1),
        )
        if status != http.client.OK:
            raise refusal(status, headers, content)
        try:
            results = msgspec.json.decode(content, type=_Reply).results
        except msgspec.DecodeError as error:
            raise DeliveryError(f"the server's answer is not understood: {error}") from error
        if len(results) != events:
            raise DeliveryError(f"the server answered for {len(results)} of {events} events")
        return Counter(result.status for result in results)

    def close(self) -> None:
        """See Sink."""
        self._connection.close()


def _parsed(server: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path prefix of a server's URL. Raises ConfigurationError."""
    try:
        parts = urlsplit(server)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        host = None
    if not host:
        raise ConfigurationError(
            f"server must be a URL such as https://usageflow.internal:8787, not {server!r}"
        )
    return parts.scheme, host, port, parts.path.rstrip("/")


def refusal(status: int, headers: dict[str, str], content: bytes) -> DeliveryError:
    """What an answer other than 200 means. `refused` marks what only a person can mend."""
    text = content[:500].decode("utf-8", "replace")
    wish = headers.get("retry-after", "")
    return DeliveryError(
        f"the server answered {status}: {text}",
        retry_after_s=float(wish) if wish.isdecimal() else None,
        refused=status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN),
        too_large=status == http.client.REQUEST_ENTITY_TOO_LARGE,
    )


class MemorySink:
    """A ledger in memory, for tests: every event once, whatever is delivered how often.

    `failures` are raised one by one before anything is taken; `lost_answers` of them are raised
    after it was taken, as when a connection breaks before the answer arrives.
    """

    def __init__(self) -> None:
        self.events: dict[str, bytes] = {}
        self.outcomes: Counter[str] = Counter()
        self.deliveries = 0
        self.failures: list[DeliveryError] = []
        self.lost_answers = 0

    def deliver(self, lines: bytes, events: int) -> Counter[str]:
        """See Sink."""
        self.deliveries += 1
        if self.failures:
            raise self.failures.pop(0)
        outcome: Counter[str] = Counter()
        for line in lines.split(b"\n")[:-1]:
            event_id = msgspec.json.decode(line)["id"]
            outcome["duplicate" if event_id in self.events else "accepted"] += 1
            self.events[event_id] = line
        self.outcomes += outcome
        if self.lost_answers:
            self.lost_answers -= 1
            raise DeliveryError(f"the answer for {events} events was lost")
        return outcome

    def close(self) -> None:
        """See Sink."""
