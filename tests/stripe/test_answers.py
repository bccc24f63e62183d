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
from usageflow.stripe.answers import (
    NOT_SENT,
    ErrorBody,
    error_of,
    verdict,
    without_session,
)

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
        (403, None, "not permitted", AccountPaused("not permitted")),
        (403, "account_invalid", "gone", AccountPaused("gone", deauthorized=True)),
        (401, "platform_api_key_expired", "gone", AccountPaused("gone")),
        (409, "lock_timeout", "busy", Busy()),
        (409, "too_many_concurrent_requests", "busy", Busy()),
        (429, "rate_limit", "slow down", Busy(account=True)),
        (400, "rate_limit", "slow down", Busy(account=True)),
        (429, "lock_timeout", "locked", Busy()),
        (429, None, "of a proxy", Busy()),
        (None, NOT_SENT, "refused", Busy()),
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


@pytest.mark.parametrize(
    ("reason", "code", "account"),
    [
        ("global-rate", "rate_limit", True),
        ("endpoint-rate", None, True),
        ("endpoint-concurrency", "rate_limit", True),
        ("resource-specific", "rate_limit", False),
        ("endpoint-concurrency", "lock_timeout", False),
    ],
)
def test_a_429_concerns_the_account_or_the_lane(
    reason: str, code: str | None, *, account: bool
) -> None:
    """A rate is the account's; a locked object, or one that is asked for too often, is its own."""
    headers = {"stripe-rate-limited-reason": reason}
    assert verdict(429, code, "", headers) == Busy(account=account)


def test_a_key_used_for_something_else_is_not_the_units_fault() -> None:
    """The next attempt has another idempotency key, so nothing is quarantined."""
    message = "Keys for idempotent requests can only be used with the same parameters"
    assert verdict(400, None, message, {}, "idempotency_error") == Busy()


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Busy(3.0, account=True), Busy(3.0, account=True)),
        (Ambiguous("HTTP 500: sorry"), Busy()),
    ],
)
def test_without_a_session_nothing_was_sent(reason: Verdict, expected: Verdict) -> None:
    """A lost answer to the session leaves the events certainly unsent."""
    assert without_session(reason) == expected


@pytest.mark.parametrize(
    ("reason", "deauthorized"),
    [
        (Quarantined("http_404", "Unrecognized request URL"), False),
        (AccountPaused("This key may not"), False),
        (AccountPaused("No such account", deauthorized=True), True),
    ],
)
def test_an_account_without_sessions_is_told_of_v1(
    reason: Quarantined | AccountPaused, *, deauthorized: bool
) -> None:
    """What refuses a session refuses the account, never the units; the message says what to set."""
    told = without_session(reason)
    assert isinstance(told, AccountPaused)
    assert told.message.startswith(reason.message)
    assert "USAGEFLOW_STRIPE_API=v1" in told.message
    assert told.deauthorized == deauthorized


def test_an_error_object_is_read_from_whatever_comes() -> None:
    """Of something that is not Stripe's JSON, an empty one is made."""
    body = b'{"error": {"message": "no", "code": "x", "type": "invalid_request_error", "more": 1}}'
    assert error_of(body) == ErrorBody("no", "x", "invalid_request_error")
    for strange in (b"", b"<html>", b"[]", b'{"error": "invalid_grant"}', b"\xff"):
        assert error_of(strange) == ErrorBody()
