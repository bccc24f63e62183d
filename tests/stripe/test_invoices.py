"""Our invoices at Stripe: made once whatever breaks, paid there, and ended there."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import stripe as stripe_sdk
from sqlmodel import select

from usageflow.catalog.organizations import default_organization
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow, PaymentRow
from usageflow.db.outbox_tables import MailRow
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow, CustomerRow
from usageflow.errors import DeliveryError
from usageflow.stripe import accounts, catch_up
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.invoice_calls import KEYS_MAX, OURS
from usageflow.stripe.invoices import end_settled, issue_due, wished

if TYPE_CHECKING:
    from tests.stripe.conftest import Clock

LINES: list[dict[str, Any]] = [
    {"kind": "base", "description": "Base price", "quantity": Decimal(1), "amount": 10_000},
    {"kind": "usage", "description": "API calls", "quantity": Decimal(12_000), "amount": 2_000}
    | {"unit": "calls", "metric": "API_CALL"},
    {"kind": "usage", "description": "Tokens", "quantity": Decimal(0), "amount": 0},
]


class Desk:
    """An organization with an account at Stripe, and a customer there."""

    def __init__(self, database: Database, gateway: StripeGateway, stripe_customer: str) -> None:
        self.database = database
        self.gateway = gateway
        with database.transaction() as tx:
            self.organization_id = default_organization(tx)
            self.account_id = accounts.ensure_own(tx, self.organization_id, livemode=False)
            tx.session.add(
                CustomerRow(
                    id="acme",
                    organization_id=self.organization_id,
                    external_id="acme",
                    email="billing@acme.com",
                    stripe_customer_id=stripe_customer,
                    created_at=tx.now,
                )
            )

    def invoice(self, invoice_id: str = "inv_1", **changes: Any) -> str:
        """An open one of 120.00 and its tax, to be paid at Stripe within two weeks."""
        with self.database.transaction() as tx:
            row: dict[str, Any] = {
                "id": invoice_id,
                "organization_id": self.organization_id,
                "customer_id": "acme",
                "kind": "manual",
                "collect": "local",
                "payment_method": "stripe_invoice",
                "number": f"INV-{invoice_id}",
                "currency": "USD",
                "period_start": tx.now - timedelta(days=30),
                "period_end": tx.now,
                "subtotal": 12_000,
                "tax_percent": Decimal("18.0"),
                "tax": 2_160,
                "total": 14_160,
                "issued_at": tx.now,
                "due_at": tx.now + timedelta(days=14),
                "created_at": tx.now,
                "updated_at": tx.now,
            }
            state = changes.pop("state", "OPEN")
            made = InvoiceRow(**row | changes, state="DRAFT")
            tx.session.add(made)
            tx.session.flush()
            for position, line in enumerate(LINES):
                ours: dict[str, Any] = {"organization_id": self.organization_id}
                ours |= {"invoice_id": invoice_id, "position": position}
                ours |= {"period_start": made.period_start, "period_end": made.period_end}
                tx.session.add(InvoiceLineRow(**ours, **line))
            tx.session.flush()
            made.state = state
        return invoice_id

    def issue(self) -> int:
        """What is due."""
        return issue_due(self.database, self.gateway, self.account_id)

    def row(self, invoice_id: str = "inv_1") -> InvoiceRow:
        """The invoice as it is now."""
        with self.database.reading() as tx:
            found = tx.session.get_one(InvoiceRow, invoice_id)
            tx.session.expunge(found)
        return found

    def all(self, row: type[Any]) -> list[Any]:
        """Every row of a table."""
        with self.database.reading() as tx:
            found = list(tx.session.exec(select(row)))
            tx.session.expunge_all()
        return found


@pytest.fixture
def desk(database: Database, gateway: StripeGateway, emulator: RemoteEmulator) -> Iterator[Desk]:
    """Without invoices."""
    (customer,) = emulator.seed([{}])
    yield Desk(database, gateway, customer)
    emulator.clear_faults()


def at_stripe(sdk: stripe_sdk.StripeClient) -> list[Any]:
    """Every invoice there."""
    return sdk.v1.invoices.list({"limit": 100}).data


def test_an_open_invoice_is_made_at_stripe(desk: Desk, sdk: stripe_sdk.StripeClient) -> None:
    """Line by line, to the cent; the customer is told where to pay. Once."""
    desk.invoice()
    assert (desk.issue(), desk.issue()) == (1, 0)
    (made,) = at_stripe(sdk)
    assert (made.status, made.total, made.currency) == ("open", 14_160, "usd")
    finalized = made.status_transitions.finalized_at
    assert (made.collection_method, made.due_date - finalized) == ("send_invoice", 14 * 86_400)
    assert made.metadata.to_dict() == {OURS: "inv_1"}
    assert made.description == "Invoice INV-inv_1"
    assert [(line.description, line.amount) for line in made.lines.data] == [
        ("Base price", 10_000),
        ("API calls: 12,000 calls", 2_000),
        ("Tax (18 %)", 2_160),
    ]
    row = desk.row()
    assert (row.stripe_invoice_id, row.payment_url) == (made.id, made.hosted_invoice_url)
    (mail,) = desk.all(MailRow)
    assert mail.recipient == "billing@acme.com"
    assert made.hosted_invoice_url in mail.text
    assert desk.all(AuditRow)[-1].action == "invoice.stripe.issue"


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "DRAFT"},
        {"state": "PAID"},
        {"payment_method": "manual"},
        {"stripe_invoice_id": "in_1"},
    ],
    ids=["draft", "paid", "manual", "there"],
)
def test_no_other_invoice_is(
    desk: Desk, sdk: stripe_sdk.StripeClient, changes: dict[str, Any]
) -> None:
    """Neither what nobody is to pay, nor what is paid in another way."""
    desk.invoice(**changes)
    assert desk.issue() == 0
    assert at_stripe(sdk) == []


def test_what_was_settled_before_is_taken_off(desk: Desk, sdk: stripe_sdk.StripeClient) -> None:
    """What is asked for is what is due; nobody without an address is written to."""
    desk.invoice(amount_paid=4_000, amount_credited=160)
    with desk.database.transaction() as tx:
        tx.session.get_one(CustomerRow, "acme").email = None
    assert desk.issue() == 1
    (made,) = at_stripe(sdk)
    assert made.total == 10_000
    assert made.lines.data[-1].description == "Credited or paid before"
    assert desk.all(MailRow) == []


def test_without_a_stripe_customer_it_waits_for_a_person(
    desk: Desk, sdk: stripe_sdk.StripeClient
) -> None:
    """With the reason, noted once; it goes on by itself when that is mended."""
    desk.invoice()
    with desk.database.transaction() as tx:
        customer = tx.session.get_one(CustomerRow, "acme")
        found, customer.stripe_customer_id = customer.stripe_customer_id, None
    assert (desk.issue(), desk.issue()) == (0, 0)
    assert "acme has no stripe_customer_id" in (desk.row().hold_reason or "")
    assert [entry.action for entry in desk.all(AuditRow)].count("invoice.stripe.refused") == 1
    with desk.database.transaction() as tx:
        tx.session.get_one(CustomerRow, "acme").stripe_customer_id = found
    assert desk.issue() == 1
    assert desk.row().hold_reason is None
    assert len(at_stripe(sdk)) == 1


def test_what_stripe_refuses_keeps_nobody_else(desk: Desk) -> None:
    """A customer who is not there is told of, and the next invoice is made."""
    desk.invoice("inv_1")
    with desk.database.transaction() as tx:
        other = {"id": "other", "external_id": "other", "stripe_customer_id": "cus_none"}
        values: dict[str, Any] = {**other, "organization_id": desk.organization_id}
        tx.session.add(CustomerRow(**values, created_at=tx.now))
    desk.invoice("inv_0", customer_id="other")
    assert desk.issue() == 1
    assert "No such customer" in (desk.row("inv_0").hold_reason or "")
    assert desk.row("inv_1").stripe_invoice_id is not None


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "reset", "after_commit": True},
        {"kind": "reset"},
        {"kind": "status", "status": 500, "after_commit": True},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 429},
    ],
    ids=["answer-lost", "lost", "500-done", "500", "429"],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "route",
    ["GET /v1/invoices", "POST /v1/invoices", "POST /v1/invoiceitems", "/finalize"],
)
def test_an_invoice_is_made_once_wherever_it_breaks(
    desk: Desk,
    emulator: RemoteEmulator,
    sdk: stripe_sdk.StripeClient,
    route: str,
    options: dict[str, Any],
) -> None:
    """The next round goes on where the last one ended; nothing is there twice."""
    desk.invoice()
    emulator.fault(route=route, **options)
    with pytest.raises(DeliveryError):
        desk.issue()
    assert desk.issue() == 1
    (made,) = at_stripe(sdk)
    assert (made.status, made.total, len(made.lines.data)) == ("open", 14_160, 3)


def test_failures_that_stripe_keeps_end_their_key(
    desk: Desk, emulator: RemoteEmulator, sdk: stripe_sdk.StripeClient
) -> None:
    """The next one is taken, as many as there are; then it waits until Stripe forgets."""
    desk.invoice()
    for number in range(1, KEYS_MAX + 1):  # replays are struck, too, which changes nothing
        struck: Any = {"route": "POST /v1/invoices", "count": number}
        emulator.fault("status", status=500, after_commit=True, **struck)
        with pytest.raises(DeliveryError):
            desk.issue()
        (lost,) = at_stripe(sdk)  # what Stripe answered with its failure, and nobody may use
        sdk.v1.invoices.delete(lost.id)
    with pytest.raises(DeliveryError):
        desk.issue()
    assert at_stripe(sdk) == []
    emulator.advance(25 * 3_600)
    assert desk.issue() == 1


def test_several_at_once_make_one(
    desk: Desk, emulator: RemoteEmulator, sdk: stripe_sdk.StripeClient
) -> None:
    """Two servers that look at the same moment ask for the same thing under the same key."""
    desk.invoice()
    emulator.set(latency_s=0.05)
    start, outcomes = threading.Barrier(4), list[object]()

    def work() -> None:
        start.wait()
        try:
            outcomes.append(desk.issue())
        except DeliveryError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    emulator.set(latency_s=0)
    assert len(outcomes) == 4
    desk.issue()
    (made,) = at_stripe(sdk)
    assert (made.status, made.total) == ("open", 14_160)
    assert desk.row().stripe_invoice_id == made.id
    assert len(desk.all(MailRow)) == 1


def test_a_draft_of_another_sum_is_left_to_a_person(
    desk: Desk, sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """Never is anything else asked for than what is due; items that are not ours go."""
    desk.invoice()
    emulator.fault("reset", route="/finalize")
    with pytest.raises(DeliveryError):
        desk.issue()
    (draft,) = at_stripe(sdk)
    item: Any = {"customer": draft.customer, "invoice": draft.id, "amount": 5, "currency": "usd"}
    sdk.v1.invoice_items.create(item)
    assert desk.issue() == 1
    assert sdk.v1.invoices.retrieve(draft.id).total == 14_160


def test_the_total_is_seen_before_anybody_is_asked(
    desk: Desk, sdk: stripe_sdk.StripeClient
) -> None:
    """Lines that do not come to what is owed, as with a tax that Stripe adds, stop it."""
    desk.invoice(total=14_161)
    assert desk.issue() == 0
    assert "comes to 14160 USD in minor units, not to 14161" in (desk.row().hold_reason or "")
    assert [made.status for made in at_stripe(sdk)] == ["draft"]


@pytest.mark.parametrize(("state", "status"), [("VOID", "void"), ("PAID", "paid")])
def test_what_ends_here_ends_there(
    desk: Desk, sdk: stripe_sdk.StripeClient, state: str, status: str
) -> None:
    """So that nobody pays twice; one that has ended there already is left alone."""
    desk.invoice()
    desk.issue()
    assert end_settled(desk.database, desk.gateway, desk.account_id) == 0
    with desk.database.transaction() as tx:
        tx.session.get_one(InvoiceRow, "inv_1").state = state
    assert end_settled(desk.database, desk.gateway, desk.account_id) == 1
    assert [made.status for made in at_stripe(sdk)] == [status]
    assert desk.row().payment_url is None
    assert end_settled(desk.database, desk.gateway, desk.account_id) == 0


def test_what_was_paid_there_needs_no_end(desk: Desk, sdk: stripe_sdk.StripeClient) -> None:
    """Stripe is not told what it told us."""
    desk.invoice()
    desk.issue()
    (made,) = at_stripe(sdk)
    sdk.v1.invoices.pay(made.id)
    with desk.database.transaction() as tx:
        tx.session.get_one(InvoiceRow, "inv_1").state = "PAID"
    assert end_settled(desk.database, desk.gateway, desk.account_id) == 1
    assert desk.row().payment_url is None


def test_a_payment_at_stripe_comes_back(
    desk: Desk, sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, clock: "Clock"
) -> None:
    """All the way: made, declined, paid; each is told once, however often it is asked for."""
    desk.invoice()
    desk.issue()
    emulator.decline_payments()
    (made,) = at_stripe(sdk)
    with pytest.raises(stripe_sdk.CardError):
        sdk.v1.invoices.pay(made.id)
    sdk.v1.invoices.pay(made.id)
    clock.now += timedelta(seconds=5)
    for _ in range(2):
        catch_up.poll(desk.database, desk.account_id, desk.gateway)
    told = [(one.kind, one.source, one.amount) for one in desk.all(PaymentRow)]
    assert told == [("failed", "stripe", None), ("paid", "stripe", 14_160)]


def test_days_are_counted_from_the_day_of_issue(make_invoice: Callable[..., InvoiceRow]) -> None:
    """The same at each try; one that is due at once has none."""
    customer = CustomerRow(external_id="acme", stripe_customer_id="cus_1")
    for days in (0, 14):
        due = wished(make_invoice(days), customer, [])
        assert due.wish is not None
        assert due.wish.days_until_due == days


@pytest.fixture
def make_invoice(clock: "Clock") -> Callable[..., InvoiceRow]:
    """An open invoice that is due after some days."""

    def make(days: int) -> InvoiceRow:
        at: dict[str, Any] = {"issued_at": clock.now, "due_at": clock.now + timedelta(days=days)}
        return InvoiceRow(id="inv_1", number="INV-1", currency="USD", total=1, tax=0, **at)

    return make
