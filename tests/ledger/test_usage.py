"""Usage per customer, metric and hour, with how far it has come."""

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlmodel import col, select

from usageflow.db.tables import LaneRow, UnitRow
from usageflow.ledger import resolution, units, usage
from usageflow.ledger.usage import Fed, Forwarded, Slot, Usage
from usageflow.ledger.verdicts import Accepted, Quarantined

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def totals(ledger: "Ledger") -> list[Usage]:
    """All usage."""
    with ledger.database.reading() as tx:
        return usage.totals(tx, ledger.organization_id)


def forwarded(
    name: str, accepted: int, pending: int, stuck: int, *slots: Slot, written_off: int = 0
) -> Forwarded:
    """With decimals."""
    return Forwarded(
        name, Decimal(accepted), Decimal(pending), Decimal(stuck), Decimal(written_off), slots
    )


def by_slot(ledger: "Ledger") -> dict[Slot, Fed]:
    """What has come into each slot."""
    with ledger.database.reading() as tx:
        return usage.by_slot(tx, ledger.organization_id, totals(ledger))


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
    used, other = (Slot("cus_acct_1", name, calls.hour) for name in ("used", "other"))
    assert calls.forwarded == (
        forwarded("other", 0, 0, 16, other),
        forwarded("used", 2, 9, 0, used),
    )
    assert tokens.forwarded == (forwarded("used", 4, 0, 0, used),)
    assert calls.total == 27
    ledger.settle(open_unit, Accepted())
    assert totals(ledger)[0].forwarded[1] == forwarded("used", 10, 1, 0, used)


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
        rows = sorted(usage._unassigned(tx, ledger.organization_id), key=lambda row: row.window)
    assert [(row.window.hour, row.event_name, row.unit.state, row.quantity) for row in rows] == [
        (noon, "used", "open", Decimal("2469135780246913578024690.2")),
        (noon + timedelta(hours=1), "used", "open", Decimal(4)),
    ]


def test_what_shares_a_slot_is_added_up(ledger: "Ledger", line: "LineOf") -> None:
    """Stripe knows no metric and none of our customers: it has the sum of a customer of its own."""
    ledger.connect(used="sum", each="count", last="last")
    noon, later = ledger.clock.now, ledger.clock.now + timedelta(hours=1)
    ledger.append(
        line(event_name="used", quantity=2),
        line(event_name="used", metric="TOKEN", quantity=4),
        line(event_name="used", metric="TOKEN", quantity=8, occurred_at=later),
        line(event_name="each", quantity=16, customer="acct_2"),
        line(event_name="used", quantity=64, customer="acct_2"),
        line(quantity=32),
    )
    for claim in ledger.claim(bind=False):
        with ledger.database.transaction() as tx:
            units.bind_customer(tx, claim, "cus_1")
        ledger.settle(claim, Accepted())
    used, each = Slot("cus_1", "used", noon), Slot("cus_1", "each", noon)
    found = by_slot(ledger)
    assert found == {
        used: Fed(
            Decimal(70),
            (("acct_1", "API_CALL", noon), ("acct_1", "TOKEN", noon), ("acct_2", "API_CALL", noon)),
            corrected=False,
        ),
        each: Fed(Decimal(16), (("acct_2", "API_CALL", noon),), corrected=False),
    }
    assert [found[slot].single for slot in (used, each)] == [False, True]
    assert {part.slots for row in totals(ledger) for part in row.forwarded} == {
        (used,),
        (each,),
        (),
    }
    with ledger.database.reading() as tx:
        assert usage.not_summed(tx, ledger.organization_id) == {"each", "last"}
        assert usage.not_summed(tx, "another") == set()


def test_who_carries_it_now_tells_how_far_it_has_come(ledger: "Ledger", line: "LineOf") -> None:
    """Also when it was reissued twice, in another hour; what was given up is no longer stuck."""
    ledger.connect(used="sum", other="sum")
    noon, later = ledger.clock.now, ledger.clock.now + timedelta(hours=5)
    ledger.append(line(event_name="other", quantity=4))
    ledger.append(line(event_name="used", quantity=2))
    for claim in ledger.claim():
        ledger.settle(claim, Quarantined("a", "b"))
    with ledger.database.transaction() as tx:
        rows = {row.quantity: row for row in tx.session.exec(select(UnitRow))}
        resolution.write_off(tx, rows[Decimal(4)], "a test")
    for _ in range(2):
        with ledger.database.transaction() as tx:
            row = tx.session.exec(select(UnitRow).order_by(col(UnitRow.id).desc())).first()
            assert row is not None
            resolution.reissue(tx, row, reason="again", occurred_at=later)
        ledger.clock.now += timedelta(hours=6)
        (claim,) = ledger.claim()
        ledger.settle(claim, Accepted())
    (row_of_usage,) = totals(ledger)
    there = Slot("cus_acct_1", "used", later)
    assert row_of_usage.hour == noon
    assert row_of_usage.forwarded == (
        forwarded("other", 0, 0, 0, Slot("cus_acct_1", "other", noon), written_off=4),
        forwarded("used", 2, 0, 0, there),
    )
    found = by_slot(ledger)
    assert found[there] == Fed(Decimal(2), (("acct_1", "API_CALL", noon),), corrected=False)
    assert {slot.hour: fed.accepted for slot, fed in found.items() if fed != found[there]} == {
        noon: 0
    }


def test_a_corrected_slot_is_no_single_line(ledger: "Ledger", line: "LineOf") -> None:
    """A correction is no usage, and is in what Stripe has."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used", quantity=5))
    (claim,) = ledger.claim()
    ledger.settle(claim, Accepted())
    with ledger.database.transaction() as tx:
        lane = tx.session.exec(select(LaneRow)).one()
        resolution.correct(
            tx,
            lane,
            stripe_customer_id="cus_acct_1",
            occurred_at=ledger.clock.now,
            quantity=Decimal(-1),
            reason="too much",
        )
    (claim,) = ledger.claim(bind=False)
    ledger.settle(claim, Accepted())
    ((slot, fed),) = by_slot(ledger).items()
    assert slot.stripe_customer == "cus_acct_1"
    assert fed.accepted == 4
    assert not fed.single
    assert totals(ledger)[0].forwarded[0].accepted == 5


def test_no_usage_is_an_empty_list(ledger: "Ledger") -> None:
    """A fresh ledger."""
    assert totals(ledger) == []
