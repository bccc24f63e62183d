"""Whose an identity is, by moments that customers were seen at."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.stripe.identities import (
    Meant,
    Moment,
    Place,
    deleted,
    place,
    turned,
    unclear,
    whose,
)

START = datetime(2026, 11, 21, tzinfo=UTC)


def at(minutes: int) -> datetime:
    """So many minutes after the start."""
    return START + timedelta(minutes=minutes)


def meant(customer_id: str, since: int, until: int | None = None) -> Meant:
    """A customer who had the value for some minutes."""
    return Meant(customer_id, at(since), None if until is None else at(until))


def test_nobody() -> None:
    """Without any row there is no customer."""
    assert whose([], at(0)) == []


def test_the_first_is_meant_always() -> None:
    """Usage may be older than its customer: before the first, it is the first's."""
    rows = [meant("old", 10, 20), meant("new", 20)]
    assert whose(rows, at(-10_000)) == whose(rows, at(10)) == whose(rows, at(19)) == ["old"]
    assert whose(rows, at(20)) == whose(rows, at(10_000)) == ["new"]


def test_several_then_are_those_of_now() -> None:
    """Usage of a time when two had the value is whose it is once one of them has lost it."""
    rows = [meant("a", 0), meant("b", 10, 20)]
    assert whose(rows, at(15)) == ["a"]
    assert whose([meant("a", 0), meant("b", 10)], at(15)) == ["a", "b"]
    assert whose([meant("a", 0), meant("b", 10)], at(5)) == ["a"]


def test_nobody_then_is_who_it_is_now() -> None:
    """A pause between two customers is the later one's; what nobody has any more is nobody's."""
    assert whose([meant("a", 0, 10), meant("b", 20)], at(15)) == ["b"]
    assert whose([meant("a", 0, 10)], at(15)) == []


def gone(customer_id: str, since: int, until: int) -> Meant:
    """A customer who had the value for some minutes, and was deleted."""
    return meant(customer_id, since, until)._replace(gone=True)


def test_usage_of_who_is_deleted_is_not_the_next_ones() -> None:
    """Neither of its time nor from before; only from its end on is it whoever has it now."""
    rows = [gone("a", 10, 20), meant("b", 30)]
    for minute, ids, those in ((5, [], ["a"]), (19, [], ["a"]), (20, ["b"], []), (30, ["b"], [])):
        assert (whose(rows, at(minute)), deleted(rows, at(minute))) == (ids, those)
    assert [minute for minute in range(40) if turned(rows, at(minute))] == [20]
    assert turned([gone("a", 10, 20)], at(20))
    assert deleted([], at(0)) == []


def test_of_several_then_one_may_be_deleted() -> None:
    """As always it is whose it is now; unless all who had it then are deleted."""
    rows = [gone("a", 10, 20), meant("b", 10, 20), meant("c", 20)]
    assert (whose(rows, at(15)), deleted(rows, at(15))) == (["c"], [])
    rows = [gone("b", 10, 20), gone("a", 10, 25), meant("c", 20)]
    assert (whose(rows, at(15)), deleted(rows, at(15))) == ([], ["a", "b"])
    assert whose([*rows, Meant("d", at(0), None, attached=True)], at(15)) == ["d"]


def test_a_persons_word_stands_above_all() -> None:
    """At any moment, and whatever Stripe says."""
    said = Meant("chosen", at(30), None, attached=True)
    rows = [meant("a", 0), meant("b", 10), said]
    assert whose(rows, at(5)) == whose(rows, at(15)) == ["chosen"]
    assert not turned(rows, at(10))


def test_when_it_became_anothers() -> None:
    """Only there is a boundary; the first customer of a value needs none."""
    rows = [meant("a", 10, 20), meant("b", 20)]
    assert [minute for minute in range(30) if turned(rows, at(minute))] == [20]
    assert turned([meant("a", 0), meant("b", 10)], at(10))
    assert turned([meant("a", 0, 10)], at(10))


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "no Stripe customer has metadata field = value"),
        (["a", "b"], "2 Stripe customers have metadata field = value: a, b"),
        (["a", "b", "c", "d"], "4 Stripe customers have metadata field = value: a, b, c, ..."),
    ],
    ids=["none", "two", "four"],
)
def test_the_reason_names_some(ids: list[str], reason: str) -> None:
    """What a person needs to mend it, and no more."""
    assert unclear("field", "value", ids).reason == reason


def test_the_reason_names_who_is_deleted() -> None:
    """And what to do, for nothing else will move it."""
    assert unclear("field", "value", ["b"], ["a"]).reason == (
        "the Stripe customer that had metadata field = value then is deleted: a; "
        "`usageflow inbox attach` says whose it is"
    )


@given(st.sets(st.integers(0, 20)), st.integers(0, 20))
def test_the_place_of_a_moment(minutes: set[int], minute: int) -> None:
    """Its neighbours are the nearest ones, and what was thought there is the last before."""
    history = [Moment(at(one), str(one)) for one in sorted(minutes)]
    found = place(history, at(minute))
    assert found == Place(
        before=max((one for one in history if one.at < at(minute)), default=None),
        same=next((one for one in history if one.at == at(minute)), None),
        after=min((one for one in history if one.at > at(minute)), default=None),
    )
    earlier = [one for one in sorted(minutes) if one <= minute]
    assert found.value == (str(earlier[-1]) if earlier else "")
