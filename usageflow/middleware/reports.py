"""Telling the server which endpoints no policy matches.

Best effort: what is not taken is given back and told with the next report. Where nobody knows
whether it was taken, because the answer got lost, it is not: a few requests are better lost than
counted twice. Nothing is billed by it. Runs on the feed's thread.
"""

import http.client
import logging
import time
from typing import Final

from usageflow.errors import DeliveryError
from usageflow.middleware.discovery import Discovery
from usageflow.recorder import Http
from usageflow.recorder.sink import ENDPOINTS_PATH, refusal

log = logging.getLogger("usageflow.middleware")

REPORT_INTERVAL_S: Final = 30.0
"""Pause between reports: a person looks at them, no machine waits for them."""
_UNKNOWN: Final = (http.client.BAD_GATEWAY, http.client.GATEWAY_TIMEOUT)
"""A gateway's answers: the server behind it may have taken the report."""


class Reports:
    """Sends what `discovery` has found, at most every REPORT_INTERVAL_S."""

    def __init__(self, connection: Http, discovery: Discovery) -> None:
        self._connection = connection
        self._discovery = discovery
        self._due_s = time.monotonic()
        self._complaint = ""

    def send_due(self) -> None:
        """Send, if it is time and there is something. Never raises."""
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + REPORT_INTERVAL_S
            self.send()

    def send(self) -> None:
        """Send what there is. A failure is told once."""
        content = self._discovery.take()
        if content is None:
            return
        known = True
        try:
            self._connection.renew()  # a kept one may have been closed, and nobody would know
            known = False
            status, headers, answer = self._connection.request(
                "POST",
                ENDPOINTS_PATH,
                {"content-type": "application/json"},
                content,
                idempotent=False,
            )
            known = status not in _UNKNOWN
            if status not in (http.client.OK, http.client.NO_CONTENT):
                raise refusal(status, headers, answer)
            self._complaint = ""
        except DeliveryError as error:
            if known:
                self._discovery.restore()
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("discovered endpoints are not reported: %s", error)

    def close(self) -> None:
        """Tell what is left."""
        self.send()
        self._connection.close()
