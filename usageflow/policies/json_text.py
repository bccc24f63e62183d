"""JSON text to values, every number exact. Never raises; what cannot be read is a Reason.

Bounded before it begins: what would take too long to parse is refused by its look. A single value
at a known place is found without parsing the rest, so that large documents can be measured too.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec

from usageflow._types import JSON
from usageflow.policies.reason import Reason

DECODE_NS_MAX: Final = 9_000_000
"""Estimated time to parse one document; half of what an event loop may be kept waiting."""
SAFE_BYTES: Final = 65_536
"""A document up to this size is parsed in time, whatever it holds: 100 ns a byte at worst."""
SKIM_BYTES_MAX: Final = 7_000_000
"""Text to look through for one value: 20 ms at worst (brackets only), 3 ms for usual JSON."""
INTEGER_DIGITS_MAX: Final = 127
"""Digits of a whole number. A quantity has 38; with 4,300 a single sum takes 0.25 ms."""

_BOM: Final = b"\xef\xbb\xbf"
_OUTLINE = bytes.maketrans(b"123456789E[:- \t\r\n", b"000000000e,,,,,,,")
"""Makes all digits alike, and all that a number may follow: so one search finds long numbers."""
_LONG_INTEGER: Final = b"," + b"0" * (INTEGER_DIGITS_MAX + 1)
_CONTAINER_NS, _FLOAT_NS, _MEMBER_NS, _VALUE_NS, _BYTE_NS = 130, 170, 40, 20, 1
"""Measured on 28 kinds of documents of 1 MiB: the sum is 0.8 to 6 times the real time, and near it
for those that take long."""

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_skipper = msgspec.json.Decoder(msgspec.Raw)


def decode_json(data: bytes, label: str) -> JSON | Reason:
    """Parse JSON; every number is an int or a Decimal, exactly as written. Never raises.

    Of equal names in an object the last one counts. A byte order mark is passed over.
    """
    problem = _costly(data)
    if problem is not None:
        return Reason(f"{label} {problem}")
    try:
        return _decoder.decode(data.removeprefix(_BOM))
    except (ValueError, ArithmeticError, RecursionError) as error:
        return Reason(f"{label} {_explained(error)}")


def skim_json(data: bytes, keys: Sequence[str], label: str) -> bytes | Reason | None:
    """The text of the value under `keys` (see `can_be_skimmed`); None if there is none.

    Finds what `decode_json` would, four times as fast and without its limits: the rest of the
    document is checked to be JSON, but not made into values. Never raises.
    """
    try:
        if not data.isascii():
            data.decode()  # the decoder does not check the text it skips
        return _value_at(keys, data.removeprefix(_BOM), label)
    except (ValueError, RecursionError) as error:
        return Reason(f"{label} {_explained(error)}")


def _value_at(keys: Sequence[str], text: bytes, label: str) -> bytes | Reason | None:
    bytes_left = SKIM_BYTES_MAX
    for key in keys:
        bytes_left -= len(text)
        if bytes_left < 0:
            return Reason(f"{label} is too large to be measured")
        try:
            text = bytes(_member(key).decode(text).found)
        except msgspec.ValidationError:  # something else than an object
            _skipper.decode(text)
            return None
        if not text:
            return None
    return text


def can_be_skimmed(keys: Sequence[str]) -> bool:
    """Whether `skim_json` knows names like these."""
    return all('"' not in key and "\\" not in key and key.isprintable() for key in keys)


def is_json(data: bytes) -> bool:
    """Whether this is JSON as far as can be seen, however large its numbers and deep its lists."""
    try:
        _skipper.decode(data)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


@lru_cache(1_024)
def _member(name: str) -> Any:
    """A decoder of an object's member `name`; each takes 100 µs to make."""
    shape = msgspec.defstruct(
        "Member", [("found", msgspec.Raw, msgspec.Raw())], rename={"found": name}
    )
    return msgspec.json.Decoder(shape)


def _costly(data: bytes) -> str | None:
    """Why this document takes too long to parse, or to calculate with; None if it does not."""
    if len(data) <= INTEGER_DIGITS_MAX:
        return None
    outline = data.translate(_OUTLINE)
    if _LONG_INTEGER in outline or outline.startswith(_LONG_INTEGER[1:]):
        return _TOO_MANY_DIGITS
    if len(data) <= SAFE_BYTES:
        return None
    containers = data.count(b"[") + data.count(b"{")
    values = containers + data.count(b",") + 1
    floats = min(values, outline.count(b"0.0") + outline.count(b"0e"))
    members = min(values, data.count(b":"))
    estimated_ns = (
        containers * _CONTAINER_NS
        + floats * _FLOAT_NS
        + members * _MEMBER_NS
        + values * _VALUE_NS
        + len(data) * _BYTE_NS
    )
    return _TOO_MANY_VALUES if estimated_ns > DECODE_NS_MAX else None


_TOO_MANY_DIGITS: Final = "holds a number with too many digits"
_TOO_MANY_VALUES: Final = "holds too many values to be measured"


def _explained(error: Exception) -> str:
    """What is wrong with a document, without quoting it."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, msgspec.ValidationError | ArithmeticError):
        return _TOO_MANY_DIGITS
    if isinstance(error, UnicodeDecodeError):
        return "is not JSON: it is not UTF-8"
    return f"is not JSON: {error}"
