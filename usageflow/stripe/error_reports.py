"""Stripe's error reports: meter events that it took with a 200 and dropped afterwards.

A report counts the events of a few seconds and names only some. Those that are ours and named are
dealt with at once. If others are left, every unit that was accepted in that time is suspect, and
its slot is compared without waiting for the hour to end: a comparison tells what is missing.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlmodel import col, select

from usageflow.catalog import audit
from usageflow.db.session import Database, Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import ErrorReportRow, LaneRow, StripeMeterRow, UnitRow
from usageflow.errors import DatabaseError
from usageflow.ledger import resolution, unsettled
from usageflow.ledger.slots import COUNTED
from usageflow.ledger.unsettled import Scope
from usageflow.stripe import cursor, directory
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.inbound import ErrorReport, Sample

CUSTOMER_NOT_FOUND: Final = "meter_event_customer_not_found"
"""The one code that a later try may mend: the customer is looked up anew."""
WINDOW_SLACK: Final = timedelta(seconds=60)
"""How far Stripe's clock, and the time until our answer, may be off the window it tells."""

logger = logging.getLogger("usageflow.stripe.error_reports")


def consume(tx: Tx, account_id: str, report: ErrorReport) -> bool:
    """Take a report into account, once; False if it was before."""
    if not _insert(tx, account_id, report):
        return False
    units = _named(tx, account_id, report.samples)
    explained = sum(_told(tx, units.get(one.identifier), one) for one in report.samples)
    row = tx.session.get_one(ErrorReportRow, (account_id, report.event_id))
    row.explained = min(explained, report.error_count)
    row.state = "closed" if row.explained == report.error_count else "open"
    tx.session.flush()
    logger.warning(
        "Stripe dropped %d meter events between %s and %s UTC: %s",
        *(report.error_count, report.window_start, report.window_end, report.message),
    )
    return True


def poll(
    db: Database, account_id: str, gateway: StripeGateway, since: datetime | None = None
) -> int:
    """Ask for reports that no webhook may have brought; how many were new.

    By default for those since events may have been missed. One that cannot be understood is
    skipped. Raises DeliveryError if Stripe cannot be asked, DatabaseError if the database fails.
    """
    if since is None:
        with db.reading() as tx:
            since = cursor.askable(tx, cursor.missed_since(tx, account_id))
    new = 0
    for report in gateway.error_reports_since(since):
        try:
            with db.reading() as tx:
                if _is_known(tx, account_id, report):
                    continue
            with db.transaction() as tx:
                new += consume(tx, account_id, report)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("error report %r is skipped", report.event_id)
    return new


def close_compared(db: Database, scope: Scope) -> None:
    """Close the reports of an account that have no suspect left which was not compared since."""
    with db.transaction() as tx:
        reports = tx.session.exec(
            select(ErrorReportRow).where(
                col(ErrorReportRow.account_id) == scope.account_id,
                col(ErrorReportRow.state) == "open",
            )
        ).all()
        for report in reports:
            if not unsettled.is_suspected(tx, scope, report.event_id):
                report.state = "closed"


def _is_known(tx: Tx, account_id: str, report: ErrorReport) -> bool:
    return tx.session.get(ErrorReportRow, (account_id, report.event_id)) is not None


def _insert(tx: Tx, account_id: str, report: ErrorReport) -> bool:
    row = {
        "account_id": account_id,
        "event_id": report.event_id,
        "event_name": _event_name(tx, account_id, report.meter_id),
        "codes": msgspec.json.encode(report.codes).decode(),
        "message": report.message,
        "error_count": report.error_count,
        "explained": 0,
        "window_start": report.window_start - WINDOW_SLACK,
        "window_end": report.window_end + WINDOW_SLACK,
        "state": "open",
        "received_at": tx.now,
    }
    key = ["account_id", "event_id"]
    return bool(insert_new(tx, ErrorReportRow, [row], key=key, give="state"))


def _event_name(tx: Tx, account_id: str, meter_id: str | None) -> str | None:
    """The event name of the meter that a report is about; None: it may be any."""
    meters = select(StripeMeterRow.event_name).where(
        col(StripeMeterRow.account_id) == account_id, col(StripeMeterRow.meter_id) == meter_id
    )
    return tx.session.exec(meters).first()


def _named(tx: Tx, account_id: str, samples: Sequence[Sample]) -> Mapping[str | None, UnitRow]:
    """Our units among these, by identifier, with their lanes locked; customers that do not exist
    are forgotten.
    """
    missing = {one.identifier for one in samples if one.code == CUSTOMER_NOT_FOUND}
    ours = (
        select(UnitRow)
        .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        .where(
            col(LaneRow.account_id) == account_id,
            col(UnitRow.identifier).in_({one.identifier for one in samples if one.identifier}),
        )
        .execution_options(populate_existing=True)
    )
    before = tx.session.exec(ours).all()
    gone = {str(unit.stripe_customer_id) for unit in before if unit.identifier in missing}
    directory.forget_all(tx, account_id, gone, {unit.lane_id for unit in before})
    return {unit.identifier: unit for unit in tx.session.exec(ours)}


def _told(tx: Tx, unit: UnitRow | None, sample: Sample) -> bool:
    """Deal with one event that was named; whether it is explained by that.

    One that is not ours needs no more. One that was settled is no more: Stripe has shown it, but
    says now that it dropped it. One that is being sent right now is not decided here: it is a
    suspect once it is accepted.
    """
    if unit is None:
        return sample.identifier is not None
    if unit.state in COUNTED and not _may_be_mended(tx, unit, sample.code):
        _note(tx, unit, "reject", sample)
        resolution.reject(tx, unit, sample.code, sample.message)
    elif unit.state in (*COUNTED, "ambiguous"):
        _note(tx, unit, "reissue", sample)
        resolution.reissue(tx, unit, reason=f"{sample.code}: {sample.message}")
    return unit.state != "sending"


def _may_be_mended(tx: Tx, unit: UnitRow, code: str) -> bool:
    """Whether another unit may fare better: not if the last one had the same customer already."""
    last = None if unit.parent_id is None else tx.session.get_one(UnitRow, unit.parent_id)
    tried = last is not None and last.stripe_customer_id == unit.stripe_customer_id
    return code == CUSTOMER_NOT_FOUND and not tried


def _note(tx: Tx, unit: UnitRow, action: str, sample: Sample) -> None:
    audit.record(
        tx,
        unit.organization_id,
        actor=audit.SYSTEM,
        action=f"error_report.{action}",
        subject=unit.identifier,
        after={"code": sample.code, "message": sample.message},
    )
