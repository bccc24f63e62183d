"""The lines of an invoice as they are kept: what a stretch of a subscription costs, less what
earlier invoices billed of it. Pure.

All invoices together bill for one charge in one period exactly its price, rounded once. So an
invoice within a period, the one that ends it and late usage are one computation: the price of all
usage of the period that is known now, less what was billed before.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import msgspec

from usageflow.billing.calculation import Line, calculate, tax
from usageflow.billing.display import span
from usageflow.billing.pricing import figure
from usageflow.catalog.charges import Terms


class Segment(NamedTuple):
    """A stretch of a subscription's time, `[start, end)`, billed under one plan version.

    `share` of a whole period is billed of what is agreed per period. While it is `running`, usage
    is billed so far, and the plan's minimum not yet.
    """

    subscription_id: str
    customer_id: str
    plan_id: str
    plan_version: int
    terms: Terms
    start: datetime
    end: datetime
    share: Fraction
    running: bool = False


class Billed(NamedTuple):
    """What invoices billed for one charge in one period: minor units, for this quantity at last."""

    amount: int
    quantity: Decimal | None


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """What `InvoiceLineRow` keeps, but for whose it is and where it stands."""

    kind: str
    description: str
    charge_id: str | None = None
    metric: str | None = None
    subscription_id: str | None = None
    plan_id: str | None = None
    plan_version: int | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    share: str = "1"
    quantity: Decimal | None
    unit_price: Decimal | None
    billed_before: int = 0
    amount: int
    steps: str = "[]"


def charge_key(line: Line) -> str:
    """What a line is told apart by within its period: base price and minimum have no charge."""
    return line.charge_id or line.kind


def period_lines(
    segment: Segment, usage: Mapping[str, Decimal], billed: Mapping[str, Billed]
) -> list[InvoiceLine]:
    """The lines of a segment. Both mappings are by `charge_key`.

    A minimum that asks for nothing, and never did, has no line.
    """
    terms = segment.terms
    if segment.running:
        terms = msgspec.structs.replace(terms, minimum=None)
    lines = [
        _kept(segment, line, billed.get(charge_key(line)))
        for line in calculate(terms, usage, share=segment.share).lines
    ]
    return [line for line in lines if line.kind != "minimum" or line.amount or line.billed_before]


def late_lines(
    segment: Segment, usage: Mapping[str, Decimal], billed: Mapping[str, Billed], zone: str
) -> list[InvoiceLine]:
    """What a segment that was billed before costs more, or less, by what is known now.

    `zone` is the one whose days name the period.
    """
    days = span(segment.start, segment.end, zone)
    return [
        msgspec.structs.replace(
            line, kind="late", description=_late_text(line, billed.get(line.charge_id or ""), days)
        )
        for line in period_lines(segment, usage, billed)
        if line.amount
    ]


class Sums(NamedTuple):
    """What an invoice comes to, in minor units."""

    subtotal: int
    tax: int
    total: int


def sums(lines: Iterable[InvoiceLine], tax_percent: Decimal | None, currency: str) -> Sums:
    """The lines' sum, the tax on it rounded once, and both together."""
    subtotal = sum(line.amount for line in lines)
    owed = 0 if tax_percent is None else tax(subtotal, tax_percent, currency)
    return Sums(subtotal, owed, subtotal + owed)


def canonical(lines: list[InvoiceLine]) -> bytes:
    """The lines as bytes that are equal only for equal lines."""
    return msgspec.json.encode(lines, order="deterministic")


def _kept(segment: Segment, line: Line, billed: Billed | None) -> InvoiceLine:
    before = 0 if billed is None else billed.amount
    return InvoiceLine(
        kind=line.kind,
        description=line.description,
        charge_id=charge_key(line),
        metric=line.metric,
        subscription_id=segment.subscription_id,
        plan_id=segment.plan_id,
        plan_version=segment.plan_version,
        period_start=segment.start,
        period_end=segment.end,
        share=str(segment.share),
        quantity=line.quantity,
        unit_price=line.unit_price,
        billed_before=before,
        amount=line.amount_minor - before,
        steps=msgspec.json.encode(line.steps).decode(),
    )


def _late_text(line: InvoiceLine, billed: Billed | None, days: str) -> str:
    if line.metric is None or line.quantity is None:
        return f"Late usage {days}: {line.description}"
    before = Decimal(0) if billed is None or billed.quantity is None else billed.quantity
    return f"Late usage {days}: {line.metric} {figure(line.quantity)} instead of {figure(before)}"
