"""Several workers close the same periods and are killed: one invoice each, no number missing."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlmodel import col, select

from usageflow.billing import subscriptions
from usageflow.catalog import metrics, organization_settings, plans
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Terms
from usageflow.catalog.organizations import default_organization
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow, SubscriptionRow
from usageflow.db.outbox_tables import WebhookEventRow
from usageflow.db.session import Database
from usageflow.db.tables import CustomerIdentityRow, CustomerRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store

TORTURE = bool(os.environ.get("USAGEFLOW_TORTURE"))
SUBSCRIPTIONS = 400 if TORTURE else 40
DAYS = 5 if TORTURE else 3
KILLS = 200 if TORTURE else 16
START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = START + timedelta(days=DAYS, hours=2)
ACTOR = Actor("test")
BASE = 10_000
"""Cents a day, beside one for each call."""


def calls(subscription: int, day: int) -> int:
    """How often a customer calls on a day."""
    return 1 + (subscription * 7 + day * 13) % 50


@pytest.fixture
def shop(database_url: str) -> Iterator[Database]:
    """Subscriptions to a daily plan that nobody has closed for some days, and their usage."""
    database = Database.open(database_url, clock=lambda: START)
    with database.transaction() as tx:
        organization = default_organization(tx)
        organization_settings.change(tx, organization, {"grace_s": 0}, actor=ACTOR)
        metrics.create(tx, organization, {"API_CALL"})
        charge = Charge(
            id="chg",
            kind="usage",
            display_name="Calls",
            metric="API_CALL",
            model="per_unit",
            unit_price=Decimal("0.01"),
        )
        terms = Terms(
            type="HYBRID",
            currency="USD",
            interval="day",
            base_price=Decimal(BASE) / 100,
            charges=(charge,),
        )
        plans.create(tx, organization, name="Pro", lookup_id="pro", terms=terms, actor=ACTOR)
        for number in range(SUBSCRIPTIONS):
            customer = CustomerRow(
                id=f"c{number}",
                organization_id=organization,
                external_id=f"c{number}",
                created_at=tx.now,
            )
            tx.session.add(customer)
            tx.session.flush()
            tx.session.add(
                CustomerIdentityRow(
                    organization_id=organization,
                    field="account_id",
                    value=f"c{number}",
                    customer_id=f"c{number}",
                )
            )
            subscriptions.create(tx, organization, f"c{number}", "pro", actor=ACTOR)
        lines = [line(number, day) for number in range(SUBSCRIPTIONS) for day in range(DAYS)]
        results = store.append(tx, organization, lines, unknown_metric="create")
        assert {result.status for result in results} == {"accepted"}
    yield database
    database.close()


def line(number: int, day: int) -> bytes:
    """The usage of a customer on a day."""
    return encode(
        UsageEvent(
            id=f"event-{number}-{day}",
            metric="API_CALL",
            quantity=Decimal(calls(number, day)),
            occurred_at=START + timedelta(days=day, hours=3, minutes=number % 60),
            identity=Identity("account_id", f"c{number}"),
            policy="p",
            policy_version="1",
            state="counted",
            request_method="GET",
            request_route="/",
            request_status=200,
        )
    )


@pytest.mark.kill
@pytest.mark.timeout(1_800 if TORTURE else 120)
def test_eight_workers_that_are_killed_make_one_invoice_for_each_period(
    shop: Database, database_url: str
) -> None:
    """Every period has its invoice with its own usage, told once; numbers have no gap."""
    program = Path(__file__).with_name("trial.py")
    arguments = [database_url, NOW.isoformat(), str(KILLS), "7"]
    done = subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stderr, int(done.stdout)) == ("", KILLS)
    with shop.reading() as tx:
        made = list(tx.session.exec(select(InvoiceRow).order_by(col(InvoiceRow.number))))
        expected = SUBSCRIPTIONS * DAYS
        assert {one.state for one in made} == {"OPEN"}
        assert [one.number for one in made] == [
            f"INV-2026-{number:04}" for number in range(1, expected + 1)
        ]
        owned = {row.id: row.customer_id for row in tx.session.exec(select(SubscriptionRow))}
        assert {
            (owned[one.subscription_id or ""], one.period_start): one.total for one in made
        } == {
            (f"c{number}", START + timedelta(days=day)): BASE + calls(number, day)
            for number in range(SUBSCRIPTIONS)
            for day in range(DAYS)
        }
        billed = tx.session.exec(select(InvoiceLineRow.amount)).all()
        assert sum(billed) == sum(one.total for one in made)
        told = Counter(tx.session.exec(select(WebhookEventRow.type)))
        assert (told["invoice.created"], told["invoice.finalized"]) == (expected, expected)
