"""Whose an identity is at a moment, by what customers were seen to say of themselves. Pure.

A customer's metadata field has a history: moments at which it was seen to be, or to become, a
value. In whatever order moments are learned of, the history they make is the same.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeAlias

from usageflow.ledger.verdicts import Parked

Identity: TypeAlias = tuple[str, str]
"""(field, value): what customers of usage are known by."""

SHOWN_MAX: Final = 3
"""How many of several customers a reason names."""
_JUST_BEFORE: Final = timedelta(microseconds=1)


class Meant(NamedTuple):
    """From when to when a value meant a customer; `valid_until` None: still.

    `attached`: a person said so, which stands above whatever Stripe says, at any moment. `gone`:
    the customer has been deleted since.
    """

    customer_id: str
    valid_from: datetime
    valid_until: datetime | None
    attached: bool = False
    gone: bool = False


def whose(meant: Collection[Meant], at: datetime) -> list[str]:
    """The customers an identity was at this moment: exactly one is an answer.

    If it was none or several then, those it is now; but if they are all deleted, nobody: what was
    theirs is not the next one's. Before anybody was seen to have the value it meant the first who
    had: usage may be older than its customer.
    """
    if attached := [one.customer_id for one in meant if one.attached]:
        return attached
    then = _then(meant, at)
    if then and all(one.gone for one in then):
        return []
    if len(customers := {one.customer_id for one in then}) == 1:
        return list(customers)
    return sorted({one.customer_id for one in meant if one.valid_until is None})


def deleted(meant: Collection[Meant], at: datetime) -> list[str]:
    """The customers an identity was at this moment if they are all deleted."""
    then = _then(meant, at)
    return sorted({one.customer_id for one in then}) if all(one.gone for one in then) else []


def turned(meant: Collection[Meant], at: datetime) -> bool:
    """Whether the identity became another's at this moment."""
    before = at - _JUST_BEFORE
    return whose(meant, at) != whose(meant, before) or deleted(meant, at) != deleted(meant, before)


def _then(meant: Collection[Meant], at: datetime) -> list[Meant]:
    """Who had the value at this moment, or first."""
    if not meant:
        return []
    at = max(at, min(one.valid_from for one in meant))
    return [
        one
        for one in meant
        if one.valid_from <= at and (one.valid_until is None or at < one.valid_until)
    ]


def unclear(
    field: str, value: str, customer_ids: Sequence[str], gone: Sequence[str] = ()
) -> Parked:
    """Why usage must wait while the identity is none or several customers, or one who is gone."""
    if gone:
        return Parked(
            f"the Stripe customer that had metadata {field} = {value} then is deleted: "
            f"{_named(gone)}; `usageflow inbox attach` says whose it is"
        )
    if not customer_ids:
        return Parked(f"no Stripe customer has metadata {field} = {value}")
    return Parked(
        f"{len(customer_ids)} Stripe customers have metadata {field} = {value}: "
        f"{_named(customer_ids)}"
    )


def _named(customer_ids: Sequence[str]) -> str:
    return ", ".join(customer_ids[:SHOWN_MAX]) + (", ..." if len(customer_ids) > SHOWN_MAX else "")


class Moment(NamedTuple):
    """From here on, as far as is known, the field was `value`; "" is none, as at Stripe."""

    at: datetime
    value: str


class Place(NamedTuple):
    """Where a moment belongs in a history, in which no two are at the same time."""

    before: Moment | None
    same: Moment | None
    after: Moment | None

    @property
    def value(self) -> str:
        """What the field was thought to be there."""
        known = self.same or self.before
        return known.value if known else ""


def place(history: Sequence[Moment], at: datetime) -> Place:
    """The neighbours of `at` in a history, which is in order."""
    index = bisect_left(history, at, key=lambda moment: moment.at)
    same = index < len(history) and history[index].at == at
    rest = history[index + same :]
    return Place(
        before=history[index - 1] if index else None,
        same=history[index] if same else None,
        after=rest[0] if rest else None,
    )
