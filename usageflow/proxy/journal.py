"""What is told of requests: the figures count each one that is over, the access log has its line.

It decides nothing, and knows neither connections nor policies.
"""

import time
from typing import Final

from usageflow.proxy.access_log import AccessLog
from usageflow.proxy.figures import Figures
from usageflow.proxy.forwarded import TrustedPeers, client_address
from usageflow.proxy.headers import values
from usageflow.proxy.heads import RequestHead
from usageflow.proxy.refusals import Refusal
from usageflow.proxy.transit import CLIENT_LEFT, Transit

_CALLER: Final = b"x-forwarded-for"
_CALLERS: Final = frozenset({_CALLER})


class Journal:
    """The figures and the access log of one gateway. `log` is None if there is none."""

    now = staticmethod(time.monotonic)
    """The gateway's clock."""

    def __init__(self, figures: Figures, log: AccessLog | None, trusted: TrustedPeers) -> None:
        self.figures = figures
        self._log = log
        self._trusted = trusted

    def finished(self, transit: Transit, peer: str) -> None:
        """A request is over: count it and log it."""
        seconds = self.now() - transit.started_at_s
        self._count(transit, seconds)
        if transit.code is not None and transit.code != CLIENT_LEFT:
            self.figures.refused(transit.code)
        if self._log is not None:
            self._write(self._log, transit, peer, seconds)

    def _count(self, transit: Transit, seconds: float) -> None:
        watch = transit.watch
        self.figures.in_flight -= 1
        self.figures.finished(
            transit.status,
            seconds,
            transit.bytes_in,
            transit.bytes_out,
            watch is not None and watch.metered,
        )

    def _write(self, log: AccessLog, transit: Transit, peer: str, seconds: float) -> None:
        head = transit.head
        asked_s = transit.answered_at_s - transit.started_at_s
        watch = transit.watch
        log.write(
            ended_at_s=time.time(),
            client=client_address(values(head, _CALLERS).get(_CALLER, ()), peer, self._trusted),
            method=head.method,
            host=head.named.get(b"host", b""),
            target=head.target,
            protocol=_protocol(head),
            status=transit.status,
            bytes_in=transit.bytes_in,
            bytes_out=transit.bytes_out,
            duration_s=seconds,
            code=transit.code,
            upstream=transit.target_name,
            upstream_s=asked_s if transit.answered_at_s else None,
            metered=() if watch is None else watch.metrics,
            aborted=transit.aborted,
        )

    def turned_away(self, peer: str, refusal: Refusal, head: RequestHead | None = None) -> None:
        """What came was no request, or one too many, or one with this head that is too large."""
        self.figures.finished(refusal.status, 0.0, 0, 0, False)
        self.figures.refused(refusal.code)
        if self._log is not None:
            self._log.write(
                ended_at_s=time.time(),
                client=peer,
                method=b"" if head is None else head.method,
                host=b"" if head is None else head.named.get(b"host", b""),
                target=b"" if head is None else head.target,
                protocol="" if head is None else _protocol(head),
                status=refusal.status,
                bytes_in=0,
                bytes_out=0,
                duration_s=0.0,
                code=refusal.code,
            )

    def tunnel_began(self) -> None:
        """A WebSocket was accepted."""
        self.figures.tunnels += 1
        self.figures.tunnels_open += 1

    def tunnel_ended(self, transit: Transit, peer: str) -> None:
        """It is over. It counts as a request that took as long as its handshake."""
        self.figures.tunnels_open -= 1
        self._count(transit, transit.answered_at_s - transit.started_at_s)
        if self._log is not None:
            self._write(self._log, transit, peer, self.now() - transit.started_at_s)

    def flush(self) -> None:
        """Write the lines that were gathered."""
        if self._log is not None:
            self._log.flush()
            self.figures.access_lines_lost = self._log.lost

    def reopen(self) -> None:
        """Begin a new file if the old one was moved away."""
        if self._log is not None:
            self._log.reopen()

    def close(self) -> None:
        """Write the last lines."""
        if self._log is not None:
            self._log.close()


def _protocol(head: RequestHead) -> str:
    return "HTTP/1.1" if head.minor else "HTTP/1.0"
