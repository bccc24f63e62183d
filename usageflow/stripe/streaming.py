"""The v2 stream: up to a hundred meter events in one call, under the token of a session.

The SDK takes longer to encode them than Stripe to answer, so the call is made here. What an answer
means is decided in `answers`; of the events themselves Stripe says nothing until its error report.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from usageflow.forwarding.transport import Lost
from usageflow.ledger.verdicts import Accepted, Ambiguous, Busy, Verdict
from usageflow.stripe.answers import NOT_SENT, SESSION_EXPIRED, error_of, verdict
from usageflow.stripe.meter_events import MeterEvent
from usageflow.stripe.transport import Wire

SESSION_S: Final = 780.0
"""How long a session's token is used: 13 of its 15 minutes, so that none ends on its way."""
_PATH: Final = "/v2/billing/meter_event_stream"
_EXPIRED: Final = 401

_encode = msgspec.json.Encoder().encode


class Stream:
    """Sends meter events under a session that is opened when needed.

    `open_session` gives a new token, or why there is none. Safe to use from several threads.
    """

    def __init__(
        self,
        wire: Wire,
        host: str,
        api_version: str,
        open_session: Callable[[], str | Verdict],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._url = host + _PATH
        self._api_version = api_version
        self._open_session = open_session
        self._clock = clock
        self._lock = threading.Lock()
        self._token: str | None = None
        self._opened_s = 0.0

    def send(self, events: Sequence[MeterEvent]) -> Verdict:
        """Send these events in one call; the verdict is that of each.

        A session that has expired is replaced, once: nothing was taken under it.
        """
        body = encoded(events)
        for _ in range(2):
            token = self._session()
            if not isinstance(token, str):
                return token
            answered = self._post(token, body)
            if answered is not None:
                return answered
            self._forget(token)
        return Busy()

    def _post(self, token: str, body: bytes) -> Verdict | None:
        """The verdict on one call; None if the session has expired."""
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Stripe-Version": self._api_version,
        }
        answer = self._wire.request("POST", self._url, headers, body)
        if isinstance(answer, Lost):
            return verdict(None, None if answer.sent else NOT_SENT, answer.reason, {})
        if answer.status == 200:  # noqa: PLR2004 - OK
            is_theirs = answer.body.lstrip().startswith(b"{")
            return Accepted() if is_theirs else Ambiguous("HTTP 200 without Stripe's answer")
        error = error_of(answer.body)
        if answer.status == _EXPIRED and error.code == SESSION_EXPIRED:
            return None
        return verdict(answer.status, error.code, error.message, answer.headers, error.type)

    def _session(self) -> str | Verdict:
        with self._lock:
            if self._token is None or self._clock() - self._opened_s > SESSION_S:
                opened_s = self._clock()
                token = self._open_session()
                if not isinstance(token, str):
                    return token
                self._token, self._opened_s = token, opened_s
            return self._token

    def _forget(self, token: str) -> None:
        with self._lock:
            if self._token == token:  # another thread may have replaced it already
                self._token = None


def encoded(events: Sequence[MeterEvent]) -> bytes:
    """The body of a call. Times are RFC 3339, in UTC."""
    return _encode(
        {
            "events": [
                {
                    "event_name": event.event_name,
                    "identifier": event.identifier,
                    "timestamp": datetime.fromtimestamp(event.timestamp, UTC),
                    "payload": event.payload,
                }
                for event in events
            ]
        }
    )
