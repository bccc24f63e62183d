"""Comparing ledger and Stripe: what is due is read, judged, and acted on, slot by slot.

Each slot is decided in one transaction that first sees that nothing has changed since Stripe was
asked; otherwise it is left for the next time. So any number of servers may compare at once, and a
crash in between loses nothing. What a sum means is told by `settlement`; nothing that a person has
to decide is decided here.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from usageflow.catalog import audit
from usageflow.db.session import Database, Tx
from usageflow.db.tables import StripeAccountRow, UnitRow
from usageflow.errors import DeliveryError
from usageflow.ledger import resolution, slots, unsettled
from usageflow.ledger.slots import Series
from usageflow.ledger.unsettled import EXPIRED, Scope
from usageflow.periods import HOUR, hour_start
from usageflow.stripe import differences, error_reports, evidence, reads
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.evidence import Evidence
from usageflow.stripe.settlement import LAG, Agrees, Decides, Differs, Judgement, Waits, judge

PAGE_HOURS: Final = 100
"""Hours in one page of Stripe's list: what one read may tell."""
PATIENCE: Final = timedelta(hours=23)
"""How long a difference that waits for a person is not read again by the scheduled job: a little
less than a day, so that it is once a day."""

_OF_THIS_READ: Final = (400, 404)
"""What Stripe answers when it is this customer or meter that it does not know."""

logger = logging.getLogger("usageflow.stripe.reconciliation")


@dataclass(slots=True)
class Report:
    """What one comparison did.

    `reads` of Stripe, slots `compared` and among them those that `agreed` and `differed`, and units
    that were `decided`. `left`: there was more, but today's reads are used up. `unread`: what could
    not be compared, and why.
    """

    reads: int = 0
    compared: int = 0
    agreed: int = 0
    differed: int = 0
    decided: int = 0
    left: bool = False
    unread: dict[str, str] = field(default_factory=dict)


class Page(NamedTuple):
    """What one read tells: hours of a series that are to be compared, and its meter."""

    series: Series
    meter_id: str
    formula: str
    hours: Sequence[datetime]
    urgent: bool


def reconcile(
    db: Database,
    account_id: str,
    gateway: StripeGateway,
    *,
    reads_per_day: int,
    since: datetime | None = None,
    everything: bool = False,
) -> Report:
    """Compare what is due for one account, and settle, decide or note a difference for each slot.

    `since`: only hours from then on. `everything`: also differences that wait for a person and were
    looked at lately. Raises DeliveryError if Stripe cannot be asked; what was compared stands.
    """
    report = Report()
    scope = _scope(db, account_id, since, everything=everything)
    for page in _pages(db, scope, reads_per_day + 1, report):
        if not reads.take(db, account_id, per_day=reads_per_day, urgent=page.urgent):
            report.left = True
            break  # what comes next is less urgent still
        _compare(db, page, gateway, report)
    error_reports.close_compared(db, scope)
    return report


def _scope(db: Database, account_id: str, since: datetime | None, *, everything: bool) -> Scope:
    with db.reading() as tx:
        account = tx.session.get_one(StripeAccountRow, account_id)
        return Scope(
            organization_id=account.organization_id,
            account_id=account_id,
            now=tx.now,
            closed=hour_start(tx.now - LAG),
            quiet=tx.now - LAG,
            patience=tx.now if everything else tx.now - PATIENCE,
            since=since,
        )


def _pages(db: Database, scope: Scope, limit: int, report: Report) -> Iterator[Page]:
    """What to read, the most pressing first; what cannot be read is told in the report."""
    with db.reading() as tx:
        found = unsettled.due(tx, scope, limit)
    for due in found:
        with db.reading() as tx:
            meter = evidence.meter(tx, due.series)
            hours = list(unsettled.due_hours(tx, scope, due.series))
        if meter is None:
            report.unread[due.series.event_name] = "no meter of this event name was listed yet"
            continue
        if meter.time_window is not None:
            report.unread[due.series.event_name] = (
                f"its meter keeps only the last event of each {meter.time_window}"
            )
            continue
        while hours:
            within = [hour for hour in hours if hour < hours[0] + PAGE_HOURS * HOUR]
            hours = hours[len(within) :]
            yield Page(due.series, meter.meter_id, meter.formula, within, due.rank == EXPIRED)


