"""What a customer sees who comes by a link: the period that is running, and its invoices.

Values for a page, as they stand on it. Drafts, and invoices of what Stripe charges for, are not
among them: nobody is to pay those.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final, NamedTuple

from sqlmodel import col, select

from usageflow.billing import display, documents, parties, preview, subscriptions
from usageflow.billing.documents import due
from usageflow.billing.lines import InvoiceLine
from usageflow.billing.portal import Visitor
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow, PlanRow, SubscriptionRow
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, MetricRow

INVOICES_SHOWN_MAX: Final = 60
"""Five years of monthly ones; older ones are sent on asking."""

_STANDING: Final[Mapping[str, str]] = {
    "TRIAL": "Trial",
    "ACTIVE": "Active",
    "PAST_DUE": "Payment overdue",
    "PAUSED": "Paused",
    "SUSPENDED": "Suspended",
}
"""A subscription's states, in words for who pays."""


class Line(NamedTuple):
    """A line of a bill."""

    description: str
    quantity: str
    amount: str


class Running(NamedTuple):
    """A subscription and the period it is in; `sum_` is what would be billed if it ended now."""

    plan: str
    standing: str
    period: str
    lines: tuple[Line, ...]
    sum_: str
    note: str


class Issued(NamedTuple):
    """An invoice. `overdue`: it should have been paid by now."""

    invoice_id: str
    number: str
    issued: str
    period: str
    total: str
    standing: str
    overdue: bool
    payment_url: str | None
    lines: tuple[Line, ...]


class PortalPage(NamedTuple):
    """All of it. `more`: there are older invoices."""

    organization: str
    customer: str
    time_zone: str
    open_until: str
    running: tuple[Running, ...]
    invoices: tuple[Issued, ...]
    more: bool


def page(tx: Tx, visitor: Visitor) -> PortalPage:
    """What the visitor sees now."""
    organization_id = visitor.organization_id
    issuer = parties.issuer(tx, organization_id)
    payer = parties.payer(tx.session.get_one(CustomerRow, visitor.customer_id))
    rows = tx.session.exec(
        select(InvoiceRow)
        .where(
            InvoiceRow.organization_id == organization_id,
            InvoiceRow.customer_id == visitor.customer_id,
            InvoiceRow.state != "DRAFT",
        )
        .order_by(col(InvoiceRow.issued_at).desc(), col(InvoiceRow.id).desc())
        .limit(INVOICES_SHOWN_MAX + 1)
    ).all()
    shown = rows[:INVOICES_SHOWN_MAX]
    lines = _lines(tx, shown)
    return PortalPage(
        organization=issuer.name,
        customer=payer.name,
        time_zone=issuer.time_zone,
        open_until=display.moment(visitor.expires_at, issuer.time_zone),
        running=tuple(
            _running(tx, row, issuer.time_zone)
            for row in subscriptions.of_customer(tx, organization_id, visitor.customer_id)
        ),
        invoices=tuple(
            issued(row, lines.get(row.id, ()), tx.now, issuer.time_zone) for row in shown
        ),
        more=len(rows) > len(shown),
    )


def sees(tx: Tx, visitor: Visitor, invoice_id: str) -> bool:
    """Whether an invoice is among those that the visitor sees."""
    row = tx.session.get(InvoiceRow, invoice_id)
    if row is None or row.state == "DRAFT":
        return False
    whose = row.organization_id, row.customer_id
    return whose == (visitor.organization_id, visitor.customer_id)


def _lines(tx: Tx, rows: Sequence[InvoiceRow]) -> dict[str, tuple[Line, ...]]:
    """The lines of these invoices, by invoice."""
    currency = {row.id: row.currency for row in rows}
    found = tx.session.exec(
        select(InvoiceLineRow)
        .where(col(InvoiceLineRow.invoice_id).in_(currency))
        .order_by(col(InvoiceLineRow.invoice_id), col(InvoiceLineRow.position))
    )
    return {
        invoice_id: tuple(_line(line, line.unit, currency[invoice_id]) for line in lines)
        for invoice_id, lines in groupby(found, key=lambda line: line.invoice_id)
    }


