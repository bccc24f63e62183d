"""What a test of invoices starts from: a shop whose customers use something, and its books."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from usageflow.billing import duties, invoices, subscriptions
from usageflow.catalog import metrics, organization_settings, plans
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Terms
from usageflow.catalog.organizations import default_organization
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow, PlanRow, SubscriptionRow
from usageflow.db.outbox_tables import MailRow, WebhookEventRow
from usageflow.db.session import Database
from usageflow.db.tables import CustomerIdentityRow, CustomerRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store

ACTOR = Actor("ann@example.com", "req-1")


def utc(*parts: int) -> datetime:
    """An instant."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # the parts of a date


class Books:
    """One organization, in whose transactions it is as late as `now` says."""

    def __init__(self, url: str) -> None:
        self.now = utc(2026, 3, 1)
        self.database = Database.open(url, clock=lambda: self.now)
        self.actor = ACTOR
        self._numbers = itertools.count()
        with self.database.transaction() as tx:
            self.organization_id = default_organization(tx)

    def settings(self, **values: Any) -> None:
        """Change settings of the organization."""
        with self.database.transaction() as tx:
            done = organization_settings.change(tx, self.organization_id, values, actor=ACTOR)
            assert isinstance(done, organization_settings.OrganizationSettings), done

    def plan(self, *charges: Charge, lookup_id: str = "pro", **terms: Any) -> PlanRow:
        """A plan that can be subscribed to; monthly, in dollars, unless told otherwise."""
        values: dict[str, Any] = {"type": "HYBRID", "currency": "USD", "interval": "month"}
        with self.database.transaction() as tx:
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

    def customer(self, external_id: str = "acme", **values: Any) -> CustomerRow:
        """A customer."""
        row = CustomerRow(
            id=f"customer-{external_id}",
            organization_id=self.organization_id,
            external_id=external_id,
            created_at=self.now,
            **{"name": external_id.title(), "email": f"billing@{external_id}.com"} | values,
        )
        with self.database.transaction() as tx:
            tx.session.add(row)
            tx.session.flush()
            tx.session.add(
                CustomerIdentityRow(
                    organization_id=self.organization_id,
                    field="account_id",
                    value=external_id,
                    customer_id=row.id,
                )
            )
            tx.session.expunge(row)
        return row

    def subscribe(self, customer: str = "acme", plan: str = "pro", **wishes: Any) -> str:
        """The id of a new subscription."""
        with self.database.transaction() as tx:
            made = subscriptions.create(
                tx, self.organization_id, customer, plan, actor=ACTOR, **wishes
            )
            assert isinstance(made, SubscriptionRow), made
            return made.id

    def start(self, *charges: Charge, **terms: Any) -> str:
        """A plan, the customer acme, and its subscription, whose id this is."""
        self.plan(*charges, **terms)
        self.customer()
        return self.subscribe()

    def use(
        self,
        quantity: str | int,
        at: datetime,
        *,
        metric: str = "API_CALL",
        customer: str = "acme",
        event_name: str | None = None,
    ) -> None:
        """Let a customer use something, known to the ledger from now on."""
        number = next(self._numbers)
        event = UsageEvent(
            id=f"event-{number}",
            metric=metric,
            quantity=Decimal(quantity),
            occurred_at=at,
            identity=Identity("account_id", customer),
            policy="p",
            policy_version="1",
            state="counted",
            event_name=event_name,
            request_method="POST",
            request_route="/v1/things",
            request_status=200,
        )
        with self.database.transaction() as tx:
            (result,) = store.append(
                tx, self.organization_id, [encode(event)], unknown_metric="create"
            )
            assert result.status == "accepted", result

    def work(self, at: datetime | None = None) -> None:
        """Let the worker do all that is due, at a time."""
        self.now = at or self.now
        for do in (duties.close_due, duties.finalize_due, duties.apply_payments):
            while do(self.database):
                pass
        duties.mind_dunning(self.database)

    def invoices(self) -> list[InvoiceRow]:
        """All invoices, oldest first."""
        with self.database.reading() as tx:
            rows = list(
                tx.session.exec(
                    select(InvoiceRow).order_by(col(InvoiceRow.created_at), col(InvoiceRow.id))
                )
            )
            tx.session.expunge_all()
        return rows

    def lines(self, invoice: InvoiceRow) -> list[InvoiceLineRow]:
        """The lines of an invoice."""
        with self.database.reading() as tx:
            rows = list(
                tx.session.exec(
                    select(InvoiceLineRow)
                    .where(InvoiceLineRow.invoice_id == invoice.id)
                    .order_by(col(InvoiceLineRow.position))
                )
            )
            tx.session.expunge_all()
        return rows

    def amounts(self, invoice: InvoiceRow) -> list[tuple[str, int]]:
        """Kind and amount of each line."""
        return [(line.kind, line.amount) for line in self.lines(invoice)]

    def generate(self, subscription_id: str) -> InvoiceRow:
        """An invoice within the period."""
        with self.database.transaction() as tx:
            made = invoices.generate(tx, self.organization_id, subscription_id, actor=ACTOR)
            assert isinstance(made, InvoiceRow), made
            tx.session.flush()
            tx.session.expunge(made)
        return made

    def subscription(self, subscription_id: str) -> SubscriptionRow:
        """A subscription as it is now."""
        with self.database.reading() as tx:
            row = tx.session.get_one(SubscriptionRow, subscription_id)
            tx.session.expunge(row)
        return row

    def told(self) -> list[str]:
        """The types of the events for webhooks, in order."""
        with self.database.reading() as tx:
            return list(
                tx.session.exec(select(WebhookEventRow.type).order_by(col(WebhookEventRow.seq)))
            )

    def mails(self) -> list[tuple[str, str]]:
        """Whom mail is posted to, and its subject."""
        with self.database.reading() as tx:
            rows = tx.session.exec(select(MailRow.recipient, MailRow.subject))
            return list(rows)


@pytest.fixture
def books(database_url: str) -> Iterator[Books]:
    """The books of a shop on SQLite and on PostgreSQL in turn."""
    opened = Books(database_url)
    yield opened
    opened.database.close()


@pytest.fixture
def till(sqlite_template: bytes, tmp_path: Path) -> Iterator[Books]:
    """The same on SQLite alone, for what is decided above the database."""
    path = tmp_path / "till.db"
    path.write_bytes(sqlite_template)
    opened = Books(f"sqlite:///{path}")
    yield opened
    opened.database.close()
