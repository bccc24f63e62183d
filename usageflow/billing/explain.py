"""The arithmetic of an invoice, so that a person can redo it with paper and pencil. Pure.

Everything here is read from what is kept with the invoice; nothing is computed anew.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from usageflow.billing.display import amount, money
from usageflow.billing.pricing import Step, figure, priced
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.money import from_minor, plain


class LineExplained(msgspec.Struct, frozen=True, kw_only=True):
    """A line: its steps add up to `exact`, rounded once to `rounded`; less what was billed before,
    that is `amount`. Money is in major units.
    """

    position: int
    kind: str
    description: str
    metric: str | None
    unit: str
    quantity: Decimal | None
    period_start: datetime | None
    period_end: datetime | None
    share: str
    plan_version: int | None
    steps: tuple[Step, ...]
    exact: Decimal
    rounded: Decimal
    billed_before: Decimal
    amount: Decimal


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice: the sum of its lines, the tax on it rounded once, and both together."""

    invoice_id: str
    number: str | None
    status: str
    currency: str
    watermark: int | None
    lines: tuple[LineExplained, ...]
    subtotal: Decimal
    tax_percent: Decimal | None
    tax: Decimal
    total: Decimal
    text: str


def explain(invoice: InvoiceRow, lines: Sequence[InvoiceLineRow]) -> Explanation:
    """The invoice, explained: as values, and in words."""
    currency = invoice.currency
    explained = tuple(_line(line, currency) for line in lines)
    return Explanation(
        invoice_id=invoice.id,
        number=invoice.number,
        status=invoice.state,
        currency=currency,
        watermark=invoice.watermark,
        lines=explained,
        subtotal=from_minor(invoice.subtotal, currency),
        tax_percent=invoice.tax_percent,
        tax=from_minor(invoice.tax, currency),
        total=from_minor(invoice.total, currency),
        text="\n".join(_text(invoice, lines, explained)) + "\n",
    )


def _line(line: InvoiceLineRow, currency: str) -> LineExplained:
    steps = msgspec.json.decode(line.steps, type=tuple[Step, ...])
    return LineExplained(
        position=line.position,
        kind=line.kind,
        description=line.description,
        metric=line.metric,
        unit=line.unit,
        quantity=line.quantity,
        period_start=line.period_start,
        period_end=line.period_end,
        share=line.share,
        plan_version=line.plan_version,
        steps=steps,
        exact=priced(steps).amount,
        rounded=from_minor(line.amount + line.billed_before, currency),
        billed_before=from_minor(line.billed_before, currency),
        amount=from_minor(line.amount, currency),
    )


def _text(
    invoice: InvoiceRow, lines: Sequence[InvoiceLineRow], explained: Sequence[LineExplained]
) -> Iterator[str]:
    currency = invoice.currency
    yield f"Invoice {invoice.number or invoice.id}, {invoice.state}, in {currency}"
    if invoice.watermark is not None:
        yield f"computed from the ledger up to event number {invoice.watermark}"
    for row, line in zip(lines, explained, strict=True):
        yield ""
        yield from _line_text(row, line, currency)
    yield ""
    added = " + ".join(amount(row.amount, currency) for row in lines) or "0"
    yield f"Subtotal: {added} = {amount(invoice.subtotal, currency)}"
    if invoice.tax_percent is not None:
        product = f"{amount(invoice.subtotal, currency)} x {plain(invoice.tax_percent)} / 100"
        yield f"Tax: {product}, rounded = {amount(invoice.tax, currency)}"
    yield (
        f"Total: {amount(invoice.subtotal, currency)} + {amount(invoice.tax, currency)} = "
        f"{money(invoice.total, currency)}"
    )


def _line_text(row: InvoiceLineRow, line: LineExplained, currency: str) -> Iterator[str]:
    of = ", ".join(part for part in (_usage(line), _period(line)) if part)
    yield f"{row.position}. {row.description}" + (f" ({of})" if of else "")
    for step in line.steps:
        yield f"     {step.text}"
    owed = amount(row.amount + row.billed_before, currency)
    yield f"   = {figure(line.exact)}, rounded {owed}"
    if row.billed_before:
        before = amount(row.billed_before, currency)
        yield f"   - {before} billed before = {amount(row.amount, currency)}"


def _usage(line: LineExplained) -> str:
    """What was counted, as it is called."""
    if line.metric is None or line.quantity is None:
        return ""
    unit = f" {line.unit}" if line.unit else ""
    return f"{line.metric}: {figure(line.quantity)}{unit}"


def _period(line: LineExplained) -> str:
    if line.period_start is None or line.period_end is None:
        return ""
    share = "" if line.share == "1" else f", {line.share} of a period"
    version = f", version {line.plan_version} of the plan" if line.plan_version else ""
    return f"{line.period_start.isoformat()} to {line.period_end.isoformat()}{share}{version}"
