"""What an edge tells the server about endpoints that no policy matches: one JSON document.

    {"endpoints": [{"method": "GET", "template": "/v1/x/{id}", "requests": 12, "sketch": {...}}]}

Read by the server, which trusts no edge to keep the bounds. Knows no transport.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from usageflow.middleware.sketch import Sketch, merged
from usageflow.policies.reason import Reason
from usageflow.policies.routes import parse_route

OTHERS: Final = ("ANY", "/{rest:path}")
"""Method and template of what is counted without being told apart."""
REPORT_BYTES_MAX: Final = 1_000_000
"""Size of a report, well below what a server takes; what is more waits for the next one."""
ENDPOINTS_MAX: Final = 20_000
"""Endpoints in a report; so many do not fit into one of this size."""
REQUESTS_MAX: Final = 2**48
"""Requests in one report; more is no count, and the sum of many still fits 64 bits."""
NO_SKETCH: Final = Sketch()


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """One unmatched endpoint, and what was seen of it since it was last told.

    `routed`: the app's own router told which segments of the template are parameters.
    """

    method: str
    template: str
    requests: int
    routed: bool = False
    sketch: Sketch = NO_SKETCH


class _Report(msgspec.Struct):
    endpoints: list[Endpoint]


def write_report(endpoints: Sequence[bytes]) -> bytes:
    """The document of endpoints that are encoded already."""
    return b'{"endpoints":[%b]}' % b",".join(endpoints)


def read_report(data: bytes) -> list[Endpoint] | Reason:
    """The endpoints of a document, each within its bounds; what is no endpoint is left out."""
    try:
        report = msgspec.json.decode(data, type=_Report)
    except (msgspec.DecodeError, RecursionError) as error:
        return Reason(f"not a report of endpoints: {error}")
    if len(report.endpoints) > ENDPOINTS_MAX:
        return Reason(f"more than {ENDPOINTS_MAX} endpoints in one report")
    return [
        msgspec.structs.replace(endpoint, sketch=merged(NO_SKETCH, endpoint.sketch))
        for endpoint in report.endpoints
        if _sound(endpoint)
    ]


def _sound(endpoint: Endpoint) -> bool:
    if not 0 <= endpoint.requests <= REQUESTS_MAX:
        return False
    try:
        parse_route(f"{endpoint.method} {endpoint.template}")
    except ValueError:
        return False
    return True
