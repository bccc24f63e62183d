"""What every ledger test starts from: an organization, its Stripe account, lines, and a clock."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

import pytest
from sqlalchemy import inspect, select

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import MetricRow, StripeAccountRow, StripeMeterRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store, units
from usageflow.ledger.attempts import Limits
from usageflow.ledger.units import Claim
from usageflow.ledger.verdicts import Verdict

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LineOf: TypeAlias = Callable[..., bytes]


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        """The time it shows."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


class Ledger:
    """One organization's ledger, with the few steps that tests repeat."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        with database.transaction() as tx:
            self.organization_id = default_organization(tx)

    def append(self, *lines: bytes, unknown_metric: Any = "create") -> list[str]:
        """Append in a transaction of its own; the statuses."""
        with self.database.transaction() as tx:
            results = store.append(tx, self.organization_id, lines, unknown_metric=unknown_metric)
        return [result.status for result in results]

    limits = Limits(resend_s_max=72_000)

    def connect(self, **formulas: str) -> None:
        """Connect a Stripe account with a meter for each event name."""
        with self.database.transaction() as tx:
            tx.session.add(
                StripeAccountRow(
                    kind="own",
                    id="account-1",
                    organization_id=self.organization_id,
                    account="own",
                    livemode=False,
                    state="active",
                    created_at=tx.now,
                )
            )
            tx.session.flush()
            for event_name, formula in formulas.items():
                tx.session.add(
                    StripeMeterRow(
                        account_id="account-1",
                        event_name=event_name,
                        meter_id=f"mtr_{event_name}",
                        formula=formula,
                        status="active",
                        refreshed_at=tx.now,
                    )
                )

    def declare(self, metrics: Mapping[str, str]) -> None:
        """Make a metric for each aggregation, by its key."""
        with self.database.transaction() as tx:
            for aggregation, key in metrics.items():
                tx.session.add(
                    MetricRow(
                        organization_id=self.organization_id,
                        key=key,
                        name=key,
                        aggregation=aggregation,
                        created_at=tx.now,
                    )
                )

    def claim(self, limit: int = 10, owner: str = "worker", *, bind: bool = True) -> list[Claim]:
        """Claim units, with leases of a minute, and bind them to a customer of their own."""
        with self.database.transaction() as tx:
            claims = units.claim(
                tx, "account-1", owner=owner, limit=limit, lease_s=60, limits=self.limits
            )
            if not bind:
                return claims
            return [
                units.bind_customer(tx, claim, f"cus_{claim.identity_value}") for claim in claims
            ]

    def settle(self, claim: Claim, verdict: Verdict) -> bool:
        """Settle in a transaction of its own."""
        with self.database.transaction() as tx:
            return units.settle(tx, claim, verdict)

    def rows(self, row: type[Any]) -> list[Any]:
        """Every row of a table, in the order of its key, usable afterwards."""
        with self.database.reading() as tx:
            found = list(tx.session.scalars(select(row).order_by(*inspect(row).primary_key)))
            tx.session.expunge_all()
        return found


@pytest.fixture
def clock() -> Clock:
    """The clock of `database`; noon to begin with."""
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    """An open database whose time is `clock`'s, on SQLite and on PostgreSQL in turn."""
    opened = Database.open(database_url, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Ledger:
    """An empty ledger."""
    return Ledger(database, clock)


@pytest.fixture
def line() -> LineOf:
    """Makes encoded events: `line(quantity=2, customer="b", event_name="used")`."""
    numbers = itertools.count(1)

    def make(**changes: Any) -> bytes:
        identity = Identity(changes.pop("field", "account_id"), changes.pop("customer", "acct_1"))
        values: dict[str, Any] = {
            "id": f"event-{next(numbers):06}",
            "policy": "chat",
            "policy_version": "1",
            "metric": "API_CALL",
            "identity": identity,
            "quantity": 1,
            "occurred_at": NOON,
            "state": "counted",
            "request_method": "POST",
            "request_route": "/chat",
            "request_status": 200,
        }
        values |= changes
        if values["quantity"] is not None:
            values["quantity"] = Decimal(values["quantity"])
        return encode(UsageEvent(**values))

    return make
