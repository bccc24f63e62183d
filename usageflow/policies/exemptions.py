"""Routes that are not metered on purpose, each with its reason in writing.

For the coverage of an app only: an exemption never keeps a policy from metering a request.
"""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StringConstraints

from usageflow.events import TEXT_CHARS_MAX
from usageflow.policies.models import ROUTES_MAX
from usageflow.policies.routes import Route, parse_route
from usageflow.policies.shapes import Model, counted, listed


def _parsed(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        parse_route(text)
    return texts


class Exemption(Model):
    """Routes (`METHOD /template`) that count nothing, and why."""

    match: Annotated[
        tuple[str, ...],
        BeforeValidator(listed),
        AfterValidator(counted(ROUTES_MAX)),
        AfterValidator(_parsed),
    ]
    reason: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT_CHARS_MAX)
    ]

    @property
    def routes(self) -> tuple[Route, ...]:
        """`match`, parsed."""
        return tuple(map(parse_route, self.match))
