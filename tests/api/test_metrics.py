"""The text that Prometheus reads: whose it is, that it is well formed, and what is in it."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.api.metrics import CONTENT_TYPE, Family, exposition
from usageflow.catalog.keys import create_key
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import (
    OrganizationRow,
    ReconciliationRow,
    StripeAccountRow,
    StripeMeterRow,
)
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import statement, store
from usageflow.ledger.statement import Line

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
OWN = '{organization="default",account="own",mode="test"}'
SAMPLE = re.compile(
    r'usageflow_[a-z_]+\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
    r'(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\} -?\d+(?:\.\d+)?(?:e-\d+)?'
)

Key = Callable[..., str]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database, at half past twelve."""
    with closing(Database.open(database_url, clock=lambda: NOW)) as opened:
        yield opened


@pytest.fixture
def organization_id(database: Database) -> str:
    """The default organization, with an account and an event of 2.5 an hour ago."""
    event = UsageEvent(
        id="event-1",
        policy="chat",
        policy_version="1",
        metric="TOKENS",
        identity=Identity("account_id", "acct_1"),
        quantity=Decimal("2.5"),
        occurred_at=NOW.replace(hour=11),
        state="counted",
        event_name="tokens",
    )
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        tx.session.add(account(organization_id, "account-1"))
        tx.session.flush()
        tx.session.add(
            StripeMeterRow(
                account_id="account-1",
                event_name="tokens",
                meter_id="mtr_1",
                formula="sum",
                status="active",
                refreshed_at=NOW,
            )
        )
        tx.session.flush()
        store.append(tx, organization_id, [encode(event)], unknown_metric="create")
    return organization_id


def account(organization_id: str, account_id: str) -> StripeAccountRow:
    """An organization's own account."""
    return StripeAccountRow(
        kind="own",
        id=account_id,
        organization_id=organization_id,
        account="own",
        livemode=False,
        state="active",
        created_at=NOW,
    )


def scrape(api: httpx.Client, key: str) -> list[str]:
    """The samples; fails for a line that Prometheus would not read, and for a second of a kind."""
    answer = api.get("/metrics", headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    lines = answer.text.splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    for line in samples:
        assert SAMPLE.fullmatch(line), line
    named = [line.rpartition(" ")[0] for line in samples]
    assert len(set(named)) == len(named)
    helps = [line.split()[2] for line in lines if line.startswith("# HELP ")]
    types = [line.split()[2:] for line in lines if line.startswith("# TYPE ")]
    assert types == [[name, "gauge"] for name in helps]
    assert len(set(helps)) == len(helps)
    return samples


def test_a_scrape_tells_how_far_usage_has_come(
    api: httpx.Client, database: Database, organization_id: str, key: Key
) -> None:
    """Of each account by its labels: units, ages in seconds, drift, and whether it is up."""
    with database.transaction() as tx:
        tx.session.add(
            ReconciliationRow(
                organization_id=organization_id,
                account_id="account-1",
                stripe_customer_id="cus_1",
                event_name="tokens",
                hour=NOW,
                expected=Decimal(2),
                observed=Decimal("3.25"),
                classification="foreign",
                reason="nobody of ours",
                state="open",
                first_seen_at=NOW,
                observed_at=NOW,
                checked_at=NOW,
            )
        )
    samples = scrape(api, key("metrics.read"))
    for sample in (
        f'usageflow_units{OWN[:-1]},state="open"}} 1',
        f'usageflow_units{OWN[:-1]},state="accepted"}} 0',
        f"usageflow_lag_seconds{OWN} 3600.0",
        f"usageflow_oldest_unsettled_seconds{OWN} 3600.0",
        f"usageflow_ambiguous_units{OWN} 0",
        f"usageflow_parked_units{OWN} 0",
        f"usageflow_quarantined_units{OWN} 0",
        f"usageflow_held_units{OWN} 0",
        f"usageflow_drift{OWN} 1.25",
        f"usageflow_drifts{OWN} 1",
        f"usageflow_account_up{OWN} 1",
        f"usageflow_barrier_late_units{OWN} 0",
    ):
        assert sample in samples
    assert not [sample for sample in samples if "statement" in sample]


def test_the_last_statement_is_told_with_its_age(
    api: httpx.Client, database: Database, organization_id: str, key: Key
) -> None:
    """By event name; what does not add up is not rounded."""
    with database.transaction() as tx:
        wrong = Line('quo"ted', metered=Decimal("12345678901234567890.5"))
        statement.store(tx, organization_id, NOW.replace(minute=0), [wrong, Line("tokens")])
    samples = scrape(api, key("metrics.read"))
    of = 'organization="default"'
    for sample in (
        f'usageflow_statement_difference{{{of},event_name="quo\\"ted"}} 12345678901234567890.5',
        f'usageflow_statement_difference{{{of},event_name="tokens"}} 0',
        f"usageflow_statement_age_seconds{{{of}}} 1800.0",
    ):
        assert sample in samples


def test_an_account_that_is_paused_is_down(
    api: httpx.Client, database: Database, organization_id: str, key: Key
) -> None:
    """0 is what an alert waits for."""
    with database.transaction() as tx:
        found = tx.session.get_one(StripeAccountRow, "account-1")
        found.state, found.livemode = "paused", True
    down = 'usageflow_account_up{organization="default",account="own",mode="live"} 0'
    assert down in scrape(api, key("metrics.read"))


def test_only_the_organization_of_the_key_is_shown(
    api: httpx.Client, database: Database, organization_id: str
) -> None:
    """Another's account and statement are not in it."""
    with database.transaction() as tx:
        tx.session.add(OrganizationRow(id="other", name="other", created_at=NOW))
        tx.session.flush()
        tx.session.add(account("other", "account-2"))
        secret = create_key(tx, "other", "prometheus", ["metrics.read"]).secret
    samples = scrape(api, secret)
    assert samples
    assert all('organization="other"' in sample for sample in samples)
    assert not [sample for sample in samples if not sample.endswith((" 0", " 0.0", " 1"))]


def test_a_key_for_something_else_is_refused(api: httpx.Client, key: Key) -> None:
    """Each in the shape of every error, and with how to authenticate."""
    missing = api.get("/metrics")
    assert missing.status_code == 401
    assert missing.headers["www-authenticate"].startswith("Bearer")
    narrow = api.get("/metrics", headers={"x-usageflow-api-key": key("usage.write", "usage.read")})
    assert narrow.status_code == 403
    assert narrow.json()["error"]["code"] == "insufficient_scope"


@given(st.text())
def test_any_label_is_read_back(value: str) -> None:
    """Quotes, backslashes and newlines are escaped; nothing else has to be."""
    text = exposition([Family("name", "Help", [({"of": value}, 1)])])
    head, sample = text.split("# TYPE usageflow_name gauge\n")
    assert head == "# HELP usageflow_name Help.\n"
    written = sample.removeprefix('usageflow_name{of="').removesuffix('"} 1\n')
    unescaped = re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), written)
    assert unescaped == value
    assert "\n" not in written