def _compare(db: Database, page: Page, gateway: StripeGateway, report: Report) -> None:
    """Read one page, and conclude on each of its slots."""
    with db.reading() as tx:
        before = evidence.gather(tx, page.series, page.formula, page.hours)
    try:
        shown = _shown(gateway, page)
    except DeliveryError as error:
        if getattr(error.__cause__, "http_status", None) not in _OF_THIS_READ:
            reads.give_back(db, page.series.account_id)
            raise
        report.unread[f"{page.series.event_name} of {page.series.stripe_customer_id}"] = str(error)
        return
    finally:
        report.reads += 1
    for hour in page.hours:
        observed = shown.get(hour, Decimal(0))
        with db.transaction() as tx:
            judgement = _conclude(tx, page, hour, before[hour], observed)
        _count(report, judgement)


def _shown(gateway: StripeGateway, page: Page) -> dict[datetime, Decimal]:
    return dict(
        gateway.event_summaries(
            page.meter_id,
            page.series.stripe_customer_id,
            page.hours[0],
            page.hours[-1] + HOUR,
            "hour",
        )
    )


def _conclude(
    tx: Tx, page: Page, hour: datetime, before: Evidence, observed: Decimal
) -> Judgement | None:
    """Judge one slot and act on it. None, and nothing is done, if it has changed since `before`."""
    series = page.series
    lane_ids = slots.lock(tx, series, hour)
    if evidence.gather(tx, series, page.formula, [hour])[hour] != before:
        return None
    row = differences.current(tx, series, [hour]).get(hour)
    slot = differences.reconsider(tx, row, before.slot, observed)
    judgement = judge(slot, observed, now=tx.now, seen=differences.seen(row))
    match judgement:
        case Agrees():
            slots.settle(tx, series, hour, lane_ids)
            if slot.suspects:
                slots.confirm(tx, series, hour, lane_ids)
            differences.resolve(tx, row)
        case Decides():
            _decide(tx, series, judgement)
            if row is not None and row.state == "open":
                differences.resolve(tx, row, judgement.reason)
        case Differs():
            if judgement.hold:
                _hold(tx, series, [doubt.unit_id for doubt in slot.doubts], judgement.reason)
            differences.record(tx, series, hour, judgement, observed=observed, row=row)
        case Waits():
            pass
    return judgement


def _decide(tx: Tx, series: Series, decides: Decides) -> None:
    """Stripe has these units, and not those: so they go out as others."""
    for unit_id in decides.applied:
        unit = tx.session.get_one(UnitRow, unit_id)
        _note(tx, series, "settle", unit, decides.reason)
        resolution.settled(tx, [unit])
    for unit_id in decides.lost:
        unit = tx.session.get_one(UnitRow, unit_id)
        _note(tx, series, "reissue", unit, decides.reason)
        resolution.reissue(tx, unit, reason=decides.reason)


def _hold(tx: Tx, series: Series, unit_ids: Sequence[int], reason: str) -> None:
    for unit_id in unit_ids:
        unit = tx.session.get_one(UnitRow, unit_id)
        if unit.state == "ambiguous":
            _note(tx, series, "hold", unit, reason)
            resolution.hold(tx, unit, reason)


def _note(tx: Tx, series: Series, action: str, unit: UnitRow, reason: str) -> None:
    """What is decided without a person can be looked up by one."""
    logger.warning("%s unit %s: %s", action, unit.identifier, reason)
    audit.record(
        tx,
        series.organization_id,
        actor=audit.SYSTEM,
        action=f"reconciliation.{action}",
        subject=unit.identifier,
        after={"reason": reason},
    )


def _count(report: Report, judgement: Judgement | None) -> None:
    report.compared += judgement is not None
    match judgement:
        case Agrees():
            report.agreed += 1
        case Decides(applied, lost):
            report.decided += len(applied) + len(lost)
        case Differs():
            report.differed += 1
