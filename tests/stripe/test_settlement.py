"""What a comparison means, in values alone: the rules one by one, and that they end in one sum."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from usageflow.stripe.settlement import (
    DOUBTS_MAX,
    LAG,
    LATE,
    PAST,
    REPEAT,
    Agrees,
    Decides,
    Differs,
    Doubt,
    Judgement,
    Proposal,
    Seen,
    Sent,
    Slot,
    Waits,
    judge,
    total,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY_AGO = NOW - timedelta(hours=26)
LONG_AGO = NOW - timedelta(days=3)
HOUR = NOW - timedelta(hours=27)
NUMBER = st.decimals(0, 10**9, places=3, allow_nan=False, allow_infinity=False)


def slot(expected: str | int, **values: Any) -> Slot:
    """A slot of a sum meter whose last unit was accepted more than a day ago."""
    return Slot(
        **{
            "formula": "sum",
            "hour": HOUR,
            "expected": Decimal(expected),
            "accepted_at": DAY_AGO,
            **values,
        }
    )


def doubt(weight: str | int | Decimal, number: int = 1, **values: Any) -> Doubt:
    """A unit that was sent without an answer, and is not sent any more."""
    return Doubt(
        **{
            "unit_id": number,
            "identifier": f"uf1_{number}",
            "weight": Decimal(weight),
            "sent_at": LONG_AGO,
            "occurred_at": HOUR + timedelta(minutes=number),
            "moved_at": LONG_AGO,
            "rests_at": LONG_AGO + timedelta(hours=20),
            **values,
        }
    )


def sent(weight: str | int, number: int = 1, **values: Any) -> Sent:
    """A unit that was sent."""
    known = {"unit_id": number, "identifier": f"uf1_{number}", "weight": Decimal(weight)}
    return Sent(**{**known, "sent_at": DAY_AGO, **values})


def twice(of: Slot, observed: str | int | Decimal, apart: timedelta = REPEAT) -> Judgement:
    """The judgement on the second of two equal sums."""
    first = judge(of, Decimal(observed), now=NOW - apart)
    assert isinstance(first, Differs)
    seen = Seen(expected=first.expected, observed=Decimal(observed), since=first.since)
    return judge(of, Decimal(observed), now=NOW, seen=seen)


def differs(of: Slot, observed: str | int, now: datetime = NOW) -> Differs:
    """The judgement on a slot that differs."""
    judgement = judge(of, Decimal(observed), now=now)
    assert isinstance(judgement, Differs)
    return judgement


def test_equal_sums_agree() -> None:
    """However the numbers are written."""
    assert judge(slot("3.50"), Decimal("3.5"), now=NOW) == Agrees()
    assert judge(slot(0, accepted_at=None), Decimal(0), now=NOW) == Agrees()


@pytest.mark.parametrize("one", ["1", "0.001", "-1"])
def test_a_drift_of_one_is_a_difference(one: str) -> None:
    """However small beside the sum."""
    assert isinstance(judge(slot("1000000000"), Decimal(10**9) + Decimal(one), now=NOW), Differs)


def test_a_float_is_no_difference() -> None:
    """Stripe's sums may be binary floats; what no float can tell is not held against it."""
    assert judge(slot("0.3"), Decimal("0.30000000000000004"), now=NOW) == Agrees()
    assert judge(slot("3"), Decimal("2.9999999999999996"), now=NOW) == Agrees()
    assert judge(slot(2**53 + 1), Decimal(2**53), now=NOW) == Agrees()
    large = slot("10000000000000180.931465")
    assert judge(large, Decimal(10_000_000_000_000_180), now=NOW) == Agrees()


def test_what_is_not_known_exactly_is_for_a_person() -> None:
    """A signed unit would be off by as much as is not known; nor is a unit like it to be found."""
    for expected, observed in [("10000000000000180.931465", 10**16 + 160), ("1e16", 10**16 - 3)]:
        found = differs(slot(expected, gone=(sent(2),), suspects=(sent(2),)), observed)
        assert (found.classification, found.proposal) == ("rejected", None)
        assert found.reason.endswith("rounded, so how much it is off is not certain")
    assert "not certain" in differs(slot(2**53, accepted_at=NOW), 2**53 - 2).reason
    found = differs(slot(2**53 - 1), 2**53 - 2)
    assert found.proposal == Proposal("unit", quantity=Decimal(1))


@given(NUMBER, NUMBER)
def test_what_is_told_apart_is_different(left: Decimal, right: Decimal) -> None:
    """In the range of real sums, exactly the equal ones are alike."""
    judgement = judge(replace(slot(0), expected=left), right, now=NOW)
    assert (judgement == Agrees()) == (left == right)


