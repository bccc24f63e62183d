"""Usage per customer, metric and hour, with how far it has come."""

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from usageflow.ledger import usage
from usageflow.ledger.usage import Fed, Forwarded, Slot, Usage
from usageflow.ledger.verdicts import Accepted, Quarantined

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def totals(ledger: "Ledger") -> list[Usage]:
    """All usage."""
    with ledger.database.reading() as tx:
        return usage.totals(tx, ledger.organization_id)


def forwarded(name: str, accepted: int, pending: int, stuck: int) -> Forwarded:
    """With decimals."""
    return Forwarded(name, Decimal(accepted), Decimal(pending), Decimal(stuck))


def test_totals_are_per_customer_metric_and_hour(ledger: "Ledger", line: "LineOf") -> None:
    """In this order; usage that is not forwarded has nothing to show of Stripe."""
    noon = ledger.clock.now
    later = noon + timedelta(hours=1)
    ledger.append(
        line(customer="b", quantity=4),
        line(customer="a", quantity=3, occurred_at=later),
        line(customer="a", quantity="0.1"),
        line(customer="a", quantity="0.2"),
        line(customer="a", quantity=7, metric="TOKEN"),
        line(customer="a", state="shadow"),
        line(customer="a", field="user_id"),
    )
    assert totals(ledger) == [
        Usage("a", "account_id", "API_CALL", noon, Decimal("0.3"), 2, ()),
        Usage("a", "account_id", "API_CALL", later, Decimal(3), 1, ()),
        Usage("a", "account_id", "TOKEN", noon, Decimal(7), 1, ()),
        Usage("b", "account_id", "API_CALL", noon, Decimal(4), 1, ()),
        Usage("user_id:a", "user_id", "API_CALL", noon, Decimal(1), 1, ()),
    ]


def test_each_event_name_shows_how_far_it_has_come(ledger: "Ledger", line: "LineOf") -> None:
    """Accepted, pending and stuck add up to the total, also when metrics share a lane."""
    ledger.append(line(event_name="used", quantity=1))
    assert totals(ledger)[0].forwarded == (forwarded("used", 0, 1, 0),)
    ledger.connect(used="sum")
    ledger.append(
        line(event_name="used", quantity=2), line(event_name="used", metric="TOKEN", quantity=4)
    )
    (claim,) = ledger.claim()
    assert claim.quantity == 6
    ledger.settle(claim, Accepted())
    ledger.append(line(event_name="used", quantity=8), line(event_name="other", quantity=16))
    refused, open_unit = sorted(ledger.claim(), key=lambda claim: claim.event_name)
    ledger.settle(refused, Quarantined("a", "b"))
    calls, tokens = totals(ledger)
    assert calls.forwarded == (forwarded("other", 0, 0, 16), forwarded("used", 2, 9, 0))
    assert tokens.forwarded == (forwarded("used", 4, 0, 0),)
    assert calls.total == 27
    ledger.settle(open_unit, Accepted())
    assert totals(ledger)[0].forwarded[1] == forwarded("used", 10, 1, 0)


def test_usage_without_an_account_is_added_up_in_the_database(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """A ledger of any size fits: what is read has a row per customer, metric, hour and meter."""
    exact, noon = Decimal("1234567890123456789012345.1"), ledger.clock.now
    late = noon + timedelta(minutes=59, seconds=59)
    ledger.append(
        *(line(event_name="used", quantity=exact, occurred_at=at) for at in (noon, late)),
        line(event_name="used", quantity=4, occurred_at=noon + timedelta(hours=1)),
        line(event_name="used", quantity=None, state="inbox"),
    )
    with ledger.database.reading() as tx:
        rows = sorted(usage._unassigned(tx, ledger.organization_id))
    assert [(window.hour, name, state, quantity) for window, name, state, quantity in rows] == [
        (noon, "used", "open", Decimal("2469135780246913578024690.2")),
        (noon + timedelta(hours=1), "used", "open", Decimal(4)),
    ]


def test_metrics_that_share_a_meter_are_added_up(ledger: "Ledger", line: "LineOf") -> None:
    """Stripe knows no metric: what it has of a customer, meter and hour is the sum of them."""
    ledger.connect(used="sum", each="count", last="last")
    noon, later = ledger.clock.now, ledger.clock.now + timedelta(hours=1)
    ledger.append(
        line(event_name="used", quantity=2),
        line(event_name="used", metric="TOKEN", quantity=4),
        line(event_name="used", metric="TOKEN", quantity=8, occurred_at=later),
        line(event_name="each", quantity=16),
        line(quantity=32),
    )
    for claim in ledger.claim():
        ledger.settle(claim, Accepted())
    assert usage.by_slot(totals(ledger)) == {
        Slot("acct_1", "used", noon): Fed(Decimal(6), 2),
        Slot("acct_1", "used", later): Fed(Decimal(0), 1),
        Slot("acct_1", "each", noon): Fed(Decimal(16), 1),
    }
    with ledger.database.reading() as tx:
        assert usage.not_summed(tx, ledger.organization_id) == {"each", "last"}
        assert usage.not_summed(tx, "another") == set()


def test_no_usage_is_an_empty_list(ledger: "Ledger") -> None:
    """A fresh ledger."""
    assert totals(ledger) == []
