"""What may be an identity: normalised only as declared, bounded, printable, never made up.

Knows nothing of where a value comes from; `label` says it, in the Reason.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from usageflow.events import IDENTITY_CHARS_MAX
from usageflow.policies.reason import Reason

_STEPS: Final[Mapping[str, Callable[[str], str]]] = {"trim": str.strip, "lower": str.lower}


def normalizer(steps: Sequence[str]) -> Callable[[str], str]:
    """The declared steps, one after the other; none leave the value as it was sent."""
    if not steps:
        return str
    if len(steps) == 1:
        return _STEPS[steps[0]]

    def normalize(value: str) -> str:
        for step in steps:
            value = _STEPS[step](value)
        return value

    return normalize


def text_of(value: object, label: str) -> str | Reason:
    """A text, number or UUID as a text; a number in plain notation, with exactly its digits."""
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration's member says its value, not its name
    if value is None:
        return Reason(f"{label} is missing")
    if isinstance(value, UUID):
        return UUID.__str__(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return Reason(f"{label} is neither text nor a number")
    number = Decimal(value)
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or len(digits) + abs(exponent) > IDENTITY_CHARS_MAX:
        return Reason(f"{label} has more than {IDENTITY_CHARS_MAX} digits")
    return f"{number:f}"


def checked(value: str, label: str) -> str | Reason:
    """The value, if it can be stored and sent on: not empty, bounded, no control characters."""
    if not value:
        return Reason(f"{label} is empty")
    if len(value) > IDENTITY_CHARS_MAX:
        return Reason(f"{label} has {len(value)} characters; at most {IDENTITY_CHARS_MAX}")
    if not value.isprintable():  # fast; the categories decide what is harmless white space
        categories = set(map(unicodedata.category, value))
        if "Cs" in categories:
            return Reason(f"{label} is not valid Unicode text")
        if "Cc" in categories:
            return Reason(f"{label} contains control characters")
    return value
