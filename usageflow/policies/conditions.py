"""Conditions of a policy beside its route: the host, headers and query parameters of the request.

A condition narrows what a policy matches; it never identifies anybody. Pure.
"""

from collections.abc import Callable
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator

from usageflow._types import Headers
from usageflow.policies.query import query_pairs
from usageflow.policies.shapes import listed

Hosts: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(listed)]
"""Host names; `*.example.com` is any name below it."""


def _fields(value: object) -> object:
    """A table of texts or lists, as pairs: a table cannot be hashed."""
    if isinstance(value, dict):
        return tuple((name, listed(values)) for name, values in sorted(value.items()))
    return value


FieldConditions: TypeAlias = Annotated[
    tuple[tuple[str, tuple[str, ...]], ...], BeforeValidator(_fields)
]
"""Names with the values that meet the condition; `*` is any value."""

Condition: TypeAlias = Callable[[Headers, bytes], bool]
"""Asks the request's headers and query string."""


def compile_conditions(
    hosts: tuple[str, ...], header: FieldConditions, query: FieldConditions
) -> Condition | None:
    """One question for all conditions; None if there are none. All must be met."""
    if not (hosts or header or query):
        return None

    def met(headers: Headers, query_string: bytes) -> bool:
        sent = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in headers]
        asked = query_pairs(query_string) if query else []
        return (
            (not hosts or any(value in hosts for key, value in sent if key == "host"))
            and _all_met(header, sent)
            and _all_met(query, asked)
        )

    return met


def _all_met(wanted: FieldConditions, found: list[tuple[str, str]]) -> bool:
    return all(
        any(key == name and (value in values or "*" in values) for key, value in found)
        for name, values in wanted
    )


def specificity(hosts: tuple[str, ...], header: FieldConditions, query: FieldConditions) -> int:
    """How many conditions there are: of policies for one template, more are asked first."""
    return bool(hosts) + len(header) + len(query)
