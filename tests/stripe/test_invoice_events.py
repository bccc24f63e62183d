"""Stripe's word of invoices: passed on once each, for invoices that are ours."""

import itertools
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel import select

from usageflow.catalog.organizations import create, default_organization
from usageflow.db.billing_tables import InvoiceRow, PaymentRow
from usageflow.db.session import Database
from usageflow.db.tables import CustomerRow, StripeEventRow
from usageflow.stripe import accounts
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.events import SNAPSHOTS, AccountEvents
from usageflow.stripe.inbound import InboundEvent
from usageflow.stripe.invoice_calls import OURS
from usageflow.stripe.invoice_events import KINDS

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Listener:
    """Takes events for the account of an organization that has two invoices, one at Stripe."""

    def __init__(self, database: Database, gateway: StripeGateway) -> None:
        self._numbers = itertools.count(1)
        self.database = database
        with database.transaction() as tx:
            self.organization_id = default_organization(tx)
            account_id = accounts.ensure_own(tx, self.organization_id, livemode=False)
            self.invoice(tx, "inv_there", self.organization_id, stripe_invoice_id="in_1")
            self.invoice(tx, "inv_new", self.organization_id)
            self.invoice(tx, "inv_other", create(tx, "other", actor="test"))
        self._events = AccountEvents(
            database, account_id, lambda: nullcontext(gateway), lambda _: None
        )

    def invoice(self, tx: Any, invoice_id: str, organization_id: str, **changes: Any) -> None:
        """An open one."""
        customer = {"id": f"customer of {invoice_id}", "external_id": invoice_id}
        tx.session.add(
            CustomerRow(**customer, organization_id=organization_id, created_at=AT)  # type: ignore[arg-type]
        )
        tx.session.flush()
        values: dict[str, Any] = {"kind": "manual", "collect": "local", "currency": "USD"}
        values |= {"payment_method": "stripe_invoice", "subtotal": 100, "total": 100}
        tx.session.add(
            InvoiceRow(
                id=invoice_id,
                organization_id=organization_id,
                customer_id=customer["id"],
                state="OPEN",
                created_at=AT,
                updated_at=AT,
                **values | changes,
            )
        )

    def take(self, kind: str, stripe_id: str, ours: str | None = None, **changes: Any) -> bool:
        """Take an event about a Stripe invoice of 100."""
        metadata = None if ours is None else {OURS: ours}
        made: dict[str, Any] = {
            "event_id": f"evt_{next(self._numbers)}",
            "type": kind,
            "created": AT,
            "livemode": False,
            "account": None,
            "object": {"id": stripe_id, "total": 100, "metadata": metadata},
            "previous": None,
            "thin": False,
        }
        return self._events.take(InboundEvent(**made | changes))

    def told(self) -> list[tuple[str, str, int | None]]:
        """(invoice, kind, amount) of every word of a payment."""
        with self.database.reading() as tx:
            rows = tx.session.exec(select(PaymentRow).order_by("id")).all()
            assert {row.source for row in rows} <= {"stripe"}
            return [(row.invoice_id, row.kind, row.amount) for row in rows]


@pytest.fixture
def listener(database: Database, gateway: StripeGateway) -> Listener:
    """Of an account with two invoices."""
    return Listener(database, gateway)


def test_each_kind_is_word_of_a_payment(listener: Listener) -> None:
    """With the moment, Stripe's id of the event, and of a payment what was paid."""
    for kind in KINDS:
        assert listener.take(kind, "in_1", "inv_there")
    assert listener.told() == [
        ("inv_there", "paid", 100),
        ("inv_there", "failed", None),
        ("inv_there", "voided", None),
        ("inv_there", "uncollectible", None),
    ]
    with listener.database.reading() as tx:
        row = tx.session.exec(select(PaymentRow)).first()
        assert row is not None
        assert (row.reference, row.at, row.applied_at) == ("evt_1", AT, None)


def test_an_event_that_comes_twice_is_told_once(listener: Listener) -> None:
    """Also when what was dealt with has been forgotten since."""
    assert listener.take("invoice.paid", "in_1", event_id="evt_same")
    assert not listener.take("invoice.paid", "in_1", event_id="evt_same")
    with listener.database.transaction() as tx:
        for row in tx.session.exec(select(StripeEventRow)):
            tx.session.delete(row)
    listener.take("invoice.paid", "in_1", event_id="evt_same")
    assert listener.told() == [("inv_there", "paid", 100)]


def test_an_event_may_come_before_we_remember_the_invoice(listener: Listener) -> None:
    """Then its metadata says whose it is."""
    listener.take("invoice.paid", "in_9", "inv_new")
    assert listener.told() == [("inv_new", "paid", 100)]


@pytest.mark.parametrize(
    ("stripe_id", "ours"),
    [
        ("in_9", None),
        ("in_9", "inv_none"),
        ("in_9", "inv_other"),
        ("in_9", "inv_there"),
    ],
    ids=["theirs", "unknown", "of-another-organization", "a-copy"],
)
def test_other_invoices_are_none_of_our_business(
    listener: Listener, stripe_id: str, ours: str | None
) -> None:
    """Those of the account's own, and what only says to be ours."""
    listener.take("invoice.paid", stripe_id, ours)
    assert listener.told() == []


def test_only_what_tells_enough_is_heard(listener: Listener) -> None:
    """Thin events have no total, and an invoice that was made is no news."""
    assert not listener.take("v1.invoice.paid", "in_1", thin=True)
    assert not listener.take("invoice.created", "in_1")
    assert listener.told() == []
    assert set(KINDS) <= set(SNAPSHOTS)
    assert len(SNAPSHOTS) <= 20  # as many types as Stripe lists at once
