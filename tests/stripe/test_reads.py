"""The reads that comparing may take in a day, however many servers take them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlmodel import select

from usageflow.db.tables import StripeReadsRow
from usageflow.stripe.reads import KEPT_SHARE, give_back, take

if TYPE_CHECKING:
    from tests.stripe.conftest import Way


def taken(way: "Way", times: int, *, per_day: int, urgent: bool = False) -> int:
    """How many of so many reads were given."""
    account = way.account_id
    return sum(take(way.database, account, per_day=per_day, urgent=urgent) for _ in range(times))


def test_some_are_kept_for_what_is_urgent(way: "Way") -> None:
    """Ordinary ones end before, urgent ones at the limit."""
    assert taken(way, 30, per_day=20) == 20 - 20 // KEPT_SHARE
    assert taken(way, 30, per_day=20, urgent=True) == 20 // KEPT_SHARE


def test_a_small_allotment_has_nothing_to_keep(way: "Way") -> None:
    """One is one."""
    assert taken(way, 3, per_day=1) == 1
    assert taken(way, 3, per_day=1, urgent=True) == 0


def test_each_day_begins_anew(way: "Way") -> None:
    """At midnight UTC."""
    way.clock.now = way.clock.now.replace(hour=23, minute=59, second=59)
    assert taken(way, 3, per_day=2) == 2
    way.clock.now += timedelta(seconds=1)
    assert taken(way, 3, per_day=2) == 2
    with way.database.reading() as tx:
        rows = tx.session.exec(select(StripeReadsRow)).all()
        assert sorted(row.reads for row in rows) == [2, 2]


def test_many_take_no_more_than_there_are(way: "Way") -> None:
    """Two servers at the same moment."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: taken(way, 5, per_day=10, urgent=True), range(4)))
    assert sum(found) == 10


def test_a_read_that_told_nothing_is_given_back(way: "Way") -> None:
    """It may be taken again; more than were taken are never given back."""
    assert taken(way, 3, per_day=2) == 2
    give_back(way.database, way.account_id)
    assert taken(way, 3, per_day=2) == 1
    for _ in range(5):
        give_back(way.database, way.account_id)
    assert taken(way, 3, per_day=2) == 2