def _line(line: InvoiceLineRow | InvoiceLine, unit: str, currency: str) -> Line:
    """With what earlier invoices billed of it, or the amount beside the quantity were a riddle."""
    quantity = "" if line.quantity is None else documents.quantity(line.quantity, unit)
    before = display.amount(line.billed_before, currency)
    description = f"{line.description} (billed before: {before})"
    return Line(
        description if line.billed_before else line.description,
        quantity,
        display.amount(line.amount, currency),
    )


def _tax(minor: int, currency: str) -> tuple[Line, ...]:
    """The line without which the others would not add up to the total."""
    return (Line("Tax", "", display.amount(minor, currency)),) if minor else ()


def _running(tx: Tx, row: SubscriptionRow, zone: str) -> Running:
    plan = tx.session.get_one(PlanRow, row.plan_id)
    now = preview.running(tx, row.organization_id, row.id)
    assert not isinstance(now, Refused)  # noqa: S101 - it was found a moment ago
    units = _units(tx, row.organization_id)
    return Running(
        plan=plan.name,
        standing=_STANDING[row.state],
        period=display.span(row.period_start, row.period_end, zone),
        lines=(
            *(_line(line, units.get(line.metric or "", ""), now.currency) for line in now.lines),
            *_tax(now.sums.tax, now.currency),
        ),
        sum_=display.money(now.sums.total, now.currency),
        note=_note(row, zone),
    )


def _note(row: SubscriptionRow, zone: str) -> str:
    """What is going to happen, or why nothing is billed."""
    if row.state == "TRIAL" and row.trial_end is not None:
        return (
            f"The trial ends on {display.day(row.trial_end, zone)}; until then nothing is billed."
        )
    if row.state == "PAUSED":
        return "Nothing is billed while the subscription is paused."
    if row.cancel_at_period_end:
        return f"The subscription ends on {display.day(row.period_end, zone)}."
    return ""


def _units(tx: Tx, organization_id: str) -> dict[str, str]:
    """What each metric is counted in."""
    rows = tx.session.exec(
        select(MetricRow.key, MetricRow.unit).where(MetricRow.organization_id == organization_id)
    )
    return dict(rows.all())


def issued(row: InvoiceRow, lines: tuple[Line, ...], now: datetime, zone: str) -> Issued:
    """An invoice as it is shown. Pure."""
    period = ""
    if row.period_start is not None and row.period_end is not None:
        period = display.span(row.period_start, row.period_end, zone)
    url = row.payment_url or ""
    overdue = row.state == "OPEN" and row.due_at is not None and row.due_at < now
    return Issued(
        invoice_id=row.id,
        number=row.number or "",
        issued="" if row.issued_at is None else display.day(row.issued_at, zone),
        period=period,
        total=display.money(row.total, row.currency),
        standing=_standing(row, zone, overdue=overdue),
        overdue=overdue,
        payment_url=url if row.state == "OPEN" and url.startswith("https://") else None,
        lines=(*lines, *_tax(row.tax, row.currency)) if lines else (),
    )


def _standing(row: InvoiceRow, zone: str, *, overdue: bool) -> str:
    """What has become of an invoice, or is to."""
    if row.state == "PAID":
        return "Paid" if row.paid_at is None else f"Paid on {display.day(row.paid_at, zone)}"
    if row.state == "VOID":
        return "Void, nothing to pay"
    owed = display.money(due(row), row.currency)
    if row.due_at is None or row.state == "UNCOLLECTIBLE":
        return f"{owed} unpaid"
    return f"{owed} {'was due' if overdue else 'due'} on {display.day(row.due_at, zone)}"
