"""What an operator must mend, or Stripe does not do, as answers to whoever asked for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from usageflow.api.rest import ErrorAnswer
from usageflow.errors import ConfigurationError, DeliveryError, RequestRefused

STRIPE_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    502: {"model": ErrorAnswer, "description": "Stripe did not do it; `message` has its words"}
}
"""Beside the answers of every route, those of one that asks Stripe."""


@contextmanager
def told() -> Iterator[None]:
    """Tell what is raised within: 409 for what has to be set up otherwise, 502 for Stripe's no.

    Raises RequestRefused.
    """
    try:
        yield
    except ConfigurationError as error:
        raise RequestRefused(409, "conflict", str(error)) from error
    except DeliveryError as error:
        raise RequestRefused(502, "stripe_failed", str(error)) from error
