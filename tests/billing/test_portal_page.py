"""What a customer sees by a link: its period so far, and its invoices."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import select

from usageflow.billing import duties, portal_page
from usageflow.billing.invoices import generate
from usageflow.billing.portal import Visitor
from usageflow.billing.portal_page import PortalPage
from usageflow.billing.subscription_changes import cancel, pause
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge
from usageflow.db.billing_tables import InvoiceRow, SubscriptionRow
from usageflow.db.tables import CustomerRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store

if TYPE_CHECKING:
    from tests.billing.conftest import Shop

MARCH = datetime(2026, 3, 1, tzinfo=UTC)


class Counter:
    """A shop with a plan of 100 and 0.01 for each call beyond 10,000, and one subscriber."""

    def __init__(self, shop: "Shop", **wishes: Any) -> None:
        self.shop = shop
        self.customer = shop.customer()
        charge = Charge(
            id="calls",
            kind="usage",
            display_name="API calls",
            metric="API_CALL",
            model="included",
            included=Decimal(10_000),
            unit_price=Decimal("0.01"),
        )
        shop.plan("pro", charge, base_price=Decimal(100))
        self.subscription = shop.subscribe(start_at=MARCH, **wishes)

    def use(self, quantity: int) -> None:
        """Usage of a minute ago."""
        line = encode(
            UsageEvent(
                id=f"event-{self.shop.now.timestamp():.0f}-{quantity}",
                policy="chat",
                policy_version="1",
                metric="API_CALL",
                identity=Identity("external_id", "acme"),
                quantity=Decimal(quantity),
                occurred_at=self.shop.now - timedelta(minutes=1),
                state="counted",
            )
        )
        with self.shop.tx() as tx:
            store.append(tx, self.shop.organization_id, [line], unknown_metric="create")

    def work(self) -> None:
        """Close and issue what is due."""
        while duties.close_due(self.shop.database) + duties.finalize_due(self.shop.database):
            pass

    def page(self, customer_id: str | None = None) -> PortalPage:
        """What the customer sees now."""
        with self.shop.database.reading() as tx:
            return portal_page.page(tx, self.visitor(customer_id))

    def visitor(self, customer_id: str | None = None) -> Visitor:
        """Who looks."""
        until = self.shop.now + timedelta(hours=1)
        return Visitor(self.shop.organization_id, customer_id or self.customer.id, until)

    def invoices(self) -> list[InvoiceRow]:
        """Every invoice."""
        with self.shop.database.reading() as tx:
            found = list(tx.session.exec(select(InvoiceRow)))
            tx.session.expunge_all()
        return found


@pytest.fixture
def counter(shop: "Shop") -> Counter:
    """On 10 March, with a subscription that began on the 1st."""
    return Counter(shop)


def test_the_running_period_shows_what_it_comes_to(counter: Counter) -> None:
    """Each metric's usage so far, and what would be billed if it ended now."""
    counter.use(12_000)
    page = counter.page()
    (running,) = page.running
    assert (running.plan, running.standing) == ("Pro", "Active")
    assert running.period == "1 \u2013 31 March 2026"
    assert [tuple(line) for line in running.lines] == [
        ("Base price", "1", "100.00"),
        ("API calls", "12,000", "20.00"),
    ]
    assert running.sum_ == "USD 120.00"
    assert (page.customer, page.time_zone, page.invoices) == ("Acme", "UTC", ())
    assert page.open_until == "10 March 2026 13:00"


def test_an_invoice_is_seen_once_it_is_issued(counter: Counter) -> None:
    """With its lines; a draft is not, and after its day it is overdue."""
    counter.use(12_000)
    counter.shop.now = datetime(2026, 4, 1, 0, 1, tzinfo=UTC)
    counter.work()
    (row,) = counter.invoices()
    assert (row.state, counter.page().invoices) == ("DRAFT", ())
    with counter.shop.database.reading() as tx:
        assert not portal_page.sees(tx, counter.visitor(), row.id)
    counter.shop.wait(hours=2)
    counter.work()
    (issued,) = counter.page().invoices
    assert (issued.number, issued.total) == ("INV-2026-0001", "USD 120.00")
    assert (issued.period, issued.issued) == ("1 \u2013 31 March 2026", "1 April 2026")
    assert (issued.standing, issued.overdue) == ("USD 120.00 due on 15 April 2026", False)
    assert [line.description for line in issued.lines] == ["Base price", "API calls"]
    counter.shop.wait(days=20)
    (issued,) = counter.page().invoices
    assert (issued.standing, issued.overdue) == ("USD 120.00 was due on 15 April 2026", True)
    with counter.shop.database.reading() as tx:
        assert portal_page.sees(tx, counter.visitor(), row.id)
        assert not portal_page.sees(tx, counter.visitor()._replace(organization_id="x"), row.id)
        assert not portal_page.sees(tx, counter.visitor("another"), row.id)
        assert not portal_page.sees(tx, counter.visitor(), "inv_none")


