"""Recomputing an issued invoice: from the events of the ledger up to its watermark and the terms of
its plan version, neither of which ever changes.

Not from windows, which are derived: so this is evidence of a second kind.
"""

from collections.abc import Collection, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import select

from usageflow.billing.contents import Content, content, wanted
from usageflow.billing.display import amount as shown
from usageflow.billing.lines import InvoiceLine, canonical, sums
from usageflow.billing.prices import Prices
from usageflow.billing.pricing import figure
from usageflow.catalog.refusals import Refused
from usageflow.db import exact
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import UsageEventRow
from usageflow.ledger.aggregation import Ask, Quantity
from usageflow.money import EXACT, to_minor

EVENTS_AT_ONCE: Final = 5_000
"""Events in memory while they are added up."""


def differences(tx: Tx, invoice: InvoiceRow) -> list[str] | Refused:
    """How the invoice would differ if it were computed again, in words; [] if not in a byte."""
    if invoice.number is None:
        return Refused("conflict", "a draft is computed anew when it is issued")
    kept = content(tx, invoice)
    stored = kept.values()
    lines = _lines(tx, invoice, kept)
    found = list(_of_lines(stored, lines, invoice.currency))
    if not found and canonical(stored) != canonical(lines):
        found.append("the lines differ in their wording or their steps")
    for name, was, now in zip(
        ("subtotal", "tax", "total"),
        (invoice.subtotal, invoice.tax, invoice.total),
        sums(lines, invoice.tax_percent, invoice.currency),
        strict=True,
    ):
        if was != now:
            found.append(_words(f"the {name}", *(shown(it, invoice.currency) for it in (was, now))))
    return found


class _LedgerPrices(Prices):
    """Reads every event, up to a place in the ledger."""

    def __init__(self, tx: Tx, organization_id: str, up_to: int) -> None:
        super().__init__(tx, organization_id)
        self._up_to = up_to

    def quantities(self, asks: Collection[Ask]) -> dict[Ask, Quantity]:
        """What usage came to then."""
        return {ask: _added_up(ask.aggregation, self._events(ask)) for ask in asks}

    def _events(self, ask: Ask) -> Iterator["_Event"]:
        events = table(UsageEventRow).c
        statement = select(*(events[name] for name in _Event._fields)).where(
            events.organization_id == self._organization_id,
            events.customer_id == ask.customer_id,
            events.metric == ask.metric,
            events.occurred_at >= ask.start,
            events.occurred_at < ask.end,
            events.state == "counted",
            events.seq <= self._up_to,
        )
        options = {"yield_per": EVENTS_AT_ONCE}
        for row in self._tx.session.execute(statement, execution_options=options):
            yield _Event(*row)


class _Event(NamedTuple):
    quantity: Decimal
    occurred_at: datetime
    seq: int
    unique_value: str | None
    event_name: str | None


def _added_up(aggregation: str, events: Iterator[_Event]) -> Quantity:
    """The events as their metric aggregates them, one after the other."""
    total = maximum = last = forwarded = Decimal(0)
    last_at: tuple[datetime, int] | None = None
    values, count = set[str](), 0
    for event in events:
        count += 1
        total = exact.add(total, event.quantity)
        maximum = max(maximum, event.quantity)
        if last_at is None or (event.occurred_at, event.seq) > last_at:
            last, last_at = event.quantity, (event.occurred_at, event.seq)
        if event.unique_value is not None:
            values.add(event.unique_value)
        if event.event_name is not None:
            forwarded = exact.add(forwarded, event.quantity)
    found = {
        "SUM": total,
        "COUNT": Decimal(count),
        "MAX": maximum,
        "LAST": last,
        "UNIQUE_COUNT": Decimal(len(values)),
    }
    return Quantity(found[aggregation], count, forwarded)


def _lines(tx: Tx, invoice: InvoiceRow, kept: Content) -> list[InvoiceLine]:
    """What would be on it."""
    if kept.subscription is None:
        return [_priced_again(line, invoice.currency) for line in kept.values()]
    prices = _LedgerPrices(tx, invoice.organization_id, invoice.watermark or 0)
    return prices.bill(wanted(invoice, kept, since=None)).lines


def _priced_again(line: InvoiceLine, currency: str) -> InvoiceLine:
    """A line that a person wrote: its quantity times its price."""
    assert line.quantity is not None  # noqa: S101 - see `manual`
    assert line.unit_price is not None  # noqa: S101 - see `manual`
    return msgspec.structs.replace(
        line, amount=to_minor(EXACT.multiply(line.quantity, line.unit_price), currency)
    )


def _of_lines(stored: list[InvoiceLine], again: list[InvoiceLine], currency: str) -> Iterator[str]:
    """The lines that differ, by charge and period."""
    then, now = _by_place(stored), _by_place(again)
    for place, line in then.items():
        if place not in now:
            yield f"{line.description}: on the invoice, and would not be"
        else:
            yield from _of_line(line, now[place], currency)
    for place, line in now.items():
        if place not in then:
            yield f"{line.description}: not on the invoice, and would be"


def _of_line(then: InvoiceLine, now: InvoiceLine, currency: str) -> Iterator[str]:
    facts = zip(_facts(then, currency), _facts(now, currency), strict=True)
    for (name, was), (_, would_be) in facts:
        if was != would_be:
            yield _words(f"{then.description}: {name}", was, would_be)


def _facts(line: InvoiceLine, currency: str) -> list[tuple[str, str]]:
    return [
        ("quantity", figure(line.quantity or Decimal(0))),
        ("billed before", shown(line.billed_before, currency)),
        ("amount", shown(line.amount, currency)),
    ]


def _words(what: str, was: str, now: str) -> str:
    return f"{what} is {was} on the invoice, and would be {now}"


def _by_place(lines: list[InvoiceLine]) -> dict[tuple[Any, ...], InvoiceLine]:
    """Lines of charges by charge and period, those of a person by their order."""
    return {
        (line.charge_id, line.period_start) if line.charge_id else (index,): line
        for index, line in enumerate(lines)
    }