def test_sums_of_what_came_just_now_are_not_believed() -> None:
    """Stripe may show what it drops a moment later: equal sums settle nothing before they rest."""
    fresh = slot(12, accepted_at=NOW - LAG + timedelta(seconds=1))
    assert judge(fresh, Decimal(12), now=NOW) == Waits()
    assert judge(fresh, Decimal(12), now=NOW + timedelta(seconds=1)) == Agrees()


# Differences


def test_late_sums_are_waited_for() -> None:
    """What was accepted less than a day ago may still come: nothing is proposed."""
    of = slot(12, accepted_at=NOW - LATE + timedelta(seconds=1))
    found = differs(of, 5)
    assert (found.classification, found.proposal) == ("late", None)
    assert "5 of 12" in found.reason


def test_what_is_missing_after_a_day_was_rejected() -> None:
    """And a signed unit of exactly that much is proposed."""
    found = differs(slot(12), 5)
    assert (found.classification, found.expected) == ("rejected", Decimal(12))
    assert found.proposal == Proposal("unit", quantity=Decimal(7))


def test_what_is_reported_was_rejected_at_once() -> None:
    """Stripe's word stands above the patience with its sums; the codes are told."""
    of = slot(12, accepted_at=NOW - LAG, reports=("meter_event_invalid_value",))
    found = differs(of, 5)
    assert found.classification == "rejected"
    assert "meter_event_invalid_value" in found.reason
    assert found.proposal == Proposal("unit", quantity=Decimal(7))


def test_a_report_does_not_make_a_lag_a_loss() -> None:
    """Shortly after the last unit, nothing but what was certainly dropped is proposed."""
    of = slot(12, accepted_at=NOW - LAG + timedelta(seconds=1), reports=("no_meter",))
    assert differs(of, 5).proposal is None
    assert differs(of, 5).reason.endswith("proposed from 2026-11-21 12:00 UTC on")
    of = replace(of, suspects=(sent(7, 1), sent(5, 2)))
    assert differs(of, 5).proposal == Proposal("reissue", identifier="uf1_1")


def test_of_two_alike_none_is_named() -> None:
    """If two suspects fit, the missing sum is proposed instead."""
    of = slot(12, reports=("no_meter",), suspects=(sent(7, 1), sent(7, 2)))
    assert differs(of, 5).proposal == Proposal("unit", quantity=Decimal(7))


def test_too_much_is_foreign() -> None:
    """Nothing of ours is undecided: somebody else writes, and the excess can be taken off."""
    found = differs(slot(12), 15)
    assert (found.classification, found.proposal) == (
        "foreign",
        Proposal("unit", quantity=Decimal(-3)),
    )


def test_a_unit_that_should_be_gone_is_cancelled() -> None:
    """While Stripe still takes it back; afterwards its quantity is taken off."""
    of = slot(12, gone=(sent(3, sent_at=NOW - timedelta(hours=23)), sent(4, 2)))
    assert differs(of, 15).proposal == Proposal("cancel", identifier="uf1_1")
    assert differs(of, 16).proposal == Proposal("unit", quantity=Decimal(-4))


def test_a_correction_may_be_late_too() -> None:
    """Right after one, too much is no reason to send another."""
    assert differs(slot(12, corrected_at=NOW - timedelta(hours=3)), 15).classification == "late"
    assert differs(slot(12, corrected_at=DAY_AGO), 15).classification == "foreign"


@pytest.mark.parametrize("formula", ["count", "last"])
def test_only_sums_are_corrected_by_adding(formula: str) -> None:
    """A count cannot count back, and a last value has no sum."""
    found = differs(slot(12, formula=formula, expected_at=HOUR), 15)
    assert (found.classification, found.proposal) == ("foreign", None)
    assert found.reason.endswith(f"taken off or added to what a {formula!r} meter shows")


def test_a_last_value_that_is_not_there_was_rejected() -> None:
    """Any other value than ours is somebody else's."""
    assert differs(slot(12, formula="last", expected_at=HOUR), 0).classification == "rejected"
    assert differs(slot(12, formula="last", expected_at=HOUR), 5).classification == "foreign"


def test_what_is_coming_is_waited_for() -> None:
    """A correction on its way explains any sum."""
    assert judge(slot(12, coming=Decimal(7)), Decimal(5), now=NOW) == Waits()


