"""Closing a period: its draft, less what was billed before."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import select

from usageflow.billing import (
    closing,
    duties,
    invoices,
    turnover,
)
from usageflow.catalog.charges import Charge, Tier
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import SubscriptionRow
from usageflow.db.tables import MetricRow

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_APRIL = datetime(2026, 4, 1, tzinfo=UTC)
_MAY = datetime(2026, 5, 1, tzinfo=UTC)


def march(day: int, hour: int = 12) -> datetime:
    """An hour in March."""
    return datetime(2026, 3, day, hour, 30, tzinfo=UTC)


def april(day: int, hour: int = 12) -> datetime:
    """An hour in April."""
    return datetime(2026, 4, day, hour, 30, tzinfo=UTC)


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


def test_100_dollars_and_2000_calls_at_one_cent_are_120_dollars(books: "Books") -> None:
    """The example of the product documents: 100 + (12,000 - 10,000) x 0.01 = 120."""
    books.start(included(10_000), base_price=Decimal(100))
    books.use(12_000, march(15))
    books.work(_APRIL)
    (draft,) = books.invoices()
    assert (draft.state, draft.total, draft.currency) == ("DRAFT", 12_000, "USD")
    assert draft.finalize_at == _APRIL + timedelta(hours=1)
    books.work(_APRIL + timedelta(hours=1))
    (invoice,) = books.invoices()
    assert (invoice.state, invoice.number, invoice.total) == ("OPEN", "INV-2026-0001", 12_000)
    assert books.amounts(invoice) == [("base", 10_000), ("usage", 2_000)]
    assert books.told() == ["subscription.created", "invoice.created", "invoice.finalized"]


def test_49_dollars_and_145200_tokens_at_a_tenth_of_a_cent_are_194_dollars_20(
    till: "Books",
) -> None:
    """The hybrid example: 49 + 145,200 x 0.001 = 194.20."""
    till.start(usage(price="0.001"), base_price=Decimal(49))
    till.use(145_200, march(15))
    till.work(_APRIL)
    (draft,) = till.invoices()
    assert till.amounts(draft) == [("base", 4_900), ("usage", 14_520)]
    assert draft.total == 19_420


def test_30_dollars_for_17_of_31_days_are_16_dollars_45(till: "Books") -> None:
    """The example of proration: from 15 January, then by the calendar."""
    till.now = datetime(2026, 1, 15, tzinfo=UTC)
    till.start(base_price=Decimal(30), type="FIXED", alignment="calendar")
    till.work(datetime(2026, 2, 1, tzinfo=UTC))
    (draft,) = till.invoices()
    (line,) = till.lines(draft)
    assert (draft.total, line.share) == (1_645, "17/31")
    till.work(datetime(2026, 3, 1, tzinfo=UTC))
    assert [one.total for one in till.invoices()] == [1_645, 3_000]


def test_who_closes_a_period_again_gets_its_invoice(books: "Books") -> None:
    """A second close of the same period makes nothing and tells nobody."""
    subscription = books.start(base_price=Decimal(10))
    books.now = _APRIL
    found = set()
    for _ in range(2):
        with books.database.transaction() as tx:
            row = tx.session.get_one(SubscriptionRow, subscription)
            terms = turnover.terms_of(tx, row)
            found.add(closing.close(tx, row, terms, end=row.period_end, kind="period").id)
    assert len(found) == 1
    assert len(books.invoices()) == 1
    assert books.told().count("invoice.created") == 1


def test_periods_that_nobody_closed_in_time_are_closed_one_by_one(books: "Books") -> None:
    """After a downtime of three months there are three invoices, each with its own usage."""
    books.start(usage(), base_price=Decimal(10))
    for month in (3, 4, 5):
        books.use(month * 100, datetime(2026, month, 20, tzinfo=UTC))
    books.work(datetime(2026, 6, 2, tzinfo=UTC))
    assert [one.total for one in books.invoices()] == [1_300, 1_400, 1_500]
    assert [one.period_start for one in books.invoices()] == [
        datetime(2026, month, 1, tzinfo=UTC) for month in (3, 4, 5)
    ]


def test_an_invoice_within_the_period_is_taken_off_the_one_that_ends_it(books: "Books") -> None:
    """It bills usage so far and the base price in full; the last invoice bills the rest."""
    subscription = books.start(included(10_000), base_price=Decimal(100), minimum=Decimal(500))
    books.use(11_000, march(5))
    books.now = march(10)
    first = books.generate(subscription)
    assert (first.kind, first.total, books.amounts(first)) == (
        "interim",
        11_000,
        [("base", 10_000), ("usage", 1_000)],
    )
    books.use(1_000, march(20))
    books.work(_APRIL)
    last = books.invoices()[-1]
    assert books.amounts(last) == [("base", 0), ("usage", 1_000), ("minimum", 38_000)]
    assert [line.billed_before for line in books.lines(last)] == [10_000, 1_000, 0]
    assert sum(one.total for one in books.invoices()) == 50_000


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("SUM", 60), ("COUNT", 3), ("MAX", 30), ("LAST", 20)]
)
def test_a_metric_is_billed_as_it_aggregates(
    till: "Books", aggregation: str, expected: int
) -> None:
    """Each way to aggregate gives its own quantity on the line."""
    till.start(usage(price="1"))
    with till.database.transaction() as tx:
        tx.session.get_one(MetricRow, (till.organization_id, "API_CALL")).aggregation = aggregation
    for day, quantity in ((3, 10), (4, 30), (5, 20)):
        till.use(quantity, march(day))
    till.work(_APRIL)
    (line,) = till.lines(till.invoices()[0])
    assert (line.quantity, line.amount) == (Decimal(expected), expected * 100)


def test_what_stripe_prices_has_a_shadow_that_is_never_issued(till: "Books") -> None:
    """A plan that collects by stripe_meters makes drafts that nobody is told of."""
    till.start(usage(), collect="stripe_meters")
    till.use(5, march(5), event_name="calls")
    till.work(_APRIL)
    till.work(_MAY)
    shadows = till.invoices()
    assert [(one.state, one.collect, one.finalize_at) for one in shadows] == [
        ("DRAFT", "stripe_meters", None)
    ] * 2
    assert shadows[0].total == 5
    assert till.told() == ["subscription.created"]


def test_usage_that_went_to_stripe_holds_its_invoice(till: "Books") -> None:
    """Nobody pays twice: a person decides, and then it is issued."""
    till.start(usage())
    till.use(5, march(5), event_name="calls")
    till.work(_APRIL)
    till.work(_APRIL + timedelta(hours=2))
    (held,) = till.invoices()
    assert held.state == "DRAFT"
    assert "API_CALL in this time was sent to Stripe" in (held.hold_reason or "")
    with till.database.transaction() as tx:
        refused = invoices.issue(tx, till.organization_id, held.id, actor=till.actor)
        assert isinstance(refused, Refused)
    with till.database.transaction() as tx:
        invoices.issue(tx, till.organization_id, held.id, release=True, actor=till.actor)
    (issued,) = till.invoices()
    assert (issued.state, issued.hold_reason) == ("OPEN", None)


def test_tiers_price_all_usage_of_a_period_however_it_is_invoiced(till: "Books") -> None:
    """Three invoices within a period and its last one add up to the price of the whole."""
    tiers = (
        Tier(up_to=Decimal(1_000), unit_price=Decimal("0.002")),
        Tier(up_to=Decimal(10_000), unit_price=Decimal("0.001")),
        Tier(up_to=None, unit_price=Decimal("0.0005")),
    )
    subscription = till.start(usage(model="graduated", unit_price=None, tiers=tiers))
    for day in (5, 10, 15):
        till.use(3_333, march(day))
        till.now = march(day, 20)
        till.generate(subscription)
    till.use(5_001, march(20))
    till.work(_APRIL)
    assert sum(one.total for one in till.invoices()) == 200 + 900 + 250


def test_a_subscription_that_cannot_be_closed_stops_no_other(
    books: "Books", caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told with its id and tried again later; the others of the batch have their invoices."""
    books.plan(base_price=Decimal(10))
    ids = []
    for name in ("a", "b", "c"):
        books.customer(name)
        ids.append(books.subscribe(name))
    whole = turnover.take_turn

    def broken(tx: Any, subscription: SubscriptionRow, *more: Any) -> Any:
        if subscription.id == ids[1] and books.now < _APRIL + timedelta(minutes=5):
            subscription.cancel_reason = "half done"
            tx.session.flush()
            raise RuntimeError("broken")
        return whole(tx, subscription, *more)

    monkeypatch.setattr(duties, "take_turn", broken)
    books.work(_APRIL)
    assert {one.subscription_id for one in books.invoices()} == {ids[0], ids[2]}
    assert ids[1] in caplog.text
    assert books.subscription(ids[1]).cancel_reason is None
    books.work(_APRIL + timedelta(minutes=10))
    assert {one.subscription_id for one in books.invoices()} == set(ids)


