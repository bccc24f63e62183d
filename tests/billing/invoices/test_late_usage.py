"""Usage that comes late is billed, once: by the draft, the next invoice, or one after the end."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usageflow.billing import (
    closing,
    duties,
    recompute,
    subscription_changes,
)
from usageflow.catalog.charges import Charge
from usageflow.db.billing_tables import InvoiceRow, SubscriptionRow

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_APRIL = datetime(2026, 4, 1, tzinfo=UTC)
_MAY = datetime(2026, 5, 1, tzinfo=UTC)


def march(day: int, hour: int = 12) -> datetime:
    """An hour in March."""
    return datetime(2026, 3, day, hour, 30, tzinfo=UTC)


def usage(metric: str = "API_CALL", price: str = "0.01", **values: Any) -> Charge:
    """A usage charge."""
    given: dict[str, Any] = {"model": "per_unit", "unit_price": Decimal(price)}
    return Charge(
        id=f"chg_{metric}",
        kind="usage",
        display_name=metric.title(),
        metric=metric,
        **given | values,
    )


def included(count: int, price: str = "0.01") -> Charge:
    """A usage charge with units that cost nothing."""
    return usage(price=price, model="included", included=Decimal(count))


def test_usage_that_comes_late_is_a_line_of_the_next_invoice(books: "Books") -> None:
    """The line names the period and both quantities, and bills the difference of the prices."""
    books.start(included(10_000), base_price=Decimal(100))
    books.use(12_000, march(15))
    books.work(_APRIL)
    books.work(_APRIL + timedelta(hours=1))
    books.now = _APRIL + timedelta(hours=2)
    books.use(500, march(31, 23))
    books.work(_MAY)
    line = books.lines(books.invoices()[-1])[-1]
    assert (line.kind, line.amount, line.billed_before) == ("late", 500, 2_000)
    days = "1 \u2013 31 March 2026"
    assert line.description == f"Late usage {days}: API_CALL 12,500 instead of 12,000"
    assert line.period_start == datetime(2026, 3, 1, tzinfo=UTC)


def test_late_usage_is_billed_once_however_often_it_comes(books: "Books") -> None:
    """Each invoice bills what came since the one before; all together the price of the whole."""
    books.start(usage(), interval="day")
    for day in range(2, 7):
        books.work(datetime(2026, 3, day, 2, tzinfo=UTC))
        books.work(datetime(2026, 3, day, 3, tzinfo=UTC))
        books.use(10, march(1))
    late = [
        (invoice.period_start.day, line.amount)
        for invoice in books.invoices()
        for line in books.lines(invoice)
        if line.kind == "late" and invoice.period_start is not None
    ]
    assert late == [(2, 10), (3, 10), (4, 10), (5, 10)]


def test_usage_from_before_a_long_pause_is_billed_after_it(till: "Books") -> None:
    """However long nobody was billed, the invoice behind the pause has what came late before it."""
    subscription = till.start(usage(), base_price=Decimal(31))

    def wish(what: Any) -> None:
        with till.database.transaction() as tx:
            done = what(
                tx, till.organization_id, subscription, close=closing.close, actor=till.actor
            )
            assert isinstance(done, SubscriptionRow), done

    till.use(100, march(5))
    till.now = march(11, 0)
    wish(subscription_changes.pause)
    till.work(march(11, 2))
    till.use(40, march(6))
    till.work(_APRIL + timedelta(days=60))
    wish(subscription_changes.resume)
    till.work(till.now + timedelta(days=31))
    till.work(till.now + timedelta(hours=1))
    late = [line for line in till.lines(till.invoices()[-1]) if line.kind == "late"]
    assert [line.amount for line in late] == [40]
    with till.database.reading() as tx:
        row = tx.session.get_one(InvoiceRow, till.invoices()[-1].id)
        assert recompute.differences(tx, row) == []


def test_usage_that_comes_after_the_end_of_a_subscription_is_billed(books: "Books") -> None:
    """By an invoice of its own, a day later; what changes no amount makes none."""
    subscription = books.start(usage(), minimum=Decimal(5))
    books.use(100, march(5))
    books.now = march(11)
    with books.database.transaction() as tx:
        subscription_changes.cancel(
            tx,
            books.organization_id,
            subscription,
            at_period_end=False,
            close=closing.close,
            actor=books.actor,
        )
    books.work(march(11, 14))
    books.use(20, march(6))
    books.use(300, march(7))
    books.now = march(12, 13)
    assert duties.bill_ended(books.database) == 0
    for day in (13, 15, 17):
        books.now = march(day)
        assert duties.bill_ended(books.database) == 1
        books.work(march(day, 14))
    first, late = books.invoices()
    assert books.amounts(first) == [("usage", 100), ("minimum", 70)]
    assert (late.state, books.amounts(late)) == ("OPEN", [("usage", 320), ("minimum", -70)])
    books.now = march(11) + timedelta(days=36)
    assert duties.bill_ended(books.database) == 0


def test_usage_that_comes_within_the_grace_is_on_the_invoice_itself(books: "Books") -> None:
    """A draft is computed anew when it is issued."""
    books.start(usage())
    books.work(_APRIL)
    books.use(700, march(31, 23))
    books.work(_APRIL + timedelta(hours=1))
    (invoice,) = books.invoices()
    assert (invoice.state, invoice.total) == ("OPEN", 700)
    assert books.amounts(invoice) == [("usage", 700)]


def test_late_usage_that_costs_nothing_has_no_line(till: "Books") -> None:
    """Within the included units, more usage changes no amount."""
    till.start(included(10_000), base_price=Decimal(100))
    till.work(_APRIL)
    till.work(_APRIL + timedelta(hours=1))
    till.now = _APRIL + timedelta(hours=2)
    till.use(500, march(31, 23))
    till.work(_MAY)
    assert till.amounts(till.invoices()[-1]) == [("base", 10_000), ("usage", 0)]


def test_late_usage_takes_back_what_was_lacking_to_the_minimum(till: "Books") -> None:
    """The plan's minimum was topped up; late usage below it changes the lines, not what is owed."""
    till.start(usage(), minimum=Decimal(50))
    till.use(1_000, march(5))
    till.work(_APRIL)
    till.work(_APRIL + timedelta(hours=1))
    till.now = _APRIL + timedelta(hours=2)
    till.use(500, march(31, 23))
    till.work(_MAY)
    first, second = till.invoices()
    assert till.amounts(first) == [("usage", 1_000), ("minimum", 4_000)]
    late = [line for line in till.lines(second) if line.kind == "late"]
    assert [line.amount for line in late] == [500, -500]
    assert "Minimum of the plan" in late[1].description