def test_what_is_applied_is_given_a_day() -> None:
    """Then the slot is judged anew."""
    seen = Seen(expected=Decimal(12), observed=Decimal(15), since=NOW - LATE, applied=True)
    assert isinstance(judge(slot(12), Decimal(15), now=NOW, seen=seen), Differs)
    seen = replace(seen, since=NOW - LATE + timedelta(seconds=1))
    assert judge(slot(12), Decimal(15), now=NOW, seen=seen) == Waits()
    assert judge(slot(12), Decimal(12), now=NOW, seen=seen) == Agrees()


def test_since_when_it_differs_is_kept() -> None:
    """As long as both sides stay as they were."""
    seen = Seen(expected=Decimal(12), observed=Decimal(5), since=DAY_AGO)
    judged = [
        judge(slot(expected), Decimal(observed), now=NOW, seen=seen)
        for expected, observed in [(12, 5), (13, 5), (12, 6)]
    ]
    since = [one.since for one in judged if isinstance(one, Differs)]
    assert since == [DAY_AGO, NOW, NOW]


# Undecided units


def test_an_undecided_unit_is_decided_by_the_sum() -> None:
    """There: settled. Not there: to be sent again, as another."""
    of = slot(12, doubts=(doubt(5),))
    there, lost = twice(of, 17), twice(of, 12)
    assert isinstance(there, Decides)
    assert isinstance(lost, Decides)
    assert (there.applied, there.lost) == ((1,), ())
    assert (lost.applied, lost.lost) == ((), (1,))
    assert "uf1_1 (5)" in lost.reason
    assert lost.reason.endswith("it did not arrive")


def test_one_look_decides_nothing() -> None:
    """Nor do two that are too close, or that differ, or that come too soon after an attempt."""
    of = slot(12, doubts=(doubt(5),))
    first = differs(of, 12)
    assert (first.classification, first.expected, first.proposal) == (
        "unsettled",
        Decimal(17),
        None,
    )
    assert not first.hold
    assert isinstance(twice(of, 12, REPEAT - timedelta(seconds=1)), Differs)
    other = Seen(expected=Decimal(17), observed=Decimal(17), since=NOW - REPEAT)
    assert isinstance(judge(of, Decimal(12), now=NOW, seen=other), Differs)
    restless = slot(12, doubts=(doubt(5, moved_at=NOW - REPEAT - LAG + timedelta(seconds=1)),))
    assert isinstance(twice(restless, 12), Differs)


def test_another_unit_of_the_slot_disturbs() -> None:
    """What was accepted in between may be what the sum tells of."""
    of = slot(12, doubts=(doubt(5),), accepted_at=NOW - LAG)
    assert isinstance(twice(of, 12), Differs)


def test_what_may_still_be_sent_is_not_decided() -> None:
    """Nothing to tell while the sum fits one of the two; else it is told."""
    for rests_at in (None, NOW + timedelta(seconds=1)):
        of = slot(12, doubts=(doubt(5, rests_at=rests_at),))
        assert judge(of, Decimal(12), now=NOW) == Waits()
        assert judge(of, Decimal(17), now=NOW) == Waits()
        found = twice(of, 14)
        assert isinstance(found, Differs)
        assert (found.classification, found.hold) == ("unsettled", False)


def test_a_sum_that_fits_nothing_is_for_a_person() -> None:
    """The unit is held; after a day of the same sum the whole difference is proposed."""
    of = slot(12, doubts=(doubt(5),))
    found = twice(of, 14)
    assert isinstance(found, Differs)
    assert (found.hold, found.expected, found.proposal) == (True, Decimal(17), None)
    assert found.reason.endswith(f"proposed from {NOW - REPEAT + LATE:%Y-%m-%d %H:%M} UTC on")
    assert "Stripe shows 14 (17 with, 12 without)" in found.reason
    found = twice(of, 14, LATE)
    assert isinstance(found, Differs)
    assert found.proposal == Proposal("unit", quantity=Decimal(3))


def test_several_undecided_units_are_told_apart() -> None:
    """One sum fits: some are there, the others not."""
    of = slot(12, doubts=(doubt(1, 1), doubt(2, 2), doubt(4, 3), doubt(8, 4)))
    found = twice(of, 12 + 2 + 8)
    assert isinstance(found, Decides)
    assert (found.applied, found.lost) == ((2, 4), (1, 3))
    assert found.reason.endswith("arrived in part")


def test_units_that_are_alike_are_as_good_as_each_other() -> None:
    """Only the sum is billed."""
    found = twice(slot(12, doubts=(doubt(5, 1), doubt(5, 2))), 17)
    assert isinstance(found, Decides)
    assert (found.applied, found.lost) == ((1,), (2,))


