"""What answers of Stripe mean, as a table."""

import pytest

from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Quarantined,
    Verdict,
)
from usageflow.stripe.answers import verdict

NO_METER = 'No active meter found for event name "x"'
DUPLICATE = "An event already exists with identifier uf1_x."


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (400, None, DUPLICATE, Accepted(duplicate=True)),
        (400, "duplicate_meter_event", "other words", Accepted(duplicate=True)),
        (400, None, NO_METER, Quarantined("http_400", NO_METER)),
        (400, "parameter_missing", "Missing", Quarantined("parameter_missing", "Missing")),
        (402, None, "no", Quarantined("http_402", "no")),
        (404, "resource_missing", "No such", Quarantined("resource_missing", "No such")),
        (401, None, "Invalid API Key", AccountPaused("Invalid API Key")),
        (403, "account_invalid", "no access", AccountPaused("no access")),
        (409, "lock_timeout", "busy", Busy()),
        (429, "rate_limit", "slow down", Busy()),
        (500, None, "sorry", Ambiguous("HTTP 500: sorry")),
        (503, None, "sorry", Ambiguous("HTTP 503: sorry")),
        (500, None, DUPLICATE, Ambiguous(f"HTTP 500: {DUPLICATE}")),
        (200, None, "not JSON", Ambiguous("HTTP 200: not JSON")),
        (302, None, "moved", Ambiguous("HTTP 302: moved")),
        (408, None, "timeout", Ambiguous("HTTP 408: timeout")),
        (None, None, "connection reset", Ambiguous("connection reset")),
    ],
)
def test_every_answer_has_one_meaning(
    status: int | None, code: str | None, message: str, expected: Verdict
) -> None:
    """Design section 7; what is not known to be a refusal is ambiguous."""
    assert verdict(status, code, message, {}) == expected


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)]
)
def test_a_wish_to_wait_is_heard(header: str, seconds: float | None) -> None:
    """A Retry-After in seconds is taken over; anything else leaves the lane's own backoff."""
    assert verdict(429, None, "", {"retry-after": header}) == Busy(seconds)
