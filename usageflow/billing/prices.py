"""What closing reads, for many subscriptions at once: usage, what was billed before, settings.

One `Prices` belongs to one transaction and one organization. What was not foreseen is read when it
is asked for, so that one subscription needs no preparation.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple, TypeAlias

from sqlalchemy import select
from sqlmodel import col
from sqlmodel import select as select_rows

from usageflow.billing import parties
from usageflow.billing.late import IN_FLIGHT, LATE_DAYS, PastLine, billed, earlier
from usageflow.billing.lines import InvoiceLine, Segment, late_lines, period_lines
from usageflow.catalog import organization_settings, plans
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, MetricRow
from usageflow.ledger import aggregation
from usageflow.ledger.aggregation import Ask, Quantity
from usageflow.money import AMOUNT_MAX

_Key: TypeAlias = tuple[str, datetime, datetime, str | None]


class Wanted(NamedTuple):
    """An invoice to be computed: of this segment, in a subscription with days of this `zone`.

    Late usage is looked for in earlier periods that changed `since` (None: in none), and in those
    that began at one of `again`. What invoices billed counts that were made `before` the one of
    this id (None: all). Ids sort by age, and invoices are issued in that order.
    """

    segment: Segment
    zone: str
    since: datetime | None
    again: frozenset[datetime] = frozenset()
    before: str | None = None

    @property
    def key(self) -> _Key:
        """What tells it from every other."""
        return self.segment.subscription_id, self.segment.start, self.segment.end, self.before

    @property
    def horizon(self) -> datetime:
        """Periods that ended before it are settled.

        Lines were computed at `since` at the latest, and then it was `LATE_DAYS` before the start
        of the period: however long a pause was, what came late before it is found.
        """
        return min(self.segment.start, self.since or self.segment.start, *self.again) - LATE_DAYS


class Bill(NamedTuple):
    """Lines, and the metrics among them of which Stripe was sent usage to price too.

    `too_large` is the line that nobody can pay, for which the others were left out.
    """

    lines: list[InvoiceLine]
    forwarded: list[str]
    too_large: InvoiceLine | None = None

    def bounded(self) -> "Bill":
        """The same, or without lines if they come to more than an invoice can be over."""
        if sum(abs(line.amount) for line in self.lines) <= AMOUNT_MAX:
            return self
        return Bill([], self.forwarded, max(self.lines, key=lambda line: abs(line.amount)))


class _Foreseen(NamedTuple):
    past: list[PastLine]
    late: list[Segment]


class Prices:
    """The reads of one transaction."""

    def __init__(self, tx: Tx, organization_id: str) -> None:
        self._tx = tx
        self._organization_id = organization_id
        self.settings = organization_settings.read(tx, organization_id)
        self.watermark = aggregation.watermark(tx, organization_id)
        metrics = table(MetricRow).c
        self._metrics = {
            row.key: row
            for row in tx.session.execute(
                select(metrics.key, metrics.aggregation, metrics.unit).where(
                    metrics.organization_id == organization_id
                )
            )
        }
        self._customers: dict[str, CustomerRow] = {}
        self._foreseen: dict[_Key, _Foreseen] = {}
        self._usage: dict[Ask, Quantity] = {}

    def bill(self, wanted: Wanted) -> Bill:
        """The lines of the segment, then those of late usage before it."""
        if wanted.key not in self._foreseen:
            self.foresee([wanted])
        past, late = self._foreseen.pop(wanted.key)  # what comes of it is past for the next one
        segment = wanted.segment
        lines = period_lines(segment, self._totals(segment), billed(past, segment.start))
        for one in late:
            lines += late_lines(one, self._totals(one), billed(past, one.start), wanted.zone)
        return Bill(lines, self._forwarded([segment, *late], lines))

    def foresee(self, wanted: Collection[Wanted]) -> None:
        """Read what the bills of all of these need, and whom they are for."""
        self._know({one.segment.customer_id for one in wanted})
        past = self._past_lines(wanted)
        used = {(line.plan_id, line.plan_version) for lines in past.values() for line in lines}
        terms = plans.terms_of_many(self._tx, used) if used else {}
        found = {}
        for one in wanted:
            known = past.get(one.segment.subscription_id, [])
            lines = [line for line in known if _counts(one, line)]
            found[one.key] = _Foreseen(lines, earlier(one.segment, lines, terms, one.horizon))
        changed = self._changed(wanted, found)
        asks = set[Ask]()
        for one in wanted:
            lines, before = found[one.key]
            late = [it for it in before if one.key in changed or it.start in one.again]
            self._foreseen[one.key] = _Foreseen(lines, late)
            asks.update(*(self._asks(segment).values() for segment in (one.segment, *late)))
        self._usage |= self.quantities(asks)

    def usage(self, segment: Segment) -> dict[str, Decimal]:
        """What each usage charge of the segment is about comes to, by charge."""
        self._usage |= self.quantities(self._asks(segment).values())
        return self._totals(segment)

    def quantities(self, asks: Collection[Ask]) -> dict[Ask, Quantity]:
        """What usage comes to, as far as the ledger knows today."""
        return aggregation.quantities(self._tx, self._organization_id, asks)

    def customer(self, customer_id: str) -> CustomerRow:
        """Who pays."""
        if customer_id not in self._customers:
            self._know({customer_id})
        return self._customers[customer_id]

    def tax_percent(self, customer: CustomerRow) -> Decimal | None:
        """The customer's tax, else the organization's; None: none is charged."""
        own = customer.tax_percent
        return self.settings.tax_percent if own is None else own

    @cached_property
    def issuer(self) -> str:
        """Who bills, as it is frozen on an invoice."""
        return parties.frozen(parties.issuer(self._tx, self._organization_id))

    def unit(self, metric: str | None) -> str:
        """What the metric counts, as it is called today."""
        return self._metrics[metric].unit if metric in self._metrics else ""

    def _know(self, customers: Collection[str]) -> None:
        rows = self._tx.session.exec(
            select_rows(CustomerRow).where(
                col(CustomerRow.organization_id) == self._organization_id,
                col(CustomerRow.id).in_(customers),
            )
        )
        self._customers |= {row.id: row for row in rows}

    def _past_lines(self, wanted: Collection[Wanted]) -> dict[str, list[PastLine]]:
        """The lines of every subscription, oldest invoice first."""
        line, invoice = table(InvoiceLineRow).c, table(InvoiceRow).c
        columns = [line[name] for name in PastLine._fields]
        statement = (
            select(*columns)
            .join(table(InvoiceRow), invoice.id == line.invoice_id)
            .where(
                line.organization_id == self._organization_id,
                line.subscription_id.in_({one.segment.subscription_id for one in wanted}),
                line.period_end > min(one.horizon for one in wanted),
            )
            .order_by(invoice.created_at, line.id)
        )
        found: dict[str, list[PastLine]] = {}
        for row in self._tx.session.execute(statement):
            found.setdefault(row.subscription_id, []).append(PastLine(*row))
        return found

    def _changed(self, wanted: Collection[Wanted], found: dict[_Key, _Foreseen]) -> set[_Key]:
        """Those in whose earlier periods anything changed since they were billed."""
        stretches = {
            one.key: self._stretch(one.segment, found[one.key].late)
            for one in wanted
            if one.since is not None and found[one.key].late
        }
        since = [one.since for one in wanted if one.since is not None and one.key in stretches]
        if not since:
            return set()
        asks = {ask for stretch in stretches.values() for ask in stretch}
        changed = aggregation.changed_since(
            self._tx, self._organization_id, asks, min(since) - IN_FLIGHT
        )
        return {key for key, stretch in stretches.items() if not changed.isdisjoint(stretch)}

    def _stretch(self, segment: Segment, before: list[Segment]) -> set[Ask]:
        """All usage that is billed of the time from the first earlier period to this one."""
        return {
            ask._replace(start=before[0].start, end=segment.start)
            for one in before
            for ask in self._asks(one).values()
        }

    def _asks(self, segment: Segment) -> dict[str, Ask]:
        """What the segment's usage charges are about, by charge."""
        return {
            charge.id: Ask(
                segment.customer_id,
                charge.metric,
                self._metrics[charge.metric].aggregation,
                segment.start,
                segment.end,
            )
            for charge in segment.terms.charges
            if charge.active and charge.metric is not None
        }

    def _totals(self, segment: Segment) -> dict[str, Decimal]:
        return {charge: self._usage[ask].quantity for charge, ask in self._asks(segment).items()}

    def _forwarded(self, segments: Iterable[Segment], lines: list[InvoiceLine]) -> list[str]:
        """The metrics that are billed here and of which usage went to Stripe as well."""
        sent = {
            ask.metric
            for segment in segments
            for ask in self._asks(segment).values()
            if self._usage[ask].forwarded
        }
        return sorted(sent & {line.metric for line in lines if line.metric is not None})


def _counts(wanted: Wanted, line: PastLine) -> bool:
    """Whether what this line bills was billed before."""
    return wanted.before is None or line.invoice_id < wanted.before
