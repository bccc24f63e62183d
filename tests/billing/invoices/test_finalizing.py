"""Finalizing: numbered, dated, frozen; mailed and told; in the order of the drafts."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from usageflow.billing import invoices, parties, recompute, subscription_changes
from usageflow.billing.closing import close
from usageflow.catalog.charges import Charge
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.tables import CustomerRow

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_APRIL = datetime(2026, 4, 1, tzinfo=UTC)
_GRACE = timedelta(hours=1)


def calls(price: str = "0.01") -> Charge:
    """A price for each call."""
    return Charge(
        id="chg",
        kind="usage",
        display_name="Calls",
        metric="API_CALL",
        model="per_unit",
        unit_price=Decimal(price),
    )


def issue(books: "Books", invoice: InvoiceRow, **how: Any) -> Refused | None:
    """Issue a draft by hand; why not."""
    with books.database.transaction() as tx:
        found = invoices.issue(tx, books.organization_id, invoice.id, actor=books.actor, **how)
        if isinstance(found, Refused):
            tx.session.rollback()
            return found
    return None


def test_an_issued_invoice_has_its_number_its_dates_and_its_parties(books: "Books") -> None:
    """As they were when it was issued; the customer is told by mail."""
    books.settings(
        payment_terms_days=30, time_zone="Europe/Berlin", issuer={"name": "Shop Ltd", "tax_id": "7"}
    )
    books.now = datetime(2026, 2, 28, 23, tzinfo=UTC)
    books.start(calls(), base_price=Decimal(10))
    issued_at = datetime(2026, 3, 31, 22, tzinfo=UTC) + _GRACE
    books.work(issued_at - _GRACE)
    books.work(issued_at)
    (invoice,) = books.invoices()
    assert (invoice.number, invoice.issued_at) == ("INV-2026-0001", issued_at)
    assert invoice.due_at == issued_at + timedelta(days=30)
    payer, issuer = parties.kept(invoice.bill_to), parties.kept(invoice.bill_from)
    assert payer is not None
    assert issuer is not None
    assert (payer.name, payer.email) == ("Acme", "billing@acme.com")
    assert (issuer.name, issuer.tax_id) == ("Shop Ltd", "7")
    assert books.mails() == [("billing@acme.com", "Invoice INV-2026-0001 from Shop Ltd")]


def test_an_invoice_over_nothing_is_paid_at_once(books: "Books") -> None:
    """It has a number like every other; nobody is asked for money."""
    books.start(calls())
    books.work(_APRIL)
    books.work(_APRIL + _GRACE)
    (invoice,) = books.invoices()
    assert (invoice.state, invoice.number, invoice.paid_at) == ("PAID", "INV-2026-0001", books.now)
    assert books.told()[-2:] == ["invoice.finalized", "invoice.paid"]
    assert books.mails() == []


@pytest.mark.parametrize(
    ("customer", "organization", "expected"),
    [("18", "7", 1_180), (None, "7", 1_070), ("0", "7", 1_000), (None, None, 1_000)],
)
def test_the_tax_is_the_customers_else_the_organizations(
    till: "Books", customer: str | None, organization: str | None, expected: int
) -> None:
    """As it is when the invoice is issued, not when the draft was made."""
    till.start(base_price=Decimal(10))
    till.work(_APRIL)
    till.settings(tax_percent=None if organization is None else Decimal(organization))
    with till.database.transaction() as tx:
        row = tx.session.get_one(CustomerRow, "customer-acme")
        row.tax_percent = None if customer is None else Decimal(customer)
    till.work(_APRIL + _GRACE)
    (invoice,) = till.invoices()
    assert (invoice.subtotal, invoice.total) == (1_000, expected)
    assert invoice.subtotal + invoice.tax == invoice.total


def test_an_issued_invoice_never_changes(books: "Books") -> None:
    """The database itself refuses."""
    subscription = books.start(base_price=Decimal(10))
    books.work(_APRIL)
    books.work(_APRIL + _GRACE)
    books.generate(subscription)
    draft, issued = (
        f"(SELECT id FROM invoice WHERE state = '{state}')" for state in ("DRAFT", "OPEN")
    )
    for statement in (
        "UPDATE invoice SET total = 1",
        "UPDATE invoice SET state = 'DRAFT'",
        "UPDATE invoice SET bill_to = 'me'",
        "DELETE FROM invoice",
        "UPDATE invoice_line SET amount = 1",
        "DELETE FROM invoice_line",
        f"UPDATE invoice_line SET position = 9, invoice_id = {issued} WHERE invoice_id = {draft}",
    ):
        with (
            pytest.raises(DBAPIError, match="an issued invoice never changes"),
            books.database.transaction() as tx,
        ):
            tx.session.execute(text(statement))


def test_drafts_of_a_subscription_are_issued_in_their_order(books: "Books") -> None:
    """The invoice that ends the period waits for the one made within it, if that is held."""
    subscription = books.start(calls(), base_price=Decimal(10))
    books.use(100, datetime(2026, 3, 5, tzinfo=UTC), event_name="calls")
    books.now = datetime(2026, 3, 10, tzinfo=UTC)
    books.generate(subscription)
    books.work(_APRIL)
    books.work(_APRIL + _GRACE)
    held, last = books.invoices()
    assert (held.state, last.state) == ("DRAFT", "DRAFT")
    refused = issue(books, last)
    assert refused is not None
    assert f"the subscription's draft {held.id} comes before it" in refused.message
    assert issue(books, held, release=True) is None
    assert issue(books, last, release=True) is None
    assert [one.total for one in books.invoices()] == [1_100, 0]


def test_a_void_draft_takes_nothing_back_from_an_older_one(till: "Books") -> None:
    """A period that ends early owes less than the invoice within it; that is given back by hand."""
    subscription = till.start(base_price=Decimal(31))
    till.now = datetime(2026, 3, 11, tzinfo=UTC)
    till.generate(subscription)
    till.now += timedelta(minutes=1)
    with till.database.transaction() as tx:
        subscription_changes.cancel(
            tx,
            till.organization_id,
            subscription,
            at_period_end=False,
            close=close,
            actor=till.actor,
        )
    older, held = till.invoices()
    assert (older.total, held.total < 0, bool(held.hold_reason)) == (3_100, True, True)
    with till.database.transaction() as tx:
        invoices.void(tx, till.organization_id, held.id, actor=till.actor)
    till.work(till.now + _GRACE)
    older, held = till.invoices()
    assert (older.state, older.total, held.state) == ("OPEN", 3_100, "VOID")
    with till.database.reading() as tx:
        assert recompute.differences(tx, older) == []


def test_usage_after_a_draft_that_is_void_is_billed_late(till: "Books") -> None:
    """Though an older draft was issued since: what is forgiven is what the draft said."""
    subscription = till.start(calls(), interval="day")
    till.now = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    till.use(1, datetime(2026, 3, 1, 5, tzinfo=UTC))
    till.generate(subscription)
    till.use(10, datetime(2026, 3, 1, 6, tzinfo=UTC))
    till.work(datetime(2026, 3, 2, tzinfo=UTC))
    till.now += timedelta(minutes=15)
    till.use(100, datetime(2026, 3, 1, 23, 45, tzinfo=UTC))
    till.work(datetime(2026, 3, 2, 0, 30, tzinfo=UTC))
    _, closed = till.invoices()
    with till.database.transaction() as tx:
        invoices.void(tx, till.organization_id, closed.id, actor=till.actor)
    till.work(datetime(2026, 3, 3, tzinfo=UTC))
    till.work(datetime(2026, 3, 3, 2, tzinfo=UTC))
    assert [(one.state, one.total) for one in till.invoices()][2:] == [("OPEN", 111 - 11 - 10)]


def test_usage_between_two_drafts_is_billed_by_the_first_that_is_issued(till: "Books") -> None:
    """Both are computed anew, each less what was issued before: nothing twice, nothing never."""
    subscription = till.start(calls(), base_price=Decimal(10))
    till.use(100, datetime(2026, 3, 5, tzinfo=UTC))
    till.now = datetime(2026, 3, 31, 23, 30, tzinfo=UTC)
    till.generate(subscription)
    till.use(50, datetime(2026, 3, 6, tzinfo=UTC))
    till.work(_APRIL)
    till.use(7, datetime(2026, 3, 7, tzinfo=UTC))
    till.work(_APRIL + timedelta(hours=2))
    till.work(_APRIL + timedelta(hours=3))
    assert [(one.state, one.total) for one in till.invoices()] == [("OPEN", 1_157), ("PAID", 0)]


def test_a_negative_total_is_held_for_a_person(books: "Books") -> None:
    """Who cancels after the base price was billed in full gets it back by a credit note."""
    subscription = books.start(base_price=Decimal(31))
    books.now = datetime(2026, 3, 2, tzinfo=UTC)
    books.generate(subscription)
    books.now = datetime(2026, 3, 11, tzinfo=UTC)
    with books.database.transaction() as tx:
        subscription_changes.cancel(
            tx,
            books.organization_id,
            subscription,
            at_period_end=False,
            close=close,
            actor=books.actor,
        )
    books.work(books.now + _GRACE)
    first, last = books.invoices()
    assert (first.state, first.total, last.state, last.total) == ("OPEN", 3_100, "DRAFT", -2_100)
    assert "give it back by a credit note" in (last.hold_reason or "")
    refused = issue(books, last, release=True)
    assert refused is not None
    assert refused.code == "conflict"


def test_a_shadow_is_never_issued(till: "Books") -> None:
    """Not even by a person."""
    till.start(calls(), collect="stripe_meters")
    till.work(_APRIL)
    refused = issue(till, till.invoices()[0])
    assert refused is not None
    assert "its shadow here is never issued" in refused.message


def test_a_mail_that_cannot_be_addressed_keeps_nothing(till: "Books") -> None:
    """A customer without an address has an invoice all the same."""
    till.plan(base_price=Decimal(10))
    till.customer(email=None)
    till.subscribe()
    till.work(_APRIL)
    till.work(_APRIL + _GRACE)
    assert [one.state for one in till.invoices()] == ["OPEN"]
    assert till.mails() == []


def test_billed_at_follows_the_last_computation(till: "Books") -> None:
    """So that what changes from then on is looked for by the next invoice."""
    subscription = till.start(calls())
    till.work(_APRIL)
    assert till.subscription(subscription).billed_at == _APRIL
    till.work(_APRIL + _GRACE)
    assert till.subscription(subscription).billed_at == _APRIL + _GRACE
