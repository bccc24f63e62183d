"""Differences between ledger and Stripe as rows: one that is current for each slot, and history.

A row without a proposal but with a quantity says that Stripe shows so much more than it should, and
that this was accepted as it is: in every later comparison so much more is expected, for ever. What
is a difference is decided in `settlement`.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import ColumnElement, bindparam
from sqlmodel import col, func, select

from usageflow.db.exact import add
from usageflow.db.session import Tx
from usageflow.db.tables import ReconciliationRow
from usageflow.ledger.slots import Series
from usageflow.stripe.settlement import Differs, Seen, Slot, explained

CURRENT: Final = ("open", "applied", "dismissed")
"""The states of a difference that is not history; a slot has one at most."""

_CURRENT: Final = col(ReconciliationRow.state).in_(
    bindparam("current", CURRENT, expanding=True, literal_execute=True)
)
"""Written out, as the partial index has it."""


def current(tx: Tx, series: Series, hours: Sequence[datetime]) -> dict[datetime, ReconciliationRow]:
    """The current difference of each of these slots that has one."""
    found = tx.session.exec(
        select(ReconciliationRow).where(
            *_of(series), col(ReconciliationRow.hour).in_(hours), _CURRENT
        )
    )
    return {row.hour: row for row in found}


def accepted(tx: Tx, series: Series, hours: Sequence[datetime]) -> dict[datetime, Decimal]:
    """By how much more Stripe may show than the units of a slot carry."""
    found = tx.session.exec(
        select(ReconciliationRow).where(
            *_of(series),
            col(ReconciliationRow.hour).in_(hours),
            col(ReconciliationRow.proposal).is_(None),
            col(ReconciliationRow.quantity).is_not(None),
        )
    )
    sums: dict[datetime, Decimal] = {}
    for row in found:
        sums[row.hour] = add(sums.get(row.hour, Decimal(0)), row.quantity or Decimal(0))
    return sums


def seen(row: ReconciliationRow | None) -> Seen | None:
    """What was seen of a slot before. One that was dismissed is expected now, not seen."""
    if row is None or row.state == "dismissed":
        return None
    return Seen(
        expected=row.expected,
        observed=row.observed,
        since=row.observed_at,
        applied=row.state == "applied",
    )


def reconsider(tx: Tx, row: ReconciliationRow | None, slot: Slot, observed: Decimal) -> Slot:
    """The slot, with what a person dismissed less what has explained itself since."""
    if row is None or row.state != "dismissed":
        return slot
    dismissed = Seen(expected=row.expected, observed=row.observed, since=row.observed_at)
    less = explained(slot, observed, dismissed=dismissed)
    if less:
        row.expected = add(row.expected, less.copy_negate())
        row.quantity = add(row.quantity or Decimal(0), less)
        row.reason = f"{row.reason}; {less:f} of that is not expected any more"
        tx.session.flush()
    return replace(slot, expected=add(slot.expected, less))


def record(
    tx: Tx,
    series: Series,
    hour: datetime,
    differs: Differs,
    *,
    observed: Decimal,
    row: ReconciliationRow | None,
) -> None:
    """Note that the slot differs, in its current `row` or a new one. Its lanes must be locked."""
    if row is not None and row.state == "dismissed":
        row.state, row = "resolved", None
        tx.session.flush()
    if row is None:
        row = _new(tx, series, hour)
    proposal = differs.proposal
    row.expected, row.observed = differs.expected, observed
    row.classification, row.reason = differs.classification, differs.reason
    row.proposal = proposal.kind if proposal else None
    row.quantity = proposal.quantity if proposal else None
    row.identifier = proposal.identifier if proposal else None
    row.state = "open"
    row.observed_at, row.checked_at = differs.since, tx.now
    tx.session.add(row)
    tx.session.flush()


def resolve(tx: Tx, row: ReconciliationRow | None, reason: str | None = None) -> None:
    """The slot is as it should be. What was dismissed stays so."""
    if row is None:
        return
    row.checked_at = tx.now
    if row.state != "dismissed":
        row.state, row.reason = "resolved", reason or row.reason
    tx.session.flush()


def accept(tx: Tx, series: Series, hour: datetime, quantity: Decimal, reason: str) -> None:
    """Expect `quantity` more of this slot from now on than its units carry."""
    row = _new(tx, series, hour)
    row.state, row.classification, row.reason = "resolved", "unsettled", reason
    row.expected, row.observed, row.quantity = Decimal(0), quantity, quantity
    tx.session.add(row)
    tx.session.flush()


def listed(
    tx: Tx, organization_id: str, *, account_id: str | None = None
) -> Sequence[ReconciliationRow]:
    """What differs or is being corrected, the oldest hour first."""
    found = select(ReconciliationRow).where(
        col(ReconciliationRow.organization_id) == organization_id,
        col(ReconciliationRow.state).in_(("open", "applied")),
    )
    if account_id is not None:
        found = found.where(col(ReconciliationRow.account_id) == account_id)
    return tx.session.exec(
        found.order_by(col(ReconciliationRow.hour), col(ReconciliationRow.id))
    ).all()


def listing(
    tx: Tx,
    organization_id: str,
    *,
    states: Sequence[str],
    event_name: str | None = None,
    offset: int,
    limit: int,
) -> tuple[list[ReconciliationRow], int]:
    """Differences in these states, the oldest hour first, and how many there are."""
    wanted = [
        col(ReconciliationRow.organization_id) == organization_id,
        col(ReconciliationRow.state).in_(states),
    ]
    if event_name is not None:
        wanted.append(col(ReconciliationRow.event_name) == event_name)
    rows = tx.session.exec(
        select(ReconciliationRow)
        .where(*wanted)
        .order_by(col(ReconciliationRow.hour), col(ReconciliationRow.id))
        .offset(offset)
        .limit(limit)
    ).all()
    total = tx.session.exec(
        select(func.count()).select_from(ReconciliationRow).where(*wanted)
    ).one()
    return list(rows), total


def find(tx: Tx, organization_id: str, difference_id: int) -> ReconciliationRow | None:
    """One difference of this organization."""
    row = tx.session.get(ReconciliationRow, difference_id)
    return row if row is not None and row.organization_id == organization_id else None


def series_of(row: ReconciliationRow) -> Series:
    """Whose sum it is about."""
    return Series(row.organization_id, row.account_id, row.stripe_customer_id, row.event_name)


def _new(tx: Tx, series: Series, hour: datetime) -> ReconciliationRow:
    return ReconciliationRow(
        **series._asdict(),
        hour=hour,
        first_seen_at=tx.now,
        observed_at=tx.now,
        checked_at=tx.now,
    )


def _of(series: Series) -> tuple[ColumnElement[bool], ...]:
    return (
        col(ReconciliationRow.organization_id) == series.organization_id,
        col(ReconciliationRow.account_id) == series.account_id,
        col(ReconciliationRow.stripe_customer_id) == series.stripe_customer_id,
        col(ReconciliationRow.event_name) == series.event_name,
    )