@pytest.mark.parametrize(
    ("changes", "standing", "pays_at"),
    [
        (
            {"payment_url": "https://pay.example/1", "due_at": MARCH + timedelta(days=60)},
            "USD 120.00 due on 30 April 2026",
            "https://pay.example/1",
        ),
        ({"payment_url": "javascript:alert(1)", "due_at": None}, "USD 120.00 unpaid", None),
        (
            {"state": "PAID", "paid_at": MARCH, "payment_url": "https://pay.example/1"},
            "Paid on 1 March 2026",
            None,
        ),
        ({"state": "PAID", "paid_at": None}, "Paid", None),
        ({"state": "VOID"}, "Void, nothing to pay", None),
        (
            {"state": "UNCOLLECTIBLE", "due_at": datetime(2026, 1, 1, tzinfo=UTC)},
            "USD 120.00 unpaid",
            None,
        ),
    ],
    ids=["open", "no-due-day", "paid", "zero", "void", "uncollectible"],
)
def test_an_invoice_says_what_is_to_be_done(
    changes: dict[str, Any], standing: str, pays_at: str | None
) -> None:
    """There is a way to pay, at an address that is one, only while something is open."""
    row: dict[str, Any] = {"id": "inv_1", "organization_id": "o", "customer_id": "c"}
    row |= {"kind": "manual", "state": "OPEN", "collect": "local", "payment_method": "manual"}
    row |= {"number": "INV-1", "currency": "USD", "total": 12_000, "issued_at": MARCH}
    found = portal_page.issued(InvoiceRow(**row | changes), (), MARCH, "UTC")
    assert (found.standing, found.payment_url, found.period) == (standing, pays_at, "")


def test_what_is_shown_adds_up(counter: Counter) -> None:
    """With its tax, and with what an earlier invoice billed; the quantity is the whole period's."""
    with counter.shop.tx() as tx:
        tx.session.get_one(CustomerRow, counter.customer.id).tax_percent = Decimal(10)
    counter.use(12_000)
    with counter.shop.tx() as tx:
        generate(tx, counter.shop.organization_id, counter.subscription.id, actor=Actor("ada"))
    counter.shop.wait(hours=2)
    counter.work()
    counter.use(500)
    page = counter.page()
    (running,), (issued,) = page.running, page.invoices
    assert [tuple(line) for line in running.lines] == [
        ("Base price (billed before: 100.00)", "1", "0.00"),
        ("API calls (billed before: 20.00)", "12,500", "5.00"),
        ("Tax", "", "0.50"),
    ]
    assert running.sum_ == "USD 5.50"
    assert [tuple(line)[::2] for line in issued.lines] == [
        ("Base price", "100.00"),
        ("API calls", "20.00"),
        ("Tax", "12.00"),
    ]
    assert issued.total == "USD 132.00"


def test_nobody_sees_what_is_anothers(counter: Counter) -> None:
    """A customer of the same organization sees its own page, which is empty."""
    counter.use(12_000)
    counter.shop.now = datetime(2026, 4, 1, 2, tzinfo=UTC)
    counter.work()
    page = counter.page(counter.shop.customer("other").id)
    assert (page.customer, page.running, page.invoices) == ("Other", (), ())


@pytest.mark.parametrize(
    ("change", "standing", "note"),
    [
        (cancel, "Active", "The subscription ends on 1 April 2026."),
        (pause, "Paused", "Nothing is billed while the subscription is paused."),
    ],
    ids=["cancel", "pause"],
)
def test_it_says_what_is_going_to_happen(
    counter: Counter, change: Callable[..., object], standing: str, note: str
) -> None:
    """To a subscription that ends, or rests."""
    options: dict[str, Any] = {"at_period_end": True} if change is cancel else {}
    with counter.shop.tx() as tx:
        changed = change(
            *(tx, counter.shop.organization_id, counter.subscription.id),
            close=lambda *_, **__: None,
            actor=counter.shop.actor,
            **options,
        )
        assert isinstance(changed, SubscriptionRow)
    (running,) = counter.page().running
    assert (running.standing, running.note) == (standing, note)


def test_a_trial_says_until_when(shop: "Shop") -> None:
    """Nothing is billed before."""
    counter = Counter(shop, trial_end=datetime(2026, 3, 20, tzinfo=UTC))
    (running,) = counter.page().running
    assert running.standing == "Trial"
    assert running.note == "The trial ends on 20 March 2026; until then nothing is billed."
    assert (running.lines, running.sum_) == ((), "USD 0.00")


def test_more_invoices_than_a_page_has(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are shown, and that there are others."""
    monkeypatch.setattr(portal_page, "INVOICES_SHOWN_MAX", 1)
    counter.shop.now = datetime(2026, 5, 1, 2, tzinfo=UTC)
    counter.work()
    counter.shop.wait(hours=2)
    counter.work()
    page = counter.page()
    assert (len(page.invoices), page.more) == (1, True)
