"""Metadata of objects: merged key by key, an empty value deletes, within Stripe's limits."""

from typing import Any, Final

from usageflow.stripe.emulator.replies import Reply, invalid

PAIRS_MAX: Final = 50
KEY_CHARS_MAX: Final = 40
VALUE_CHARS_MAX: Final = 500


def merged(old: dict[str, str], params: dict[str, Any]) -> dict[str, str] | Reply:
    """The metadata after the change `params` asks for, or the refusal of one beyond the limits.

    No `metadata` changes nothing, an empty one clears all.
    """
    given = params.get("metadata", {})
    if given == "":
        return {}
    result = {key: value for key, value in {**old, **given}.items() if value != ""}
    for key, value in result.items():
        name = f"metadata[{key}]"
        if len(key) > KEY_CHARS_MAX:
            return invalid(f"Metadata keys can have up to {KEY_CHARS_MAX} characters.", param=name)
        if len(value) > VALUE_CHARS_MAX:
            message = f"Metadata values can have up to {VALUE_CHARS_MAX} characters."
            return invalid(message, param=name)
    if len(result) > PAIRS_MAX:
        return invalid(f"Metadata can have up to {PAIRS_MAX} keys.", param="metadata")
    return result
