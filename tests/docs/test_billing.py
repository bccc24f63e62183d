"""The page about billing: its examples are priced as it says, its tables are what the code has."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest

from usageflow.api.plan_terms import NewCharge
from usageflow.billing import (
    duties,
    invoice_states,
    invoices,
    late,
    numbers,
    portal,
    subscription_states,
    subscriptions,
)
from usageflow.billing.calculation import prorated
from usageflow.billing.pricing import figure, price
from usageflow.catalog.charges import CHARGES_MAX, Collect, Model, PlanType
from usageflow.catalog.organization_settings import GRACE_S_MAX, OrganizationSettings
from usageflow.catalog.sessions import ACCESS_LIFE
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.tables import AGGREGATIONS, MetricRow
from usageflow.ledger.tracking import FUTURE_SKEW, UNIQUE_PROPERTY
from usageflow.money import PRICE_DECIMALS_MAX, PRICE_WHOLE_DIGITS_MAX
from usageflow.periods import Alignment, Interval, Period, Schedule, proration

METRIC = MetricRow(organization_id="o", key="API_CALL", name="API Calls")
EXAMPLE = [15, 42, 7, 42]
ADDED_UP = {
    "SUM": sum(EXAMPLE),
    "COUNT": len(EXAMPLE),
    "MAX": max(EXAMPLE),
    "LAST": EXAMPLE[-1],
    "UNIQUE_COUNT": len(set(EXAMPLE)),
}


@pytest.fixture
def written(root: Path) -> str:
    """The page."""
    return (root / "docs" / "billing.md").read_text(encoding="utf-8")


@pytest.fixture
def text(written: str) -> str:
    """The page on one line."""
    return " ".join(written.split())


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of a table, without backquotes."""
    _, _, rest = page.partition(f"\n{header}\n")
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines]


def test_charges_cost_what_the_table_says(written: str) -> None:
    """Each body of the API, priced; all models, which need not be named."""
    table = rows(written, "| model | charge | quantity | costs |")
    assert {row[0] for row in table} == set(get_args(Model))
    for model, body, quantity, costs in table:
        new = NewCharge.model_validate(json.loads(body, parse_float=Decimal))
        charge = new.charge(METRIC if new.metric_name else None)
        assert charge.model == model
        assert figure(price(charge, Decimal(quantity.replace(",", ""))).amount) == costs, body


def test_aggregations_add_up_as_the_table_says(written: str) -> None:
    """Every one there is."""
    table = rows(written, "| aggregation | a period's quantity | of 15, 42, 7, 42 |")
    assert {name for name, _, _ in table} == set(AGGREGATIONS)
    assert {name: int(result) for name, _, result in table} == ADDED_UP


def test_states_of_subscriptions(written: str) -> None:
    """All of them, which are billed, and which entitle."""
    table = rows(written, "| state | how it comes about | billed | entitles |")
    states = {state for state, _ in subscription_states.TRANSITIONS}
    assert {row[0] for row in table} == states | {"CANCELLED"}
    assert {row[0] for row in table if row[2] == "yes"} == set(subscription_states.BILLED)
    assert {row[0] for row in table if row[3] == "yes"} == set(subscription_states.GRANTING)


def test_states_of_invoices(written: str) -> None:
    """All of them, and the words of `/api/invoices`."""
    told = {row[0]: row[2] for row in rows(written, "| state | meaning | `/api/invoices` says |")}
    assert set(told) == {state for step in invoice_states.TRANSITIONS for state in step}
    now = datetime(2026, 11, 21, tzinfo=UTC)
    for state in ("OPEN", "PAID", "UNCOLLECTIBLE"):
        row = InvoiceRow(
            id="inv_1",
            organization_id="o",
            customer_id="c",
            kind="manual",
            state=state,
            collect="local",
            payment_method="manual",
            currency="USD",
            subtotal=0,
            total=0,
            created_at=now,
            updated_at=now,
        )
        assert told[state].startswith(invoices.outcome(row))
    assert told["DRAFT"] == told["VOID"] == "is not shown"


def test_settings_have_these_defaults(written: str) -> None:
    """Every field of an organization's settings."""
    table = {row[0]: row[1] for row in rows(written, "| field | default | |")}
    defaults = OrganizationSettings()
    assert table.keys() == set(defaults.__struct_fields__)
    words = {name: str(getattr(defaults, name)) for name in table if name != "issuer"}
    assert {name: table[name] for name in words} == words | {"tax_percent": "null"}
    assert f"up to {GRACE_S_MAX // 86_400} days" in written


def test_periods_are_as_told(written: str, text: str) -> None:
    """The days of an anniversary, and the worked share of a month."""
    anchor = datetime(2026, 1, 31, tzinfo=UTC)
    starts = [Schedule(anchor, "month", "UTC").period(n).start for n in range(3)]
    assert ", ".join(f"{at:%-d %B}" for at in starts) in written
    january = Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    share = proration(january._replace(start=datetime(2026, 1, 15, tzinfo=UTC)), january, "UTC")
    assert f"30 x {share} = {prorated(Decimal(30), share, 'USD')}" in text
    assert [row[0] for row in rows(written, "| `alignment` | a period begins |")] == list(
        get_args(Alignment)
    )
    assert "is day, week, month or year" in text
    assert get_args(Interval) == ("day", "week", "month", "year")


def test_words_are_those_of_plans(written: str, text: str) -> None:
    """Who collects, and the types of plans."""
    table = rows(written, "| `collect` | who prices | our invoice | who is paid |")
    assert [row[0] for row in table] == list(get_args(Collect))
    assert set(re.findall(r"`(FIXED|USAGE|HYBRID)`", text)) == set(get_args(PlanType))


def test_numbers_are_as_told(text: str) -> None:
    """Limits and delays, as the code has them."""
    assert f"lasts {ACCESS_LIFE.seconds // 60} minutes without a refresh" in text
    assert f"a time {FUTURE_SKEW.seconds // 60} minutes ahead at most" in text
    assert f"`{UNIQUE_PROPERTY}` if none is named" in text
    assert f"One charge for a metric, {CHARGES_MAX} in a plan" in text
    digits = f"{PRICE_WHOLE_DIGITS_MAX} digits before the point and {PRICE_DECIMALS_MAX} after"
    assert digits in text
    assert f"within {late.LATE_DAYS.days} days of that period's end" in text
    assert f"`INV-2026-{1:0{numbers.DIGITS_MIN}}`" in text
    assert (duties.RETRY_AFTER.seconds, "again after ten minutes" in text) == (600, True)
    assert (portal.LIFE_S, "good for an hour" in text) == (3600, True)
    assert f"up to {portal.LIFE_S_MAX // 86_400} days. Who has it" in text
    assert (subscriptions.START_PAST_MAX.days // 365, "up to ten years ago" in text) == (10, True)
