"""CloudEvents over HTTP as a sink: batches are posted to a URL of one's own.

The receiver tells repeats by `source` and `id`, counts each once, and answers a repeat with 2xx:
usage is sent again whenever an answer was lost.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from urllib3 import make_headers

from usageflow.errors import ConfigurationError
from usageflow.forwarding.batches import each_verdict
from usageflow.forwarding.cloudevents import BATCH_CONTENT_TYPE, encoded_batch
from usageflow.forwarding.sink import Parcel, Properties
from usageflow.forwarding.transport import Lost, Pool
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Quarantined,
    Verdict,
)

BATCH_MAX: Final = 100
"""Units in one request: some 40 KB."""
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_OF_THE_EVENTS: Final = frozenset({400, 413, 422})
"""What an event can be blamed for; a batch that is too large is halved as well."""
_ALREADY: Final = 409
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_UNDECIDED: Final = frozenset({408, 425})
_SHOWN_CHARS: Final = 200


class HttpSink:
    """Posts units to `url` (http or https; a user and password in it become Basic authorization).

    `window_s`: how long the receiver knows an identifier again, None for ever. Raises
    ConfigurationError for a URL that cannot be posted to.
    """

    def __init__(
        self,
        url: str,
        *,
        source: str,
        window_s: float | None,
        timeout_s: float,
        calls_per_s: float,
        connections_max: int,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("a URL to send usage to must begin with http:// or https://")
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._headers = {"content-type": BATCH_CONTENT_TYPE}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers.update(make_headers(basic_auth=login))
        self._source = source
        self._pool = Pool(
            timeout_s=timeout_s,
            connections_max=connections_max,
            environment=parts.hostname not in _LOCAL,
        )
        self.properties = Properties(
            window_s=window_s,
            digits_max=None,
            late_s_max=None,
            ahead_s_max=None,
            batch_max=BATCH_MAX,
            calls_per_s=calls_per_s,
            folding="all",
            readable=False,
        )

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Post units in one request; see `Sink.send`."""
        return each_verdict(parcels, self._posted)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def _posted(self, parcels: Sequence[Parcel]) -> Verdict:
        body = encoded_batch(parcels, self._source)
        answer = self._pool.request("POST", self._url, self._headers, body)
        if isinstance(answer, Lost):
            return Ambiguous(answer.reason) if answer.sent else Busy()
        return verdict(answer.status, answer.headers, answer.body)


def verdict(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an answer means. Pure.

    Whatever is not blamed on the events is not held against them: another 4xx, or a redirect, is
    about the address or the login, and pauses the account.
    """
    if 200 <= status < 300:  # noqa: PLR2004 - success, whatever its shade
        return Accepted()
    if status == _ALREADY:
        return Accepted(duplicate=True)
    wish = _seconds(headers.get("retry-after"))
    if status == _TOO_MANY or (status == _UNAVAILABLE and wish is not None):
        return Busy(wish, account=True)
    if status >= 500 or status in _UNDECIDED:  # noqa: PLR2004 - their fault
        return Ambiguous(f"HTTP {status}")
    message = body[:_SHOWN_CHARS].decode(errors="replace")
    if status in _OF_THE_EVENTS:
        return Quarantined(f"http_{status}", message)
    return AccountPaused(f"the receiver of usage answers with HTTP {status}: {message}")


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; its other form, a date, is left to our own backoff."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
