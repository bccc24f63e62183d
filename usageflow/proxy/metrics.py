"""Figures as text: the Prometheus exposition format 0.0.4, and a Server-Timing value. Pure.

By hand and not by prometheus-client: the figures are ours already, summed over workers, and the
library's own way to sum over processes is files that each request would have to write to.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from usageflow.proxy.figures import (
    DURATION_BOUNDS_S,
    STATUS_CLASSES,
    Figures,
    Reading,
    TargetFigures,
)
from usageflow.recorder.figures import COMMIT_BOUNDS_S, RecorderFigures
from usageflow.recorder.inspection import Depth

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class _Family(NamedTuple):
    """All samples of one name: what follows the name, with its value."""

    name: str
    kind: str
    text: str
    samples: Iterable[tuple[str, float]]


def exposition(reading: Reading, depth: Depth, *, now_s: float, version: str) -> str:
    """All metrics of a proxy; `now_s` is the time since the epoch. Durations are in seconds."""
    families = (
        _gauge("build_info", "Version of UsageFlow", {f'{{version="{_escaped(version)}"}}': 1}),
        _gauge("policies", "Policies in force", reading.health.policies),
        *_traffic(reading.traffic),
        *_targets(reading.targets),
        *_recorded(reading.recorder),
        *_spool(reading.recorder, depth, now_s),
    )
    return "".join(line for family in families for line in _lines(family))


def server_timing(meter_s: float) -> bytes:
    """The value of a Server-Timing field that tells what metering cost, in milliseconds."""
    return b"meter;dur=%.3f" % (meter_s * 1000)


def _traffic(traffic: Figures) -> Iterator[_Family]:
    classes = dict(zip(STATUS_CLASSES, traffic.requests, strict=True))
    yield _counter(
        "proxy_requests_total",
        "Requests that are over, by the class of their status; none: the client left before it",
        _by("status", classes),
    )
    yield _histogram(
        "proxy_request_duration_seconds",
        "Time from a request's head to the last byte of its answer",
        DURATION_BOUNDS_S,
        traffic.durations,
        traffic.duration_s,
    )
    yield _gauge("proxy_requests_in_flight", "Requests under way", traffic.in_flight)
    yield _counter(
        "proxy_refusals_total",
        "Requests that the proxy answered by itself, by the code in its answer",
        _by("code", traffic.refusals),
    )
    yield _counter("proxy_aborted_total", "Requests whose client left", traffic.aborted)
    yield _counter("proxy_request_bytes_total", "Bytes of request bodies", traffic.request_bytes)
    yield _counter("proxy_response_bytes_total", "Bytes of answers' bodies", traffic.response_bytes)
    yield _gauge("proxy_connections", "Open connections of clients", traffic.connections_open)
    yield _counter(
        "proxy_connections_accepted_total", "Connections of clients", traffic.connections_accepted
    )
    yield _counter(
        "proxy_connections_refused_total",
        "Connections beyond a limit, closed at once",
        traffic.connections_refused,
    )
    yield _counter(
        "proxy_tls_handshakes_failed_total",
        "TLS handshakes that failed",
        traffic.handshakes_failed,
    )
    yield _gauge("proxy_tunnels", "Open WebSockets", traffic.tunnels_open)
    yield _counter("proxy_tunnels_total", "WebSockets opened", traffic.tunnels)
    yield _counter("proxy_reloads_total", "Reloads of policies and certificates", traffic.reloads)
    yield _counter(
        "proxy_access_lines_lost_total",
        "Lines that the access log could not take",
        traffic.access_lines_lost,
    )
    yield _counter("metered_total", "Requests that a policy applied to", traffic.metered)
    yield _counter("unmetered_total", "Requests that no policy applied to", traffic.unmetered)
    yield _counter(
        "metering_failures_total",
        "Requests and parts of streams that UsageFlow failed to meter by its own fault",
        traffic.metering_failures,
    )
    yield _counter(
        "upstream_errors_total",
        "Failures of upstreams by kind; retried: asked again, so that no client saw it",
        _by("kind", traffic.upstream_errors),
    )


def _targets(targets: Mapping[str, TargetFigures]) -> Iterator[_Family]:
    yield _gauge(
        "upstream_healthy",
        "1, or 0 while this upstream is not well for some worker",
        _by("target", {name: int(not target.unwell) for name, target in targets.items()}),
    )
    yield _gauge(
        "upstream_connections",
        "Open connections to this upstream",
        _by("target", {name: target.connections_open for name, target in targets.items()}),
    )
    yield _gauge(
        "upstream_connections_idle",
        "Those of them that wait for a request",
        _by("target", {name: target.connections_idle for name, target in targets.items()}),
    )
    yield _gauge(
        "upstream_connections_in_use",
        "Those of them that carry one",
        _by("target", {name: target.in_use for name, target in targets.items()}),
    )
    yield _gauge(
        "upstream_waiting",
        "Requests that wait for a connection to this upstream",
        _by("target", {name: target.waiting for name, target in targets.items()}),
    )


def _recorded(recorder: RecorderFigures) -> Iterator[_Family]:
    yield _counter(
        "events_total", "Usage events on disk, by their state", _by("state", recorder.events)
    )
    yield _counter("inbox_total", "Those of them that need a human", recorder.events["inbox"])
    yield _counter(
        "overflowed_total",
        "Events counted together in gap events, as the disk did not keep up",
        recorder.overflowed,
    )
    yield _histogram(
        "commit_duration_seconds",
        "Time to make a group of events durable, fsync included",
        COMMIT_BOUNDS_S,
        recorder.commits,
        recorder.commit_s,
    )
    yield _counter("commits_failed_total", "Commits that failed", recorder.commits_failed)
    yield _counter("shipped_total", "Events that the server answered for", recorder.shipped)
    yield _counter(
        "deliveries_failed_total", "Batches the server did not take", recorder.deliveries_failed
    )
    yield _gauge(
        "shipping_failing",
        "Workers whose last batch the server did not take",
        recorder.shipping_failing,
    )


def _spool(recorder: RecorderFigures, depth: Depth, now_s: float) -> Iterator[_Family]:
    oldest_s = 0.0 if depth.oldest_at is None else now_s - depth.oldest_at.timestamp()
    yield _gauge(
        "spool_events", "Events on disk that the server has not answered for", depth.events
    )
    yield _gauge("spool_oldest_seconds", "Age of the oldest of them", max(0.0, oldest_s))
    yield _gauge("spool_waiting_events", "Events on their way to the disk", recorder.waiting)
    yield _gauge("spool_failing", "Workers whose disk takes nothing", recorder.disk_failing)


def _gauge(name: str, text: str, values: float | Mapping[str, float]) -> _Family:
    return _Family(f"usageflow_{name}", "gauge", text, _samples(values))


def _counter(name: str, text: str, values: float | Mapping[str, float]) -> _Family:
    return _Family(f"usageflow_{name}", "counter", text, _samples(values))


def _histogram(
    name: str, text: str, bounds: Sequence[float], counts: Sequence[int], total: float
) -> _Family:
    """`counts` has one for each of `bounds` and one more for what is beyond them."""
    buckets = zip((*map(_number, bounds), "+Inf"), accumulate(counts), strict=True)
    samples: list[tuple[str, float]] = [
        (f'_bucket{{le="{bound}"}}', count) for bound, count in buckets
    ]
    samples += [("_sum", total), ("_count", sum(counts))]
    return _Family(f"usageflow_{name}", "histogram", text, samples)


def _samples(values: float | Mapping[str, float]) -> Iterable[tuple[str, float]]:
    return values.items() if isinstance(values, Mapping) else [("", values)]


def _by(label: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f'{{{label}="{_escaped(name)}"}}': value for name, value in values.items()}


def _escaped(value: str) -> str:
    return value.translate(_ESCAPES)


def _lines(family: _Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.text}.\n"
    yield f"# TYPE {family.name} {family.kind}\n"
    for place, value in family.samples:
        yield f"{family.name}{place} {_number(value)}\n"


def _number(value: float) -> str:
    """In full where it is whole: 1e+16 would hide what a counter has gained."""
    return str(int(value)) if value == int(value) else repr(value)
