"""Stripe's lists: newest first, `limit`, `starting_after`, `ending_before`, `has_more`."""

import operator
from typing import Any, Final

from usageflow.stripe.emulator.replies import Reply, invalid, ok

LIMIT_DEFAULT: Final = 10
LIMIT_MAX: Final = 100

_COMPARISONS: Final = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def page(objects: list[dict[str, Any]], params: dict[str, Any], url: str) -> Reply:
    """The asked page of `objects`, which are given newest first."""
    refusal = limit_refusal(params)
    if refusal is not None:
        return refusal
    limit = params.get("limit", LIMIT_DEFAULT)
    for name in ("starting_after", "ending_before"):
        if name in params and not any(item["id"] == params[name] for item in objects):
            return invalid(f"No such object: '{params[name]}'", param=name, code="resource_missing")
    if "ending_before" in params:
        before = objects[: _place(objects, params["ending_before"])]
        return listing(before[-limit:], url, has_more=len(before) > limit)
    if "starting_after" in params:
        objects = objects[_place(objects, params["starting_after"]) + 1 :]
    return listing(objects[:limit], url, has_more=len(objects) > limit)


def limit_refusal(params: dict[str, Any]) -> Reply | None:
    """The refusal of a limit outside 1 to 100."""
    if 1 <= params.get("limit", LIMIT_DEFAULT) <= LIMIT_MAX:
        return None
    message = f"Invalid limit: must be between 1 and {LIMIT_MAX}"
    return invalid(message, param="limit", code="parameter_invalid_integer")


def listing(objects: list[dict[str, Any]], url: str, *, has_more: bool) -> Reply:
    """A list object."""
    return ok({"object": "list", "url": url, "has_more": has_more, "data": objects})


def within(moment: int | None, asked: Any) -> bool:
    """Whether a time filter such as `created` lets this moment through: `{gt, gte, lt, lte}`, or
    the second itself; no filter lets everything through, and any filter only what has a moment.
    """
    if asked is None or moment is None:
        return asked is None
    if not isinstance(asked, dict):
        return bool(moment == asked)
    return all(_COMPARISONS[name](moment, bound) for name, bound in asked.items())


def _place(objects: list[dict[str, Any]], object_id: str) -> int:
    return next(place for place, item in enumerate(objects) if item["id"] == object_id)
