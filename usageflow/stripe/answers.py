"""What an answer of Stripe means for the unit that was sent. Pure.

Sources: stripe.com/docs on errors, and behaviour observed in the wild; the duplicate of the v1 API
is told by its message alone.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Quarantined,
    Verdict,
)

DUPLICATE_CODE: Final = "duplicate_meter_event"
DUPLICATE_MESSAGE: Final = "already exists with identifier"
NOT_SENT: Final = "usageflow_not_sent"
"""Our own code for a request that certainly never left: there was no connection."""
SESSION_EXPIRED: Final = "billing_meter_event_session_expired"
"""The token of the v2 stream is older than its 15 minutes."""

_REFUSED: Final = frozenset({400, 402, 404})
_KEY_REFUSED: Final = frozenset({401, 403})
_BUSY: Final = frozenset({409, 429})
_DEAUTHORIZED: Final = frozenset({"account_invalid"})  # an expired key may be the platform's own
_RATE_LIMIT: Final = "rate_limit"
_LOCK_TIMEOUT: Final = "lock_timeout"
_ONE_RESOURCE: Final = "resource-specific"
_WITHOUT_V2: Final = "if it may not use Stripe's v2 stream, set USAGEFLOW_STRIPE_API=v1"


class ErrorBody(msgspec.Struct):
    """The part of Stripe's error object that decides."""

    message: str = ""
    code: str | None = None
    type: str | None = None


class _Body(msgspec.Struct):
    error: ErrorBody


def error_of(body: bytes) -> ErrorBody:
    """The error object of an answer; an empty one if there is none."""
    try:
        return msgspec.json.decode(body, type=_Body).error
    except msgspec.DecodeError:
        return ErrorBody()


def verdict(
    status: int | None,
    code: str | None,
    message: str,
    headers: Mapping[str, str],
    kind: str | None = None,
) -> Verdict:
    """The verdict on one attempt. `status` is None if no answer came; `kind` is the error's type.

    Whatever is not known to be a refusal is ambiguous: the same identifier sent again does no harm.
    Names of `headers` are in lower case, or compared without it.
    """
    if status in _REFUSED and (code == DUPLICATE_CODE or DUPLICATE_MESSAGE in message):
        return Accepted(duplicate=True)
    if status in _BUSY or (status in _REFUSED and code == _RATE_LIMIT):
        reason = headers.get("stripe-rate-limited-reason")
        return Busy(_seconds(headers.get("retry-after")), account=_whole_account(code, reason))
    if code == NOT_SENT or (status in _REFUSED and kind == "idempotency_error"):
        return Busy()  # the second is about the request's key, which is another one next time
    if status in _REFUSED:
        return Quarantined(code or f"http_{status}", message)
    if status in _KEY_REFUSED:
        return AccountPaused(message, deauthorized=code in _DEAUTHORIZED)
    return Ambiguous(message if status is None else f"HTTP {status}: {message}")


def without_session(reason: Verdict) -> Verdict:
    """The verdict on events that no session could be opened for, from that on the session.

    None of them was sent, so none is lost or refused: if Stripe refuses, it refuses the account.
    """
    match reason:
        case AccountPaused(message) | Quarantined(_, message):
            deauthorized = isinstance(reason, AccountPaused) and reason.deauthorized
            return AccountPaused(f"{message} ({_WITHOUT_V2})", deauthorized=deauthorized)
        case Busy():
            return reason
        case _:
            return Busy()


def _whole_account(code: str | None, reason: str | None) -> bool:
    """Whether a rate was too high, rather than one object locked by another call."""
    if reason is None:
        return code == _RATE_LIMIT
    return code != _LOCK_TIMEOUT and reason != _ONE_RESOURCE


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; Stripe sends none today, a proxy before it may."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