def test_what_comes_to_more_than_anybody_can_pay_is_held_without_lines(books: "Books") -> None:
    """What a meter slipped on stops no period; a person decides what is owed of it."""
    subscription = books.start(usage(price="100000000000"))
    books.use("1" + 24 * "0", march(15))
    books.work(_APRIL)
    books.work(_APRIL + timedelta(hours=2))
    (draft,) = books.invoices()
    assert (draft.state, draft.total, books.lines(draft)) == ("DRAFT", 0, [])
    assert draft.hold_reason is not None
    assert "Api_Call (1,000,000,000,000,000,000,000,000) comes to more" in draft.hold_reason
    assert books.subscription(subscription).period_start == _APRIL
    with books.database.transaction() as tx:
        refused = invoices.issue(
            tx, books.organization_id, draft.id, release=True, actor=books.actor
        )
        assert isinstance(refused, Refused)
        invoices.void(tx, books.organization_id, draft.id, actor=books.actor)
    books.use(2, april(3))
    books.work(_MAY)
    books.work(_MAY + timedelta(hours=2))
    assert [one.state for one in books.invoices()] == ["VOID", "OPEN"]


def test_generate_closes_what_is_over_first(till: "Books") -> None:
    """A wish after the end of a period meets a worker that was late: two invoices."""
    subscription = till.start(usage(), base_price=Decimal(10))
    till.use(100, march(5))
    till.now = april(2)
    made = till.generate(subscription)
    assert [one.kind for one in till.invoices()] == ["period", "interim"]
    assert made.period_start == _APRIL


