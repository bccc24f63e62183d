"""Stripe's search: its query language and its pages.

Understood are `field:"text"` and `metadata["key"]:"text"`, `null` for presence, `-` for not, and
clauses joined by either AND or OR. Text is compared without case, as Stripe's token fields are.
Which objects are in an index, and since when, is their noun's business.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from usageflow.stripe.emulator.paging import LIMIT_DEFAULT, limit_refusal
from usageflow.stripe.emulator.replies import Reply, invalid, ok

CLAUSES_MAX: Final = 10

_TEXT: Final = r'"((?:[^"\\]|\\.)*)"'
_CLAUSE: Final = re.compile(rf"\s*(-?)(?:metadata\[{_TEXT}\]|(\w+))\s*:\s*(?:{_TEXT}|(null))\s*")
_JOINT: Final = re.compile(r"(AND|OR)\s", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Clause:
    """One comparison: of a field, or of the metadata under a key. `wanted` None means null."""

    negated: bool
    key: str
    in_metadata: bool
    wanted: str | None

    def holds(self, fields: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
        """Whether an object with these values is meant."""
        value = metadata.get(self.key) if self.in_metadata else fields[self.key]
        if value is None or self.wanted is None:
            return (value is self.wanted) != self.negated
        return (value.casefold() == self.wanted.casefold()) != self.negated


@dataclass(frozen=True, slots=True)
class Query:
    """The clauses of a query; `every` says whether all must hold or one."""

    every: bool
    clauses: tuple[Clause, ...]

    def matches(self, fields: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
        """Whether an object with these values is found."""
        found = (clause.holds(fields, metadata) for clause in self.clauses)
        return all(found) if self.every else any(found)


def parsed(text: str, fields: tuple[str, ...]) -> Query | Reply:
    """The query over metadata and these `fields`, or the refusal of one that cannot be read."""
    clauses: list[Clause] = []
    joints: set[str] = set()
    place, unfinished = 0, True
    while unfinished and (match := _CLAUSE.match(text, place)):
        field = match[3]
        if field is not None and field not in fields:
            return invalid(f"Field `{field}` is an unsupported search field for this resource.")
        key = field or _unescaped(match[2])
        wanted = None if match[5] else _unescaped(match[4])
        clauses.append(Clause(match[1] == "-", key, field is None, wanted))
        joint = _JOINT.match(text, match.end())
        unfinished = joint is not None
        joints.update([joint[1].upper()] if joint else [])
        place = joint.end() if joint else match.end()
    if unfinished or place != len(text):
        return invalid(f"We were unable to parse your search query near: {text[place:]!r}")
    if len(joints) > 1 or len(clauses) > CLAUSES_MAX:
        return invalid(f"At most {CLAUSES_MAX} clauses, joined by either AND or OR.")
    return Query("OR" not in joints, tuple(clauses))


def result(hits: list[dict[str, Any]], params: dict[str, Any], url: str) -> Reply:
    """The asked page of `hits`."""
    refusal = limit_refusal(params)
    if refusal is not None:
        return refusal
    if not params.get("page", "0").isdecimal():
        return invalid("Invalid page: it is not one that a search has given.", param="page")
    start = int(params.get("page", "0"))
    end = start + params.get("limit", LIMIT_DEFAULT)
    more = len(hits) > end
    return ok(
        {
            "object": "search_result",
            "url": url,
            "has_more": more,
            "next_page": str(end) if more else None,
            "data": hits[start:end],
        }
    )


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
