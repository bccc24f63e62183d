"""Invoices: how they are found, and what a person may do with one.

How one comes about is `closing`'s and `manual`'s, its money `payments`' and `credit_notes`'.
"""

from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from usageflow.billing import closing, dunning, finalizing, invoice_states, subscriptions, turnover
from usageflow.billing.invoice_states import State
from usageflow.billing.subscription_states import BILLED
from usageflow.catalog import audit
from usageflow.catalog.audit import Actor
from usageflow.catalog.listings import paged
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.session import Tx

Outcome: TypeAlias = Literal["PENDING", "PAID", "FAILED"]
"""What a customer sees of an issued invoice."""

_STANDING: Final = {
    *("state", "number", "currency", "subtotal", "tax", "total", "amount_paid", "amount_credited")
}


def find(tx: Tx, organization_id: str, invoice_id: str) -> InvoiceRow | None:
    """An invoice by its id, or by its number."""
    return tx.session.exec(_one(organization_id, invoice_id)).one_or_none()


def locked(tx: Tx, organization_id: str, invoice_id: str) -> InvoiceRow | None:
    """An invoice, as `find`, that nobody else changes until this transaction ends."""
    statement = _one(organization_id, invoice_id).with_for_update()
    fresh = {"populate_existing": True}
    return tx.session.exec(statement, execution_options=fresh).one_or_none()


def unknown(invoice_id: str) -> Refused:
    """There is no such invoice."""
    return Refused("not_found", f"there is no invoice {invoice_id}")


def listing(
    tx: Tx,
    organization_id: str,
    *,
    customer_id: str | None = None,
    subscription_id: str | None = None,
    state: str | None = None,
    collect: str | None = "local",
    since: datetime | None = None,
    until: datetime | None = None,
    offset: int,
    limit: int,
) -> tuple[list[InvoiceRow], int]:
    """A page of the invoices, newest first, and how many there are.

    `since` and `until` bound when they were made; `collect` None: shadows of what Stripe prices
    too.
    """
    statement = _of(organization_id)
    for column, value in (
        (InvoiceRow.customer_id, customer_id),
        (InvoiceRow.subscription_id, subscription_id),
        (InvoiceRow.state, state),
        (InvoiceRow.collect, collect),
    ):
        if value is not None:
            statement = statement.where(col(column) == value)
    if since is not None:
        statement = statement.where(col(InvoiceRow.created_at) >= since)
    if until is not None:
        statement = statement.where(col(InvoiceRow.created_at) < until)
    newest_first = (col(InvoiceRow.created_at).desc(), col(InvoiceRow.id).desc())
    return paged(tx, statement.order_by(*newest_first), offset=offset, limit=limit)


def issued(
    tx: Tx,
    organization_id: str,
    *,
    customer_id: str | None = None,
    outcome: Outcome | None = None,
    after: InvoiceRow | None = None,
    limit: int,
) -> list[InvoiceRow]:
    """Issued invoices that are not void, newest first; of one outcome, and made before `after`."""
    statement = _of(organization_id).where(
        col(InvoiceRow.collect) == "local",
        col(InvoiceRow.state).in_(("OPEN", "PAID", "UNCOLLECTIBLE")),
    )
    if customer_id is not None:
        statement = statement.where(col(InvoiceRow.customer_id) == customer_id)
    if outcome is not None:
        statement = statement.where(_has(outcome))
    if after is not None:
        made_at, invoice_id = col(InvoiceRow.created_at), col(InvoiceRow.id)
        then = and_(made_at == after.created_at, invoice_id < after.id)
        statement = statement.where(or_(made_at < after.created_at, then))
    newest_first = (col(InvoiceRow.created_at).desc(), col(InvoiceRow.id).desc())
    return list(tx.session.exec(statement.order_by(*newest_first).limit(limit)))


def outcome(invoice: InvoiceRow) -> Outcome:
    """How an issued invoice stands: to be paid, paid, or failed, by a payment or for good."""
    if invoice.state == "PAID":
        return "PAID"
    failed = invoice.state == "UNCOLLECTIBLE" or invoice.payment_failures
    return "FAILED" if failed else "PENDING"


def amount_due(invoice: InvoiceRow) -> int:
    """What is still to be paid, in minor units; of a draft, what would be."""
    if invoice.state in ("PAID", "VOID"):
        return 0
    return max(0, invoice.total - invoice.amount_paid - invoice.amount_credited)


