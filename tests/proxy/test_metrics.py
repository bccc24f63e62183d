"""The text that Prometheus reads, by a parser as strict as its own."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow.proxy.figures import REFUSALS, STATUS_CLASSES, UPSTREAM_ERRORS, Reading
from usageflow.proxy.metrics import exposition, server_timing
from usageflow.recorder.inspection import NOTHING, Depth

NOW = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_HELP = re.compile(rf"# HELP ({_NAME}) ([^\\\n]+)")
_TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL.pattern})\}})? (\d+(?:\.\d+)?(?:e-\d+)?)")
_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


class Parsed(NamedTuple):
    """What a scrape holds."""

    kinds: dict[str, str]
    samples: Samples


def parse(text: str) -> Parsed:
    """Read every line, or fail: each family once, with its help and type before its samples."""
    kinds: dict[str, str] = {}
    samples: Samples = {}
    assert text.endswith("\n")
    lines = iter(text.removesuffix("\n").split("\n"))
    family = ""
    for line in lines:
        if line.startswith("#"):
            about = _HELP.fullmatch(line)
            assert about, line
            kind = _TYPE.fullmatch(next(lines))
            assert kind, line
            family = about[1]
            assert kind[1] == family
            assert family not in kinds
            kinds[family] = kind[2]
            continue
        sample = _SAMPLE.fullmatch(line)
        assert sample, line
        assert sample[1] in [family + suffix for suffix in _SUFFIXES[kinds[family]]], line
        labels = tuple((name, unescaped(value)) for name, value in _LABEL.findall(sample[2] or ""))
        assert (sample[1], labels) not in samples, line
        samples[sample[1], labels] = float(sample[5])
    return Parsed(kinds, samples)


def unescaped(value: str) -> str:
    """The value of a label as it was before it was written."""
    return re.sub(r"\\(.)", lambda escape: {"n": "\n"}.get(escape[1], escape[1]), value)


def scrape(reading: Reading, depth: Depth = NOTHING, version: str = "1.2.3") -> Parsed:
    """What a scrape of this reading holds."""
    return parse(exposition(reading, depth, now_s=NOW.timestamp(), version=version))


@pytest.fixture
def reading() -> Reading:
    """A proxy with two upstreams that has served nothing yet."""
    return Reading.blank(["http://a:80", "http://b:80"])


def test_everything_is_there_before_the_first_request(reading: Reading) -> None:
    """At 0 and not missing: the first error of a kind must be an increase."""
    kinds, samples = scrape(reading)
    assert {name for name, kind in kinds.items() if kind == "histogram"} == {
        "usageflow_proxy_request_duration_seconds",
        "usageflow_commit_duration_seconds",
    }
    for name, label, values in (
        ("usageflow_proxy_requests_total", "status", STATUS_CLASSES),
        ("usageflow_proxy_refusals_total", "code", REFUSALS),
        ("usageflow_upstream_errors_total", "kind", UPSTREAM_ERRORS),
        ("usageflow_events_total", "state", ("counted", "inbox", "shadow", "skipped", "gap")),
    ):
        for value in values:
            assert samples[name, ((label, value),)] == 0
    assert samples["usageflow_build_info", (("version", "1.2.3"),)] == 1


def test_counters_and_only_they_are_named_total(reading: Reading) -> None:
    """The naming rules of Prometheus, which its tools rely on; and one prefix for all."""
    for name, kind in scrape(reading).kinds.items():
        assert name.startswith("usageflow_")
        assert name.endswith("_total") == (kind == "counter")


def test_every_figure_is_shown(reading: Reading) -> None:
    """Each number of a reading changes the text: none is counted in vain."""
    blank = exposition(reading, NOTHING, now_s=0, version="1")
    parts = (reading.traffic, reading.recorder, reading.targets["http://b:80"])
    for part in parts:
        for name in part.__slots__:
            before = getattr(part, name)
            if isinstance(before, dict):
                changed: object = before | {next(iter(before)): 7}
            else:
                changed = [7, *before[1:]] if isinstance(before, list) else 7
            setattr(part, name, changed)
            assert exposition(reading, NOTHING, now_s=0, version="1") != blank, name
            setattr(part, name, before)


def test_requests_are_a_cumulative_histogram(reading: Reading) -> None:
    """Buckets never fall, the last one is all, and the sum is in seconds."""
    for seconds in (0.000_5, 0.03, 0.03, 2.0, 100.0):
        reading.traffic.finished(200, seconds, 0, 0, metered=True)
    _, samples = scrape(reading)
    name = "usageflow_proxy_request_duration_seconds"
    buckets = {
        labels[0][1]: value for (each, labels), value in samples.items() if each == f"{name}_bucket"
    }
    assert list(buckets)[:3] == ["0.001", "0.0025", "0.005"]
    assert [buckets[bound] for bound in ("0.001", "0.025", "0.05", "2.5", "60", "+Inf")] == [
        *(1, 1, 3, 4, 4, 5)
    ]
    assert list(buckets.values()) == sorted(buckets.values())
    assert samples[f"{name}_count", ()] == 5
    assert samples[f"{name}_sum", ()] == pytest.approx(102.060_5)
    assert samples["usageflow_proxy_requests_total", (("status", "2xx"),)] == 5
    assert samples["usageflow_metered_total", ()] == 5


def test_the_spool_is_told_with_its_age(reading: Reading) -> None:
    """What the ledger has not answered for, and since when."""
    reading.recorder.events["inbox"] = 3
    _, samples = scrape(reading, Depth(12, NOW.replace(second=0)))
    assert samples["usageflow_spool_events", ()] == 12
    assert samples["usageflow_spool_oldest_seconds", ()] == 30
    assert samples["usageflow_inbox_total", ()] == 3
    ahead = scrape(reading, Depth(1, NOW.replace(hour=13))).samples
    assert ahead["usageflow_spool_oldest_seconds", ()] == 0


def test_an_upstream_that_is_not_well_for_one_worker_is_not_healthy(reading: Reading) -> None:
    """By its name."""
    reading.targets["http://b:80"].unwell = 1
    _, samples = scrape(reading)
    assert samples["usageflow_upstream_healthy", (("target", "http://a:80"),)] == 1
    assert samples["usageflow_upstream_healthy", (("target", "http://b:80"),)] == 0


def test_large_counts_are_written_in_full(reading: Reading) -> None:
    """An exponent would round away what a counter gains."""
    reading.traffic.response_bytes = 2**53 - 1
    text = exposition(reading, NOTHING, now_s=0, version="1")
    assert "usageflow_proxy_response_bytes_total 9007199254740991\n" in text


@settings(max_examples=30)
@given(st.text())
def test_any_label_value_is_read_back(value: str) -> None:
    """Quotes, backslashes and newlines are escaped; nothing else has to be."""
    samples = scrape(Reading.blank([value]), version=value).samples
    assert samples["usageflow_build_info", (("version", value),)] == 1
    assert samples["usageflow_upstream_healthy", (("target", value),)] == 1


@pytest.mark.parametrize(
    ("seconds", "value"), [(0.000_123, b"0.123"), (0, b"0.000"), (1.5, b"1500.000")]
)
def test_server_timing_is_in_milliseconds(seconds: float, value: bytes) -> None:
    """As browsers' developer tools show it."""
    assert server_timing(seconds) == b"meter;dur=" + value
