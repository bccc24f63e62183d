"""What an answer of Stripe means for the unit that was sent. Pure.

Sources: stripe.com/docs on errors, and behaviour observed in the wild; the duplicate of the v1 API
is told by its message alone.
"""

from collections.abc import Mapping
from typing import Final

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

_REFUSED: Final = frozenset({400, 402, 404})
_KEY_REFUSED: Final = frozenset({401, 403})
_BUSY: Final = frozenset({409, 429})


def verdict(
    status: int | None, code: str | None, message: str, headers: Mapping[str, str]
) -> Verdict:
    """The verdict on one attempt. `status` is None if no answer came.

    Whatever is not known to be a refusal is ambiguous: the same identifier sent again does no harm.
    """
    if status in _REFUSED and (code == DUPLICATE_CODE or DUPLICATE_MESSAGE in message):
        return Accepted(duplicate=True)
    if status in _REFUSED:
        return Quarantined(code or f"http_{status}", message)
    if status in _KEY_REFUSED:
        return AccountPaused(message)
    if status in _BUSY:
        return Busy(_seconds(headers.get("retry-after")))
    return Ambiguous(message if status is None else f"HTTP {status}: {message}")


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; Stripe sends none today, a proxy before it may."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
