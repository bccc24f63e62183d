"""What a test of subscriptions starts from: a shop with plans, customers and a clock."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from usageflow.billing import subscriptions
from usageflow.catalog import metrics, plans
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Terms
from usageflow.catalog.organizations import default_organization
from usageflow.db.billing_tables import PlanRow, SubscriptionRow
from usageflow.db.session import Database, Tx
from usageflow.db.tables import CustomerRow

ACTOR = Actor("ann@example.com", "req-1")


class Shop:
    """One organization, in whose transactions it is as late as `now` says."""

    def __init__(self, url: str) -> None:
        self.now = datetime(2026, 3, 10, 12, tzinfo=UTC)
        self.database = Database.open(url, clock=lambda: self.now)
        self.actor = ACTOR
        with self.tx() as tx:
            self.organization_id = default_organization(tx)

    def tx(self) -> AbstractContextManager[Tx]:
        """A transaction."""
        return self.database.transaction()

    def wait(self, **time: float) -> datetime:
        """Let days, hours or seconds pass; the time it is then."""
        self.now += timedelta(**time)
        return self.now

    def plan(self, lookup_id: str = "pro", *charges: Charge, **terms: Any) -> PlanRow:
        """A plan that can be subscribed to; monthly, in dollars, unless told otherwise."""
        values: dict[str, Any] = {"type": "HYBRID", "currency": "USD", "interval": "month"}
        with self.tx() as tx:
            metrics.create(tx, self.organization_id, {one.metric for one in charges if one.metric})
            made = plans.create(
                tx,
                self.organization_id,
                name=lookup_id.title(),
                lookup_id=lookup_id,
                terms=Terms(**values | terms, charges=charges),
                actor=ACTOR,
            )
            assert isinstance(made, PlanRow), made
            tx.session.expunge(made)
        return made

    def customer(self, external_id: str = "acme") -> CustomerRow:
        """A customer."""
        row = CustomerRow(
            id=f"customer-{external_id}",
            organization_id=self.organization_id,
            external_id=external_id,
            created_at=self.now,
            name=external_id.title(),
            email=f"{external_id}@example.com",
        )
        with self.tx() as tx:
            tx.session.add(row)
            tx.session.flush()
            tx.session.expunge(row)
        return row

    def subscribe(
        self, plan: str = "pro", customer: str | None = "acme", **wishes: Any
    ) -> SubscriptionRow:
        """A subscription."""
        with self.tx() as tx:
            made = subscriptions.create(
                tx, self.organization_id, customer, plan, actor=ACTOR, **wishes
            )
            assert isinstance(made, SubscriptionRow), made
            tx.session.expunge(made)
        return made

    def seen(self, subscription: SubscriptionRow) -> SubscriptionRow:
        """The subscription as it is now."""
        with self.database.reading() as tx:
            found = subscriptions.find(tx, self.organization_id, subscription.id)
            assert found is not None
            tx.session.expunge(found)
        return found


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    """A shop on SQLite and on PostgreSQL in turn."""
    opened = Shop(database_url)
    yield opened
    opened.database.close()


@pytest.fixture
def per_unit() -> Callable[..., Charge]:
    """Makes usage charges: `per_unit("API_CALL", price="0.01")`."""

    def make(metric: str, price: str = "0.01", **more: Any) -> Charge:
        values: dict[str, Any] = {"kind": "usage", "model": "per_unit", "metric": metric}
        values |= {"unit_price": Decimal(price), "display_name": metric, "id": f"chg_{metric}"}
        return Charge(**values | more)

    return make
