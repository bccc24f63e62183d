"""What a running proxy counts, and what it says of itself: plain numbers in plain attributes.

The core adds to them as it goes: no lock, no label object, nothing made per request. How several
workers tell theirs is in `figures_block`, how they are shown in `metrics`.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from usageflow.recorder.figures import GAUGE, RecorderFigures

DURATION_BOUNDS_S: Final = (
    *(0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the histogram of requests: 1 ms to 60 s in steps of about 2.5."""
STATUS_CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
"""By the first digit; none: the client left before there was an answer."""
UPSTREAM_ERRORS: Final = ("unreachable", "timeout", "broken", "garbage", "retried")
"""No connection · no answer in time · ended before its end · not HTTP · asked again elsewhere."""
REFUSALS: Final = (
    *("bare_line_feed", "body_timeout", "body_too_large", "connect_not_supported"),
    *("header_timeout", "header_too_large", "http_version", "invalid_chunk", "invalid_framing"),
    *("invalid_header", "invalid_host", "invalid_request_line", "invalid_target"),
    *("metering_unavailable", "obsolete_folding", "request_line_too_long", "request_timeout"),
    *("too_many_connections", "too_many_headers", "unknown_coding", "upstream_invalid"),
    *("upstream_timeout", "upstream_unreachable", "websockets_off", "other"),
)
"""Codes of the proxy's own answers that are told apart; the slots of workers have a fixed size."""


@dataclass(slots=True)
class Figures:
    """Counts of one worker since it began; only the gauges ever fall.

    `requests` are by the place in STATUS_CLASSES, `durations` by that in DURATION_BOUNDS_S with one
    more for the longer ones. Bytes are those of bodies.
    """

    requests: list[int] = field(default_factory=lambda: [0] * len(STATUS_CLASSES))
    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS_S) + 1))
    duration_s: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0
    metered: int = 0
    unmetered: int = 0
    aborted: int = 0
    metering_failures: int = 0
    refusals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REFUSALS, 0))
    upstream_errors: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(UPSTREAM_ERRORS, 0)
    )
    connections_accepted: int = 0
    connections_refused: int = 0
    handshakes_failed: int = 0
    tunnels: int = 0
    reloads: int = 0
    access_lines_lost: int = 0
    connections_open: int = field(default=0, metadata=GAUGE)
    in_flight: int = field(default=0, metadata=GAUGE)
    tunnels_open: int = field(default=0, metadata=GAUGE)

    def finished(
        self,
        status: int,
        seconds: float,
        bytes_in: int,
        bytes_out: int,
        metered: bool,  # noqa: FBT001 - the hot path: keywords cost
    ) -> None:
        """A request is over. `status` is 0 if the client left before there was one. The hot path.

        `metered` says whether a policy applied; `seconds` run from its head's last byte.
        """
        self.requests[status // 100] += 1
        self.durations[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self.duration_s += seconds
        self.request_bytes += bytes_in
        self.response_bytes += bytes_out
        if metered:
            self.metered += 1
        else:
            self.unmetered += 1

    def refused(self, code: str) -> None:
        """The proxy answered by itself, with the Refusal of this code."""
        self.refusals[code if code in self.refusals else "other"] += 1


@dataclass(slots=True)
class Health:
    """What a worker says of itself; see `admin` for what follows from it.

    `ticked_s` is when its event loop last ran, by `time.monotonic`, which all processes of a
    machine share; 0 means that it is still starting. `loaded`: there have been policies, of which
    `policies` are in force. `reachable`: some upstream is not left out. `refusing`: the disk fails
    and a policy is closed, so that requests are refused.
    """

    ticked_s: float = 0.0
    loaded: bool = False
    policies: int = 0
    draining: bool = False
    reachable: bool = False
    refusing: bool = False

    @classmethod
    def worst(cls, healths: Sequence[Self]) -> Self:
        """All of them as one: a proxy is as well as its least well worker."""
        return cls(
            ticked_s=min(health.ticked_s for health in healths),
            loaded=all(health.loaded for health in healths),
            policies=min(health.policies for health in healths),
            draining=any(health.draining for health in healths),
            reachable=all(health.reachable for health in healths),
            refusing=any(health.refusing for health in healths),
        )


@dataclass(slots=True)
class TargetFigures:
    """One upstream as a worker sees it now. `unwell` adds up to the workers that think so."""

    unwell: int = 0
    connections_open: int = 0
    connections_idle: int = 0
    in_use: int = 0
    waiting: int = 0


@dataclass(slots=True)
class Reading:
    """All that is known of a worker, or of all of them together, at one moment.

    `targets` are by the name of the upstream, the same ones in the same order in every worker.
    """

    traffic: Figures
    recorder: RecorderFigures
    health: Health = field(metadata=GAUGE)
    targets: dict[str, TargetFigures] = field(metadata=GAUGE)

    @classmethod
    def blank(cls, targets: Sequence[str]) -> Self:
        """What a worker with these upstreams has to tell before it begins."""
        return cls(
            Figures(), RecorderFigures(), Health(), {name: TargetFigures() for name in targets}
        )