def test_several_ways_are_no_way() -> None:
    """2 and 3, or 5: nobody can tell. Nor among too many units."""
    for doubts in (
        (doubt(2, 1), doubt(3, 2), doubt(5, 3)),
        tuple(doubt(2**number, number) for number in range(DOUBTS_MAX + 1)),
    ):
        found = twice(slot(12, doubts=doubts), 17)
        assert isinstance(found, Differs)
        assert found.hold


def test_what_adds_nothing_counts_as_there() -> None:
    """A unit of 0 is never sent again."""
    found = twice(slot(12, doubts=(doubt(0, 1), doubt(5, 2))), 12)
    assert isinstance(found, Decides)
    assert (found.applied, found.lost) == ((1,), (2,))


def test_usage_too_old_for_stripe_is_for_a_person() -> None:
    """It is settled if it is there, and not sent again if it is not."""
    of = slot(12, doubts=(doubt(5),), hour=NOW - PAST - timedelta(hours=1))
    assert isinstance(twice(of, 17), Decides)
    found = twice(of, 12, LATE)
    assert isinstance(found, Differs)
    assert (found.hold, found.proposal) == (True, Proposal("unit", quantity=Decimal(5)))
    assert found.reason.endswith("it is too old to be sent again")


def test_an_undecided_correction_is_decided_too() -> None:
    """The sum is right with it, and as wrong as before without."""
    of = slot(12, doubts=(doubt(-3, correction=True),))
    there, lost = twice(of, 12), twice(of, 15)
    assert isinstance(there, Decides)
    assert isinstance(lost, Decides)
    assert (there.applied, lost.lost) == ((1,), (1,))


def test_a_correction_behind_an_undecided_unit_is_not_there_yet() -> None:
    """Its lane waits for the decision: the sum lacks it for certain."""
    of = slot(12, doubts=(doubt(5),), coming=Decimal(7))
    found = twice(of, 10)
    assert isinstance(found, Decides)
    assert found.applied == (1,)


def test_undecided_last_values() -> None:
    """The newest that is there shows; one that cannot show counts as there."""
    of = slot(12, formula="last", expected_at=HOUR + timedelta(minutes=5), doubts=(doubt(7, 9),))
    applied, lost = twice(of, 7), twice(of, 12)
    assert isinstance(applied, Decides)
    assert isinstance(lost, Decides)
    assert (applied.applied, lost.lost) == ((9,), (9,))
    hidden = twice(replace(of, doubts=(doubt(7, 3),)), 12)
    assert isinstance(hidden, Decides)
    assert hidden.applied == (3,)


@given(
    expected=NUMBER,
    weights=st.lists(NUMBER, min_size=1, max_size=DOUBTS_MAX),
    chosen=st.integers(0, 2**DOUBTS_MAX - 1),
)
def test_decided_units_always_end_in_the_sum_of_the_ledger(
    expected: Decimal, weights: list[Decimal], chosen: int
) -> None:
    """Whichever units Stripe has, what it has and what is sent again are together all of them."""
    of = slot(0, doubts=tuple(doubt(weight, number) for number, weight in enumerate(weights)))
    of = replace(of, expected=expected)
    has = [weight for number, weight in enumerate(weights) if chosen >> number & 1]
    observed = total([expected, *has])
    found = twice(of, observed)
    assume(isinstance(found, Decides))
    assert isinstance(found, Decides)
    again = [weights[number] for number in found.lost]
    assert sorted([*found.applied, *found.lost]) == list(range(len(weights)))
    assert total([observed, *again]) == total([expected, *weights])


@given(expected=NUMBER, observed=NUMBER, held=st.lists(NUMBER, max_size=2))
def test_a_proposal_always_ends_the_difference(
    expected: Decimal, observed: Decimal, held: list[Decimal]
) -> None:
    """What Stripe shows and what is proposed are together what it should show."""
    doubts = tuple(doubt(weight, number) for number, weight in enumerate(held))
    of = replace(slot(0, doubts=doubts), expected=expected)
    judgement = judge(of, observed, now=NOW)
    if isinstance(judgement, Differs):
        seen = Seen(expected=judgement.expected, observed=observed, since=NOW - LATE)
        judgement = judge(of, observed, now=NOW, seen=seen)
    if isinstance(judgement, Differs) and judgement.proposal is not None:
        quantity = judgement.proposal.quantity
        assert quantity is not None
        assert total([observed, quantity]) == total([expected, *held])