def issue(
    tx: Tx, organization_id: str, invoice_id: str, *, release: bool = False, actor: Actor
) -> InvoiceRow | Refused:
    """Issue a draft now; `release`: although its usage was sent to Stripe too."""
    invoice = locked(tx, organization_id, invoice_id)
    if invoice is None:
        return unknown(invoice_id)
    before = standing(invoice)
    if refused := finalizing.finalize(tx, invoice, release=release):
        return refused
    note(tx, invoice, "release" if release else "finalize", before, actor)
    return invoice


def void(
    tx: Tx, organization_id: str, invoice_id: str, *, text: str = "", actor: Actor
) -> InvoiceRow | Refused:
    """Nothing is owed on it. What it billed counts as billed: it is forgiven, not billed again."""
    return _end(tx, organization_id, invoice_id, "VOID", text=text, actor=actor)


def give_up(
    tx: Tx, organization_id: str, invoice_id: str, *, text: str = "", actor: Actor
) -> InvoiceRow | Refused:
    """It will hardly be paid: UNCOLLECTIBLE, until it is after all."""
    return _end(tx, organization_id, invoice_id, "UNCOLLECTIBLE", text=text, actor=actor)


def generate(
    tx: Tx, organization_id: str, subscription_id: str, *, actor: Actor
) -> InvoiceRow | Refused:
    """An invoice now, within the period: usage so far, and what is agreed per period in full.

    Periods that are over are closed first. Of a subscription that has ended, what came late.
    """
    subscription = subscriptions.locked(tx, organization_id, subscription_id)
    if subscription is None:
        return Refused("not_found", f"there is no subscription {subscription_id}")
    turnover.catch_up(tx, subscription, closing.close)
    if subscription.state not in (*BILLED, "CANCELLED"):
        return Refused("conflict", f"the subscription is {subscription.state}: it bills nothing")
    end = min(tx.now, subscription.period_end)
    if end <= subscription.period_start:
        return Refused("conflict", "the subscription has not begun")
    terms = turnover.terms_of(tx, subscription)
    invoice = closing.close(tx, subscription, terms, end=end, kind="interim")
    note(tx, invoice, "generate", None, actor)
    return invoice


def standing(invoice: InvoiceRow) -> dict[str, Any]:
    """What the audit log keeps of an invoice."""
    return invoice.model_dump(include=_STANDING, exclude_none=True)


def note(
    tx: Tx,
    invoice: InvoiceRow,
    act: str,
    before: dict[str, Any] | None,
    actor: Actor | str,
    *,
    text: str = "",
) -> None:
    """Put a change into the audit log, with what the person said about it."""
    after = standing(invoice) | ({"note": text} if text else {})
    audit.record(
        tx,
        invoice.organization_id,
        actor=actor,
        action=f"invoice.{act}",
        subject=invoice.id,
        before=before,
        after=after,
    )


def _end(
    tx: Tx, organization_id: str, invoice_id: str, to: State, *, text: str, actor: Actor
) -> InvoiceRow | Refused:
    invoice = locked(tx, organization_id, invoice_id)
    if invoice is None:
        return unknown(invoice_id)
    if refused := invoice_states.problem(invoice, to):
        return refused
    before = standing(invoice)
    invoice_states.apply(tx, invoice, to)
    if invoice.subscription_id is not None:
        dunning.mind(tx, organization_id, invoice.subscription_id)
    note(tx, invoice, to.lower(), before, actor, text=text)
    return invoice


def _has(outcome: Outcome) -> ColumnElement[bool]:
    """As `outcome` says."""
    state, failures = col(InvoiceRow.state), col(InvoiceRow.payment_failures)
    if outcome == "PAID":
        return state == "PAID"
    if outcome == "PENDING":
        return and_(state == "OPEN", failures == 0)
    return or_(state == "UNCOLLECTIBLE", and_(state == "OPEN", failures > 0))


def _one(organization_id: str, invoice_id: str) -> SelectOfScalar[InvoiceRow]:
    named = or_(col(InvoiceRow.id) == invoice_id, col(InvoiceRow.number) == invoice_id)
    return _of(organization_id).where(named)


def _of(organization_id: str) -> SelectOfScalar[InvoiceRow]:
    return select(InvoiceRow).where(col(InvoiceRow.organization_id) == organization_id)
