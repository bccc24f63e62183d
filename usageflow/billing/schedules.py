"""Where a subscription stands in the billing periods of its plan. Pure: changes the row alone.

`periods` computes the periods; what happens at the end of one is `turnover`'s.
"""

from datetime import datetime
from fractions import Fraction

from usageflow.catalog.charges import Terms
from usageflow.db.billing_tables import SubscriptionRow
from usageflow.periods import Period, Schedule, proration


def schedule_of(subscription: SubscriptionRow, terms: Terms) -> Schedule:
    """The billing periods of a subscription under these terms."""
    return Schedule(subscription.anchor_at, terms.interval, subscription.time_zone, terms.alignment)


def share(subscription: SubscriptionRow, terms: Terms, end: datetime) -> Fraction:
    """What the running period, ending at `end`, is of the one that prices are for.

    1 unless it began late (the first one of the calendar, a change of plan) or ends early.
    """
    whole = schedule_of(subscription, terms).full(subscription.period_index)
    return proration(Period(subscription.period_start, end), whole, subscription.time_zone)


def begin(subscription: SubscriptionRow, terms: Terms, at: datetime) -> None:
    """Let a billing period begin: it ends where the schedule has its next boundary.

    The period before, if any, must end at `at`, so that they tile. One that is no longer than an
    instant, as on a day that a time zone leaves out, is passed over.
    """
    schedule = schedule_of(subscription, terms)
    subscription.period_index = schedule.index_of(at)
    subscription.period_start = at
    subscription.period_end = schedule.period(subscription.period_index).end
    subscription.due_at = subscription.period_end


def begin_anew(subscription: SubscriptionRow, terms: Terms, at: datetime) -> None:
    """Let the first period of a new schedule begin."""
    subscription.anchor_at = at
    begin(subscription, terms, at)


def same_rhythm(one: Terms, other: Terms) -> bool:
    """Whether both plans have the same periods, so that a change between them keeps these."""
    return (one.interval, one.alignment) == (other.interval, other.alignment)
