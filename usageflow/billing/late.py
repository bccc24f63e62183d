"""Which periods that were billed before may turn out to be worth more: usage comes late. Pure.

How much more is `lines`'s; whether anything changed in them is asked by `prices`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final, NamedTuple

from usageflow.billing.lines import Billed, Segment
from usageflow.catalog.charges import Terms

LATE_DAYS: Final = timedelta(days=35)
"""How long an earlier period may be over to be looked at again: all that an edge held back for a
month. The last one always is, however long ago it ended."""
IN_FLIGHT: Final = timedelta(minutes=10)
"""A window is marked with the time at which the transaction that changes it began; one that began
before the last lines were computed may have ended behind them. None takes this long."""


class PastLine(NamedTuple):
    """A line of an invoice of the subscription."""

    invoice_id: str
    subscription_id: str
    charge_id: str
    quantity: Decimal | None
    amount: int
    period_start: datetime
    period_end: datetime
    share: str
    plan_id: str
    plan_version: int


def billed(lines: Iterable[PastLine], period_start: datetime) -> dict[str, Billed]:
    """What the lines, oldest first, bill in one period, by charge."""
    found: dict[str, Billed] = {}
    for line in lines:
        if line.period_start == period_start:
            before = found[line.charge_id].amount if line.charge_id in found else 0
            found[line.charge_id] = Billed(before + line.amount, line.quantity)
    return found


def earlier(
    segment: Segment,
    lines: Iterable[PastLine],
    terms: Mapping[tuple[str, int], Terms],
    horizon: datetime,
) -> list[Segment]:
    """The periods before this one that its invoice may have late usage of, oldest first.

    They ended after the `horizon`. Those that somebody else collects for, or in another currency,
    are none of its business.
    """
    ends: dict[datetime, PastLine] = {}
    for line in lines:
        if line.period_start < segment.start and line.period_end > horizon:
            known = ends.get(line.period_start)
            if known is None or known.period_end <= line.period_end:
                ends[line.period_start] = line
    kin = segment.terms.collect, segment.terms.currency
    found = []
    for start, line in sorted(ends.items()):
        then = terms[line.plan_id, line.plan_version]
        if (then.collect, then.currency) == kin:
            found.append(_segment(segment, start, line, then))
    return found


def _segment(segment: Segment, start: datetime, line: PastLine, terms: Terms) -> Segment:
    return Segment(
        subscription_id=segment.subscription_id,
        customer_id=segment.customer_id,
        plan_id=line.plan_id,
        plan_version=line.plan_version,
        terms=terms,
        start=start,
        end=line.period_end,
        share=Fraction(line.share),
    )
