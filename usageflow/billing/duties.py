"""What the worker does for billing, batch by batch: periods, drafts, payments, arrears.

On PostgreSQL several workers share the work: each takes rows that no other holds. What fails, fails
alone: it is told, and tried again later, and the others of its batch go on.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import exists, or_, union
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from usageflow.billing import closing, dunning, payments
from usageflow.billing.contents import contents
from usageflow.billing.finalizing import again, issue
from usageflow.billing.late import LATE_DAYS
from usageflow.billing.prices import Prices, Wanted
from usageflow.billing.subscription_states import BILLED
from usageflow.billing.turnover import take_turn
from usageflow.catalog import plans
from usageflow.catalog.charges import Terms
from usageflow.db.billing_tables import InvoiceRow, PaymentRow, SubscriptionRow
from usageflow.db.session import Database, Tx

BATCH: Final = 200
"""Subscriptions, invoices or payments in one transaction: enough to read what they need together,
and soon over for those who wait for it."""
RETRY_AFTER: Final = timedelta(minutes=10)
"""What failed is tried again; it is not to be in the way of all that is due later."""
LOOK_AGAIN_AFTER: Final = timedelta(days=1)
"""Usage that is late by days can wait for one more."""

Claimed = TypeVar("Claimed", SubscriptionRow, InvoiceRow, PaymentRow)

logger = logging.getLogger("usageflow.billing")


def close_due(db: Database) -> int:
    """Take one turn of each subscription on which something is due; how many were taken up.

    What was missed while nobody worked takes several calls, and comes to the same.
    """
    with db.transaction() as tx:
        due = _claimed(
            tx,
            select(SubscriptionRow)
            .where(col(SubscriptionRow.due_at) <= tx.now)
            .order_by(col(SubscriptionRow.due_at), col(SubscriptionRow.id)),
        )
        for organization_id, ours in _by_organization(due):
            _close(tx, organization_id, ours)
        return len(due)


def bill_ended(db: Database) -> int:
    """Bill what came late of subscriptions that have ended; how many were looked at.

    What comes late of others is on their next invoice. Each is looked at once a day, as long as
    an invoice would look for late usage of it.
    """
    looked_at, last = 0, ""
    while True:
        with db.transaction() as tx:
            ended = _claimed(tx, _ended(tx, after=last))
            for organization_id, ours in _by_organization(ended):
                _bill_late(tx, organization_id, ours)
            looked_at += len(ended)
            if len(ended) < BATCH:
                return looked_at
            last = ended[-1].id


def finalize_due(db: Database) -> int:
    """Issue the drafts whose time of grace is over; how many were taken up.

    Of a subscription the first is issued first, and one that is held keeps those after it.
    """
    earlier = aliased(InvoiceRow)
    waits_for = exists().where(
        col(earlier.organization_id) == col(InvoiceRow.organization_id),
        col(earlier.customer_id) == col(InvoiceRow.customer_id),  # for the index
        col(earlier.subscription_id) == col(InvoiceRow.subscription_id),
        col(earlier.state) == "DRAFT",
        col(earlier.collect) == "local",
        col(earlier.id) < col(InvoiceRow.id),  # ids sort by age
    )
    with db.transaction() as tx:
        due = _claimed(
            tx,
            select(InvoiceRow)
            .where(
                col(InvoiceRow.state) == "DRAFT",
                col(InvoiceRow.finalize_at) <= tx.now,
                col(InvoiceRow.hold_reason).is_(None),
                ~waits_for,
            )
            .order_by(col(InvoiceRow.finalize_at), col(InvoiceRow.id)),
        )
        for organization_id, ours in _by_organization(due):
            _finalize(tx, organization_id, ours)
        return len(due)


def apply_payments(db: Database) -> int:
    """Let word of payments have its effect; of how many it had.

    Each in a transaction of its own: it waits for its invoice and subscription, and must not hold
    meanwhile what others wait for.
    """
    applied, last = 0, 0
    while applied < BATCH:
        with db.transaction() as tx:
            due = _claimed(
                tx,
                select(PaymentRow)
                .where(col(PaymentRow.applied_at).is_(None), col(PaymentRow.id) > last)
                .order_by(col(PaymentRow.id)),
                limit=1,
            )
            _each(tx, due, lambda payment: payments.apply(tx, payment), lambda _: None)
            if not due:
                break
            applied += due[0].applied_at is not None
            last = due[0].id or last
    return applied


def mind_dunning(db: Database) -> int:
    """Let time pass for who does not pay; how many subscriptions stand otherwise now.

    Each in a transaction of its own, as payments.
    """
    moved, last = 0, ""
    while True:
        with db.reading() as tx:
            found = _in_arrears(tx, after=last)
        for one in found:
            with db.transaction() as tx:
                moved += dunning.mind(tx, *one)
        if len(found) < BATCH:
            return moved
        last = found[-1][1]


def _close(tx: Tx, organization_id: str, due: Sequence[SubscriptionRow]) -> None:
    prices = Prices(tx, organization_id)
    close = partial(closing.close, prices=prices)
    terms: dict[tuple[str, int], Terms] = {}

    def foresee() -> None:
        terms.update(plans.terms_of_many(tx, {_plan(one) for one in due}))
        prices.foresee(_to_close(due, terms))

    def postpone(one: SubscriptionRow) -> None:
        one.due_at = tx.now + RETRY_AFTER

    def do(one: SubscriptionRow) -> None:
        if take_turn(tx, one, close, terms.get(_plan(one))) == "none":
            postpone(one)

    _done(tx, foresee)
    with tx.session.no_autoflush:  # what is read here is foreseen: all is written together
        _each(tx, due, do, postpone)


def _bill_late(tx: Tx, organization_id: str, ended: Sequence[SubscriptionRow]) -> None:
    prices = Prices(tx, organization_id)
    terms = plans.terms_of_many(tx, {_plan(one) for one in ended})

    def late(one: SubscriptionRow) -> Wanted:
        return closing.wanted(one, terms[_plan(one)], end=one.period_end, kind="interim")

    def do(one: SubscriptionRow) -> None:
        if any(line.amount for line in prices.bill(late(one)).lines):
            closing.close(
                tx, one, terms[_plan(one)], end=one.period_end, kind="interim", prices=prices
            )
        one.billed_at = tx.now

    _done(tx, lambda: prices.foresee([late(one) for one in ended]))
    _each(tx, ended, do, lambda _: None)  # it is looked at again anyway


def _ended(tx: Tx, *, after: str) -> SelectOfScalar[SubscriptionRow]:
    return (
        select(SubscriptionRow)
        .where(
            col(SubscriptionRow.state) == "CANCELLED",
            col(SubscriptionRow.ended_at) > tx.now - LATE_DAYS,
            col(SubscriptionRow.billed_at) <= tx.now - LOOK_AGAIN_AFTER,
            col(SubscriptionRow.id) > after,
        )
        .order_by(col(SubscriptionRow.id))
    )


def _plan(subscription: SubscriptionRow) -> tuple[str, int]:
    return subscription.plan_id, subscription.plan_version


def _to_close(
    due: Sequence[SubscriptionRow], terms: Mapping[tuple[str, int], Terms]
) -> list[Wanted]:
    return [
        closing.wanted(one, terms[_plan(one)], end=one.period_end, kind="period")
        for one in due
        if one.state in BILLED
    ]


def _finalize(tx: Tx, organization_id: str, due: Sequence[InvoiceRow]) -> None:
    prices = Prices(tx, organization_id)
    kept = contents(tx, organization_id, due)

    def postpone(one: InvoiceRow) -> None:
        one.finalize_at = tx.now + RETRY_AFTER

    _done(tx, lambda: prices.foresee([again(one, kept[one.id]) for one in due]))
    with tx.session.no_autoflush:  # as above
        _each(tx, due, lambda one: issue(tx, one, kept[one.id], prices), postpone)


def _each(
    tx: Tx,
    rows: Sequence[Claimed],
    do: Callable[[Claimed], object],
    postpone: Callable[[Claimed], object],
) -> None:
    """Do it for all together, or, if one fails, for each alone.

    What that one did is undone; it is told, and tried again later.
    """
    if _done(tx, lambda: [do(row) for row in rows]) is None:
        return
    for row in rows:
        row_id = row.id
        error = _done(tx, partial(do, row))
        if error is not None:
            name = row.__tablename__
            logger.error("%s %s fails, and is tried later", name, row_id, exc_info=error)
            postpone(row)


def _done(tx: Tx, do: Callable[[], object]) -> Exception | None:
    """Do it, or nothing of it, and say why."""
    try:
        with tx.session.begin_nested():
            do()
    except Exception as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise  # as all others would
        return error
    return None


def _claimed(
    tx: Tx, statement: SelectOfScalar[Claimed], *, limit: int | None = None
) -> list[Claimed]:
    """The first of these rows that no other worker has taken: ours until the transaction ends."""
    first = statement.limit(BATCH if limit is None else limit)
    return list(tx.session.exec(first.with_for_update(skip_locked=True)))


def _by_organization(rows: Sequence[Claimed]) -> list[tuple[str, list[Claimed]]]:
    found: dict[str, list[Claimed]] = {}
    for row in rows:
        found.setdefault(row.organization_id, []).append(row)
    return sorted(found.items())


def _in_arrears(tx: Tx, *, after: str) -> list[tuple[str, str]]:
    """Organization and subscription of those that may be about to fall behind or be suspended."""
    subscription, state = col(SubscriptionRow.id), col(SubscriptionRow.state)
    some = select(SubscriptionRow.organization_id, SubscriptionRow.id).where(subscription > after)
    late = or_(col(InvoiceRow.due_at) <= tx.now, col(InvoiceRow.payment_failed_at).is_not(None))
    falling = some.join(InvoiceRow, col(InvoiceRow.subscription_id) == subscription).where(
        state == "ACTIVE", col(InvoiceRow.state) == "OPEN", late
    )
    either = union(some.where(state == "PAST_DUE"), falling)
    rows = tx.session.execute(either.order_by(either.selected_columns.id).limit(BATCH))
    return [(organization_id, subscription_id) for organization_id, subscription_id in rows]