@pytest.mark.parametrize("wish", ["start_at", "trial_end"])
def test_generate_is_refused_where_there_is_nothing_to_bill(till: "Books", wish: str) -> None:
    """Before it begins, and in a trial, a subscription bills nothing."""
    till.plan(base_price=Decimal(10))
    till.customer()
    wishes: dict[str, Any] = {wish: till.now + timedelta(days=10)}
    subscription = till.subscribe(**wishes)
    with till.database.transaction() as tx:
        refused = invoices.generate(tx, till.organization_id, subscription, actor=till.actor)
        assert isinstance(refused, Refused)
        unknown = invoices.generate(tx, till.organization_id, "sub_none", actor=till.actor)
        assert isinstance(unknown, Refused)
    assert (refused.code, unknown.code) == ("conflict", "not_found")


def test_many_subscriptions_are_closed_as_one_is(books: "Books") -> None:
    """What is read for a batch at once is what is read for one alone."""
    books.plan(usage(), base_price=Decimal(10))
    for number in range(5):
        name = f"c{number}"
        books.customer(name)
        books.subscribe(name)
        books.use(number * 10, march(3 + number), customer=name)
    books.work(_APRIL)
    assert sorted(one.total for one in books.invoices()) == [
        1_000 + number * 10 for number in range(5)
    ]
    with books.database.reading() as tx:
        assert all(row.billed_at == _APRIL for row in tx.session.exec(select(SubscriptionRow)))
