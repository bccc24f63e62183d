"""Windows are what their events add up to, in whatever order they came."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from usageflow.db.tables import CustomerRow
from usageflow.ledger import windows
from usageflow.ledger.counted import Counted
from usageflow.ledger.windows import Sum, Window

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def one(at: datetime, seq: int, quantity: str, **changes: Any) -> Sum:
    """What a window of a single event holds."""
    number = Decimal(quantity)
    return Sum(number, 1, number, number, at, seq, Decimal(0))._replace(**changes)


def test_events_add_up_per_customer_metric_and_hour(ledger: "Ledger", line: "LineOf") -> None:
    """The hour is half-open and UTC; 0 is an event like any other; what goes to Stripe is told."""
    noon, later = NOON, NOON + timedelta(minutes=59, seconds=59)
    ledger.append(
        line(customer="a", quantity="0.1"),
        line(customer="a", quantity="0.2", occurred_at=later),
        line(customer="a", quantity=5, occurred_at=noon + timedelta(hours=1)),
        line(customer="a", quantity=7, metric="TOKEN", event_name="used"),
        line(customer="b", quantity=0),
    )
    ledger.append(line(customer="a", quantity=10))
    ids = {row.external_id: row.id for row in ledger.rows(CustomerRow)}
    with ledger.database.reading() as tx:
        assert windows.totals(tx, ledger.organization_id) == {
            Window(ids["a"], "API_CALL", noon): Sum(
                Decimal("10.3"), 3, Decimal(10), Decimal("0.2"), later, 2, Decimal(0)
            ),
            Window(ids["a"], "API_CALL", noon + timedelta(hours=1)): one(
                noon + timedelta(hours=1), 3, "5"
            ),
            Window(ids["a"], "TOKEN", noon): one(noon, 4, "7", forwarded=Decimal(7)),
            Window(ids["b"], "API_CALL", noon): one(noon, 5, "0"),
        }


def test_the_latest_is_the_later_one_of_two_at_the_same_time(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """By time first, whenever it came; then by its place in the ledger."""
    ledger.append(line(quantity=1), line(quantity=2))
    ledger.append(line(quantity=3, occurred_at=NOON - timedelta(seconds=1)))
    with ledger.database.reading() as tx:
        found = windows.totals(tx, ledger.organization_id)
    assert {window.hour: held.last for window, held in found.items()} == {
        NOON: Decimal(2),
        NOON - timedelta(hours=1): Decimal(3),
    }
    ledger.append(line(quantity=4))
    with ledger.database.reading() as tx:
        found = windows.totals(tx, ledger.organization_id)
    assert [held.last for held in found.values() if held.events == 3] == [Decimal(4)]


QUANTITIES = st.decimals(0, 10**26, places=12, allow_nan=False, allow_infinity=False)


@st.composite
def counted(draw: st.DrawFn) -> list[Counted]:
    """Events of a few customers in a few hours, each at its own place of the ledger."""
    size = draw(st.integers(0, 12))
    return [
        Counted(
            seq=seq,
            customer_id=draw(st.sampled_from("ab")),
            metric=draw(st.sampled_from(("X", "Y"))),
            quantity=draw(QUANTITIES),
            occurred_at=NOON + timedelta(minutes=draw(st.integers(-90, 90))),
            identity_field="account_id",
            identity_value="a",
            event_name=draw(st.sampled_from((None, "used"))),
        )
        for seq in range(size)
    ]


@given(counted(), st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(events: list[Counted], random: Any) -> None:
    """Late ones and early ones make the same windows."""
    shuffled = random.sample(events, len(events))
    assert windows.fold(shuffled) == windows.fold(events)
