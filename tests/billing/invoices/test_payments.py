"""Payments: word of them in any order, each once; dunning from arrears to suspension and back."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from sqlmodel import col, select

from usageflow.billing import credit_notes, dunning, duties, invoices, payments
from usageflow.billing.credit_notes import CreditLine
from usageflow.catalog import organizations
from usageflow.catalog.refusals import Refused
from usageflow.db import outbox
from usageflow.db.billing_tables import CreditNoteRow, InvoiceRow, PaymentRow
from usageflow.db.outbox import PaymentKind
from usageflow.money import AMOUNT_MAX

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_ISSUED = datetime(2026, 4, 1, 1, tzinfo=UTC)
_DUE = _ISSUED + timedelta(days=14)


def issued(books: "Books") -> tuple[str, InvoiceRow]:
    """A subscription and its first invoice, over 100 dollars."""
    subscription = books.start(base_price=Decimal(100))
    books.work(_ISSUED - timedelta(hours=1))
    books.work(_ISSUED)
    return subscription, books.invoices()[0]


def tell(
    books: "Books",
    invoice: InvoiceRow,
    kind: PaymentKind,
    reference: str,
    amount: int | None = None,
) -> bool:
    """Word of a payment, as Stripe tells it."""
    with books.database.transaction() as tx:
        return outbox.tell_payment(
            tx,
            books.organization_id,
            invoice.id,
            kind,
            source="stripe",
            reference=reference,
            at=tx.now,
            amount=amount,
        )


def outcomes(books: "Books") -> list[str | None]:
    """What came of each, in the order in which they were told."""
    with books.database.reading() as tx:
        return list(tx.session.exec(select(PaymentRow.outcome).order_by(col(PaymentRow.id))))


@pytest.mark.parametrize("order", list(itertools.permutations(["failed", "failed", "paid"])))
def test_money_that_came_counts_in_whichever_order_it_is_told(
    till: "Books", order: Sequence[PaymentKind]
) -> None:
    """A failed payment before or after it changes nothing in the end; each is told once."""
    _, invoice = issued(till)
    for number, kind in enumerate(order):
        assert tell(till, invoice, kind, f"evt-{number}")
        assert not tell(till, invoice, kind, f"evt-{number}")
        till.work()
    (after,) = till.invoices()
    assert (after.state, after.amount_paid) == ("PAID", 10_000)
    failed_before = order.index("paid")
    assert after.payment_failures == failed_before
    assert till.told().count("invoice.failed") == failed_before
    assert till.told().count("invoice.paid") == 1


@pytest.mark.parametrize("order", list(itertools.permutations(["uncollectible", "paid"])))
def test_what_was_given_up_may_be_paid_after_all(
    till: "Books", order: Sequence[PaymentKind]
) -> None:
    """And what was paid is not given up."""
    _, invoice = issued(till)
    for number, kind in enumerate(order):
        tell(till, invoice, kind, f"evt-{number}")
    till.work()
    assert till.invoices()[0].state == "PAID"


def test_what_cannot_be_followed_is_noted(books: "Books") -> None:
    """Void after paid, and paid after void, need a person."""
    _, invoice = issued(books)
    for number, kind in enumerate(("paid", "voided", "paid")):
        tell(books, invoice, kind, f"evt-{number}")  # type: ignore[arg-type]  # they are
    books.work()
    assert books.invoices()[0].state == "PAID"
    assert outcomes(books) == ["paid"] + ["noted: the invoice was PAID"] * 2


def test_a_void_invoice_that_is_paid_is_noted(till: "Books") -> None:
    """It stays void."""
    _, invoice = issued(till)
    for number, kind in enumerate(("voided", "paid")):
        tell(till, invoice, kind, f"evt-{number}")  # type: ignore[arg-type]  # they are
    till.work()
    assert till.invoices()[0].state == "VOID"
    assert outcomes(till) == ["voided", "noted: the invoice was VOID"]


def test_an_invoice_may_be_paid_in_parts(till: "Books") -> None:
    """It is PAID when nothing is due any more; too much is said."""
    _, invoice = issued(till)
    tell(till, invoice, "paid", "evt-1", 4_000)
    till.work()
    assert (till.invoices()[0].state, till.invoices()[0].amount_paid) == ("OPEN", 4_000)
    tell(till, invoice, "paid", "evt-2", 6_500)
    till.work()
    (after,) = till.invoices()
    assert (after.state, after.amount_paid) == ("PAID", 10_500)
    assert outcomes(till) == [
        "paid in part: 60.00 USD are still due",
        "paid, and 5.00 USD more than was due",
    ]


def test_no_more_is_paid_than_anybody_can_pay(till: "Books") -> None:
    """A slip of the hand is refused, before it is more than the database holds."""
    _, invoice = issued(till)
    with till.database.transaction() as tx:
        refused = payments.pay(
            tx, till.organization_id, invoice.id, amount=AMOUNT_MAX + 1, actor=till.actor
        )
    assert isinstance(refused, Refused)
    assert (refused.code, till.invoices()[0].amount_paid) == ("invalid", 0)


def test_word_of_an_invoice_of_another_organization_has_no_effect(till: "Books") -> None:
    """It is noted with the payment."""
    _, invoice = issued(till)
    with till.database.transaction() as tx:
        other = organizations.create(tx, "other", actor="test")
        outbox.tell_payment(
            tx, other, invoice.id, "paid", source="stripe", reference="evt", at=tx.now
        )
    till.work()
    assert till.invoices()[0].state == "OPEN"
    assert outcomes(till) == ["noted: there is no such invoice"]


def test_who_does_not_pay_falls_behind_is_suspended_and_comes_back(books: "Books") -> None:
    """Past due on the day it is due, suspended after as many days as the organization says."""
    subscription, invoice = issued(books)
    steps = []
    for at in (_DUE - timedelta(seconds=1), _DUE, _DUE + timedelta(days=14)):
        books.work(at)
        steps.append(books.subscription(subscription).state)
    assert steps == ["ACTIVE", "PAST_DUE", "SUSPENDED"]
    with books.database.transaction() as tx:
        payments.pay(tx, books.organization_id, invoice.id, actor=books.actor)
    assert books.subscription(subscription).state == "ACTIVE"
    assert [one for one in books.told() if one.startswith("subscription.")] == [
        "subscription.created",
        "subscription.suspended",
        "subscription.activated",
    ]


def test_a_failed_payment_counts_from_the_day_it_failed(books: "Books") -> None:
    """Before it is due; with no patience at all the subscription is suspended at once."""
    subscription, invoice = issued(books)
    tell(books, invoice, "failed", "evt-1")
    books.work(_ISSUED + timedelta(hours=1))
    assert books.subscription(subscription).state == "PAST_DUE"
    books.settings(suspend_after_days=0)
    books.work(_ISSUED + timedelta(hours=2))
    assert books.subscription(subscription).state == "SUSPENDED"


def test_whoever_has_endless_patience_never_suspends(till: "Books") -> None:
    """The subscription stays past due."""
    till.settings(suspend_after_days=None)
    subscription, _ = issued(till)
    till.work(_DUE + timedelta(days=20))
    assert till.subscription(subscription).state == "PAST_DUE"


def test_all_invoices_must_be_paid(till: "Books") -> None:
    """While another one is in arrears, it stays suspended; a void one is in no arrears."""
    subscription, first = issued(till)
    till.work(datetime(2026, 5, 1, tzinfo=UTC))
    till.work(datetime(2026, 5, 1, 1, tzinfo=UTC))
    till.work(datetime(2026, 5, 30, tzinfo=UTC))
    second = till.invoices()[1]
    assert till.subscription(subscription).state == "SUSPENDED"
    with till.database.transaction() as tx:
        payments.pay(tx, till.organization_id, first.id, actor=till.actor)
    assert till.subscription(subscription).state == "SUSPENDED"
    with till.database.transaction() as tx:
        invoices.void(tx, till.organization_id, second.id, actor=till.actor)
    assert till.subscription(subscription).state == "ACTIVE"


def test_one_that_is_given_up_keeps_its_subscription_behind(till: "Books") -> None:
    """Until it is paid after all."""
    subscription, invoice = issued(till)
    with till.database.transaction() as tx:
        invoices.give_up(tx, till.organization_id, invoice.id, actor=till.actor)
    assert till.subscription(subscription).state == "PAST_DUE"
    assert till.told()[-1] == "invoice.failed"
    with till.database.transaction() as tx:
        payments.pay(tx, till.organization_id, invoice.id, actor=till.actor)
    assert till.subscription(subscription).state == "ACTIVE"


def test_one_that_is_given_up_suspends_its_subscription_as_every_other(till: "Books") -> None:
    """To give an invoice up is not to be content with that."""
    subscription, invoice = issued(till)
    with till.database.transaction() as tx:
        invoices.give_up(tx, till.organization_id, invoice.id, actor=till.actor)
    till.work(_ISSUED + timedelta(days=13))
    assert till.subscription(subscription).state == "PAST_DUE"
    till.work(_ISSUED + timedelta(days=14))
    assert till.subscription(subscription).state == "SUSPENDED"


def test_more_in_arrears_than_one_batch_are_all_minded(
    till: "Books", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch after batch, by their ids."""
    monkeypatch.setattr(duties, "BATCH", 2)
    till.plan(base_price=Decimal(100))
    found = []
    for name in ("a", "b", "c", "d", "e"):
        till.customer(name)
        found.append(till.subscribe(name))
    till.work(_ISSUED - timedelta(hours=1))
    till.work(_ISSUED)
    till.work(_DUE)
    assert {till.subscription(one).state for one in found} == {"PAST_DUE"}


