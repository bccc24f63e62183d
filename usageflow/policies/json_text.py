"""JSON text to values, every number exact. Never raises; what cannot be read is a Reason."""

from decimal import Decimal

import msgspec

from usageflow._types import JSON
from usageflow.policies.reason import Reason

_decoder = msgspec.json.Decoder(float_hook=Decimal)


def decode_json(data: bytes | msgspec.Raw, label: str) -> JSON | Reason:
    """Parse JSON; every number is an int or a Decimal, exactly as written. Never raises."""
    try:
        return _decoder.decode(data)
    except RecursionError:
        return Reason(f"{label} is nested too deeply")
    except (msgspec.ValidationError, ArithmeticError):
        return Reason(f"{label} holds a number with too many digits")
    except UnicodeDecodeError:
        return Reason(f"{label} is not JSON: it is not UTF-8")
    except msgspec.DecodeError as error:
        return Reason(f"{label} is not JSON: {error}")
