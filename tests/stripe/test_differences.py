"""Differences as rows: one that is current for each slot, and what was accepted of others."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import select

from usageflow.db.session import Tx
from usageflow.db.tables import ReconciliationRow
from usageflow.ledger.slots import Series
from usageflow.stripe import differences
from usageflow.stripe.settlement import Differs, Proposal, Seen

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

HOUR = datetime(2026, 11, 21, 9, tzinfo=UTC)
LATER = HOUR + timedelta(hours=5)


def differs(expected: int, **changes: Any) -> Differs:
    """A judgement."""
    known = {"classification": "foreign", "reason": "somebody else", "since": LATER}
    return Differs(**{**known, "expected": Decimal(expected), **changes})


@pytest.fixture
def series(way: "Way") -> Series:
    """A sum at Stripe."""
    return Series(way.organization_id, way.account_id, "cus_1", "tokens")


def current(tx: Tx, series: Series) -> ReconciliationRow | None:
    """The slot's current difference."""
    return differences.current(tx, series, [HOUR]).get(HOUR)


def record(tx: Tx, series: Series, judgement: Differs, observed: int) -> None:
    """Note a difference."""
    differences.record(
        tx, series, HOUR, judgement, observed=Decimal(observed), row=current(tx, series)
    )


def test_a_slot_has_one_current_difference(way: "Way", series: Series) -> None:
    """It changes as the slot does, and is history when it is over; then comes another."""
    with way.database.transaction() as tx:
        assert current(tx, series) is None
        record(tx, series, differs(5, proposal=Proposal("cancel", identifier="uf1_1")), 7)
        record(tx, series, differs(6, proposal=Proposal("unit", quantity=Decimal(-2))), 8)
        row: Any = current(tx, series)
        assert list(differences.listed(tx, way.organization_id)) == [row]
        assert (row.expected, row.observed, row.proposal, row.quantity) == (6, 8, "unit", -2)
        assert (row.identifier, row.observed_at, row.checked_at) == (None, LATER, tx.now)
        assert differences.seen(row) == Seen(
            expected=Decimal(6), observed=Decimal(8), since=LATER, applied=False
        )
        differences.resolve(tx, row, "mended")
        assert (row.state, row.reason) == ("resolved", "mended")
        assert current(tx, series) is None
        record(tx, series, differs(6), 8)
        assert len(tx.session.exec(select(ReconciliationRow)).all()) == 2


def test_what_is_applied_is_seen_as_such(way: "Way", series: Series) -> None:
    """And open again if it is noted anew."""
    with way.database.transaction() as tx:
        record(tx, series, differs(5), 7)
        (row,) = differences.listed(tx, way.organization_id)
        row.state = "applied"
        seen = differences.seen(row)
        assert seen is not None
        assert seen.applied
        record(tx, series, differs(5), 7)
        assert row.state == "open"


def test_what_was_accepted_is_added_up(way: "Way", series: Series) -> None:
    """Over all of the slot's history, however it came about; of no other slot."""
    other = series._replace(stripe_customer_id="cus_2")
    with way.database.transaction() as tx:
        for quantity in (2, -5):
            differences.accept(tx, series, HOUR, Decimal(quantity), "moved")
        differences.accept(tx, other, HOUR, Decimal(9), "moved")
        record(tx, series, differs(5, proposal=Proposal("unit", quantity=Decimal(4))), 7)
        row = current(tx, series)
        assert row is not None
        assert differences.accepted(tx, series, [HOUR, LATER]) == {HOUR: Decimal(-3)}
        row.state, row.proposal, row.quantity = "dismissed", None, Decimal(2)
        assert differences.accepted(tx, series, [HOUR]) == {HOUR: Decimal(-1)}
        assert differences.seen(row) is None
        differences.resolve(tx, row)
        assert row.state == "dismissed"
        record(tx, series, differs(4), 8)
        assert (row.state, differences.accepted(tx, series, [HOUR])) == (
            "resolved",
            {HOUR: Decimal(-1)},
        )


def test_differences_belong_to_somebody(way: "Way", series: Series) -> None:
    """To an organization, and an account of it."""
    with way.database.transaction() as tx:
        record(tx, series, differs(5), 7)
        (row,) = differences.listed(tx, way.organization_id, account_id=way.account_id)
        assert row.id is not None
        assert differences.series_of(row) == series
        assert differences.find(tx, way.organization_id, row.id) is row
        assert differences.find(tx, "another", row.id) is None
        assert list(differences.listed(tx, "another")) == []
        assert list(differences.listed(tx, way.organization_id, account_id="another")) == []


def test_pages_are_of_states_and_event_names(way: "Way", series: Series) -> None:
    """The oldest hour first, with how many there are; of no other organization."""
    other = series._replace(event_name="calls")
    with way.database.transaction() as tx:
        record(tx, series, differs(5), 7)
        record(tx, other, differs(5), 7)
        differences.resolve(tx, current(tx, other))

        def listing(**options: Any) -> tuple[list[str], int]:
            wanted = {"states": ("open", "resolved"), "offset": 0, "limit": 10, **options}
            rows, total = differences.listing(tx, way.organization_id, **wanted)
            return [row.event_name for row in rows], total

        assert listing() == (["tokens", "calls"], 2)
        assert listing(offset=1, limit=1) == (["calls"], 2)
        assert listing(states=("open",)) == (["tokens"], 1)
        assert listing(event_name="calls") == (["calls"], 1)
        assert differences.listing(tx, "other", states=("open",), offset=0, limit=9) == ([], 0)
