"""What is counted, and what workers say of themselves together."""

import ast
from pathlib import Path

import pytest

import usageflow.proxy.figures
from usageflow.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.figures import (
    DURATION_BOUNDS_S,
    REFUSALS,
    STATUS_CLASSES,
    Figures,
    Health,
    Reading,
)

WELL = Health(ticked_s=9.0, loaded=True, policies=2, reachable=True)


@pytest.mark.parametrize(
    ("status", "expected"), [(0, "none"), (101, "1xx"), (204, "2xx"), (304, "3xx"), (499, "4xx")]
)
def test_a_request_is_counted_by_the_class_of_its_status(status: int, expected: str) -> None:
    """Once, also when the client left before there was a status."""
    figures = Figures()
    figures.finished(status, 0.1, 1, 2, metered=False)
    assert dict(zip(STATUS_CLASSES, figures.requests, strict=True)) == {
        name: int(name == expected) for name in STATUS_CLASSES
    }


def test_a_request_adds_its_bytes_and_its_time() -> None:
    """Sums of bodies and seconds, and whether a policy applied."""
    figures = Figures()
    figures.finished(200, 0.25, 10, 1_000, metered=True)
    figures.finished(500, 0.5, 1, 5, metered=False)
    assert (figures.request_bytes, figures.response_bytes) == (11, 1_005)
    assert (figures.metered, figures.unmetered) == (1, 1)
    assert figures.duration_s == 0.75


@pytest.mark.parametrize(
    ("seconds", "place"), [(0.0, 0), (0.001, 0), (0.001_1, 1), (60.0, 14), (60.1, 15), (1e9, 15)]
)
def test_a_bound_belongs_to_its_bucket(seconds: float, place: int) -> None:
    """A bucket is for what is at most its bound, as Prometheus reads it; the last has none."""
    figures = Figures()
    figures.finished(200, seconds, 0, 0, metered=False)
    assert len(figures.durations) == len(DURATION_BOUNDS_S) + 1
    assert figures.durations.index(1) == place


def test_an_unknown_refusal_is_counted_as_other() -> None:
    """A code that is missing in the list is no error and no new metric."""
    figures = Figures()
    figures.refused("invalid_framing")
    figures.refused("no such code")
    assert figures.refusals["invalid_framing"] == figures.refusals["other"] == 1
    assert tuple(figures.refusals) == REFUSALS


def test_every_refusal_in_the_source_is_told_apart() -> None:
    """A code that is added or dropped there is so here: none hides in `other`."""
    codes = {UpstreamError.code, UpstreamTimeout.code, UpstreamUnreachable.code}
    for path in Path(usageflow.proxy.figures.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(ast.Name("Refusal"), [_, ast.Constant(str(code)), *_]):
                    codes.add(code)
    assert codes == set(REFUSALS) - {"other"}


def test_a_figure_that_does_not_exist_is_a_mistake() -> None:
    """A misspelt counter must not become an attribute that nobody shows."""
    with pytest.raises(AttributeError):
        Figures().conections_open = 1  # type: ignore[attr-defined]


def test_a_proxy_is_as_well_as_its_least_well_worker() -> None:
    """One worker that is not ready has clients of its own, whom it does not serve."""
    assert Health.worst([WELL, WELL]) == WELL
    assert Health.worst([WELL, Health()]) == Health()
    troubled = Health(ticked_s=8.0, loaded=True, policies=2, draining=True, refusing=True)
    assert Health.worst([WELL, troubled]) == troubled


def test_a_blank_reading_knows_the_upstreams() -> None:
    """They are told before the first connection is made."""
    assert list(Reading.blank(["a:80", "b:80"]).targets) == ["a:80", "b:80"]
