"""A report is read as it was written, and never trusted."""

import msgspec
import pytest

from usageflow.middleware import sketch
from usageflow.middleware.endpoints import OTHERS, REQUESTS_MAX, Endpoint, read_report, write_report
from usageflow.middleware.sketch import Sketch
from usageflow.policies.reason import Reason

SEEN = Sketch(response={"n": ("integer",)}, headers=("x-account-id",), statuses=(200,))
ENDPOINTS = [
    Endpoint("POST", "/v1/chat", 12, routed=True, sketch=SEEN),
    Endpoint("GET", "/v1/items/{id}", 3),
    Endpoint(*OTHERS, 7),
]


def report(*endpoints: Endpoint) -> bytes:
    """The document of these."""
    return write_report([msgspec.json.encode(endpoint) for endpoint in endpoints])


def test_what_is_written_is_read() -> None:
    """Nothing is lost, and nothing is written that is as usual."""
    assert read_report(report(*ENDPOINTS)) == ENDPOINTS
    assert report(ENDPOINTS[1]) == (
        b'{"endpoints":[{"method":"GET","template":"/v1/items/{id}","requests":3}]}'
    )


NO_REPORTS = (
    *(b"", b"[]", b"{}", b'{"endpoints":[{"method":"GET"}]}', b'{"endpoints":[1]}', b"\xff"),
    *(b'{"endpoints":' + b"[" * 100_000, report(*ENDPOINTS[1:] * 10_001)),
)


@pytest.mark.parametrize("data", NO_REPORTS, ids=lambda data: str(data[:20]))
def test_what_is_no_report_is_refused(data: bytes) -> None:
    """With a reason; also one with more endpoints than may be."""
    assert isinstance(read_report(data), Reason)


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint("GET", "no slash", 1),
        Endpoint("GE T", "/", 1),
        Endpoint("", "/", 1),
        Endpoint("GET", "/{id}/{id}", 1),
        Endpoint("GET", "/a\x1b[31m", 1),
        Endpoint("GET", "/" + "a" * 1000, 1),
        Endpoint("GET", "/", -1),
        Endpoint("GET", "/", REQUESTS_MAX + 1),
    ],
)
def test_what_is_no_endpoint_is_left_out(endpoint: Endpoint) -> None:
    """The others are good."""
    assert read_report(report(ENDPOINTS[1], endpoint)) == [ENDPOINTS[1]]


def test_sketches_are_cut_to_their_bounds() -> None:
    """Also those of an edge that keeps none."""
    wide = Sketch(request={f"p{n}": ("null",) for n in range(1_000)})
    read = read_report(report(Endpoint("GET", "/", 1, sketch=wide)))
    assert isinstance(read, list)
    assert [len(one.sketch.request) for one in read] == [sketch.PATHS_MAX]