def test_standing_is_decided_by_the_oldest_arrears() -> None:
    """Pure: nothing, behind, suspended; a day that has not come is no arrears."""
    since = datetime(2026, 3, 1, tzinfo=UTC)
    later = since + timedelta(days=3)
    assert dunning.standing(None, later, 3) == "good"
    assert dunning.standing(since, later, None) == "behind"
    assert dunning.standing(since, later - timedelta(seconds=1), 3) == "behind"
    assert dunning.standing(since, later, 3) == "suspended"
    due, failed = InvoiceRow(due_at=later), InvoiceRow(payment_failed_at=since)
    assert dunning.in_arrears_since([due, failed], later) == since
    assert dunning.in_arrears_since([due], since) is None
    assert dunning.in_arrears_since([InvoiceRow()], since) is None


def test_a_credit_note_over_all_that_is_due_settles_an_invoice(books: "Books") -> None:
    """Numbered in a series of its own; no more can be credited than was billed."""
    subscription, invoice = issued(books)
    books.work(_DUE)
    assert books.subscription(subscription).state == "PAST_DUE"

    def credit(*amounts: int) -> CreditNoteRow | Refused:
        with books.database.transaction() as tx:
            made = credit_notes.create(
                tx,
                books.organization_id,
                invoice.id,
                lines=[CreditLine("sorry", amount) for amount in amounts],
                reason="sorry",
                actor=books.actor,
            )
            tx.session.flush()
            if isinstance(made, CreditNoteRow):
                tx.session.expunge(made)
            return made

    first = credit(2_500, 1_500)
    assert isinstance(first, CreditNoteRow)
    assert (first.number, first.amount) == ("CN-2026-0001", 4_000)
    for wrong in ((6_001,), (0,), ()):
        assert isinstance(credit(*wrong), Refused)
    assert isinstance(credit(6_000), CreditNoteRow)
    (after,) = books.invoices()
    assert (after.state, after.amount_credited) == ("PAID", 10_000)
    assert books.subscription(subscription).state == "ACTIVE"
    assert isinstance(credit(1), Refused)


def test_what_is_not_issued_cannot_be_paid_or_credited(till: "Books") -> None:
    """A draft, an unknown one, one that was voided."""
    till.start(base_price=Decimal(100))
    till.work(_ISSUED - timedelta(hours=1))
    (draft,) = till.invoices()
    organization, actor = till.organization_id, till.actor
    lines = [CreditLine("x", 1)]
    with till.database.transaction() as tx:
        for name, code in ((draft.id, "conflict"), ("inv_none", "not_found")):
            for refused in (
                payments.pay(tx, organization, name, actor=actor),
                payments.fail(tx, organization, name, actor=actor),
                credit_notes.create(tx, organization, name, lines=lines, reason="x", actor=actor),
                invoices.give_up(tx, organization, name, actor=actor),
            ):
                assert isinstance(refused, Refused)
                assert refused.code == code
        voided = invoices.void(tx, organization, draft.id, text="mistake", actor=actor)
        assert isinstance(voided, InvoiceRow)
        assert invoices.amount_due(voided) == 0
