"""How the way to each Stripe account of an organization is: one look at the database.

Nobody is called: what Stripe itself says is asked for apart, by `ask`, before the transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import func
from sqlalchemy import select as select_columns
from sqlmodel import col, select

from usageflow.catalog.secrets import Keyring
from usageflow.config import Settings
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import LaneRow, StripeAccountRow, StripeMeterRow, StripeReadsRow, UnitRow
from usageflow.errors import DeliveryError
from usageflow.ledger.progress import Progress, progress
from usageflow.periods import HOUR
from usageflow.stripe.access import AccountAccess, access
from usageflow.stripe.accounts import MODES, OF_STRIPE, Refused, accounts
from usageflow.stripe.inbound import AccountInfo
from usageflow.stripe.meter_events import Meter
from usageflow.stripe.settlement import LAG
from usageflow.stripe.sync_meters import Wanted, plan, wanted
from usageflow.stripe.webhook_setup import bringing


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterStatus:
    """A meter, or an event name that lacks one. `problem` is None if all is well.

    `policies` send to it; none: it is no business of ours. A missing one has no `formula`.
    """

    event_name: str
    formula: str | None
    status: str
    policies: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookStatus:
    """A webhook that was made."""

    endpoint_id: str
    kind: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStatus:
    """What Stripe says now. `clock_skew_s`: how far its clock is ahead of ours."""

    owner: AccountInfo
    meters: tuple[Meter, ...]
    clock_skew_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """One account. `problem` says why nothing is sent, if so.

    `lag_s`: how long the oldest usage has waited that is on its way, None if none is. `units` by
    state, but for those that are settled. `drift`: by how much ledger and Stripe differ in `drifts`
    hours. `live` is what Stripe says, or why it says nothing; None if it was not asked.
    """

    account: str
    kind: str
    mode: str
    state: str
    problem: str | None
    meters: tuple[MeterStatus, ...]
    units: Mapping[str, int]
    lag_s: float | None
    drift: Decimal
    drifts: int
    late: int
    webhooks: tuple[WebhookStatus, ...]
    reads_today: int
    live: LiveStatus | str | None


def statuses(
    tx: Tx,
    settings: Settings,
    organization_id: str,
    live: Mapping[str, LiveStatus | str] | None = None,
) -> list[AccountStatus]:
    """Every Stripe account of the organization. `live` has what `ask` said, by account id."""
    keyring, names = Keyring.read(settings.encryption_keys), wanted(tx, organization_id)
    figures = {
        (one.account, one.livemode): one
        for one in progress(tx, organization_id, barrier_s=settings.stripe_barrier_s)
    }
    return [
        _status(
            tx,
            row,
            figures[row.account, row.livemode],
            () if row.state == "deauthorized" else names,  # what it lacks is nobody's problem
            reached=access(row, settings, keyring),
            live=(live or {}).get(row.id),
        )
        for row in accounts(tx, organization_id)
        if row.kind in OF_STRIPE
    ]


class Waiting(NamedTuple):
    """Units that Stripe has accepted and that cannot be compared yet; the first can be at `next`.

    `next` is None if there are none.
    """

    units: int
    next: datetime | None


def waiting(tx: Tx, account_id: str) -> Waiting:
    """What waits for its hour to be over for so long that Stripe's sum should stand."""
    units, lanes = table(UnitRow).c, table(LaneRow).c
    hours = tx.session.execute(
        select_columns(units.hour, func.count(), func.max(units.accepted_at))
        .join_from(units.id.table, lanes.id.table, lanes.id == units.lane_id)
        .where(lanes.account_id == account_id, units.state == "accepted")
        .group_by(units.hour)
    )
    due = [(max(hour + HOUR, newest or hour) + LAG, count) for hour, count, newest in hours]
    later = [(at, count) for at, count in due if at > tx.now]
    first = min((at for at, _ in later), default=None)
    return Waiting(sum(count for _, count in later), first)


def ask(settings: Settings, reached: AccountAccess | Refused) -> LiveStatus | str:
    """What Stripe says of an account, or why it says nothing. Two reads, or a few."""
    if isinstance(reached, Refused):
        return reached.reason
    try:
        with closing(reached.gateway(settings)) as gateway:
            return LiveStatus(
                owner=gateway.account_info(),
                meters=tuple(gateway.list_meters()),
                clock_skew_s=gateway.clock_skew_s,
            )
    except DeliveryError as error:
        return str(error)


def meter_statuses(names: Iterable[Wanted], meters: Sequence[Meter]) -> tuple[MeterStatus, ...]:
    """What the policies send to, and every other meter. Pure."""
    steps = plan(names, meters)
    ours = [
        MeterStatus(
            event_name=step.wanted.event_name,
            formula=step.meter.formula if step.meter else None,
            status=step.meter.status if step.meter else "missing",
            policies=step.wanted.policies,
            problem=step.reason or None,
        )
        for step in steps
    ]
    used = {one.event_name for one in ours}
    others = [
        MeterStatus(
            event_name=meter.event_name,
            formula=meter.formula,
            status=meter.status,
            policies=(),
            problem=None,
        )
        for meter in sorted(meters, key=lambda meter: meter.event_name)
        if meter.event_name not in used
    ]
    return (*ours, *others)


def _status(
    tx: Tx,
    row: StripeAccountRow,
    figures: Progress,
    names: Sequence[Wanted],
    *,
    reached: AccountAccess | Refused,
    live: LiveStatus | str | None,
) -> AccountStatus:
    meters = live.meters if isinstance(live, LiveStatus) else _stored_meters(tx, row.id)
    since = figures.waiting_since
    unreached = reached.reason if isinstance(reached, Refused) else None
    return AccountStatus(
        account=row.account,
        kind=row.kind,
        mode=MODES[row.livemode],
        state=row.state,
        problem=row.reason or unreached,
        meters=meter_statuses(names, meters),
        units={state: count for state, count in figures.units.items() if count},
        lag_s=None if since is None else (tx.now - since).total_seconds(),
        drift=figures.drift,
        drifts=figures.drifts,
        late=figures.late,
        webhooks=tuple(
            WebhookStatus(endpoint_id=one.endpoint_id, kind=one.kind, url=one.url)
            for one in bringing(tx, row)
        ),
        reads_today=_reads_today(tx, row.id),
        live=live,
    )


def _stored_meters(tx: Tx, account_id: str) -> list[Meter]:
    rows = tx.session.exec(
        select(StripeMeterRow).where(col(StripeMeterRow.account_id) == account_id)
    )
    return [
        Meter(
            event_name=row.event_name,
            meter_id=row.meter_id,
            formula=row.formula,
            status=row.status,
            time_window=row.event_time_window,
        )
        for row in rows
    ]


def _reads_today(tx: Tx, account_id: str) -> int:
    day = tx.now.replace(hour=0, minute=0, second=0, microsecond=0)
    row = tx.session.get(StripeReadsRow, (account_id, day))
    return 0 if row is None else row.reads
