"""An organization whose subscriptions all end a period, with a month of usage behind them.

Made by the database itself, millions of rows in minutes: events first, then windows, which
are added up from them. What the invoices must come to is computed here from how the usage was made.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from usageflow.catalog import metrics, plans
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Terms, Tier
from usageflow.catalog.organizations import default_organization
from usageflow.db.billing_tables import PlanRow
from usageflow.db.exact import register
from usageflow.db.session import Database, Tx

START: Final = datetime(2026, 3, 1, tzinfo=UTC)
END: Final = datetime(2026, 4, 1, tzinfo=UTC)
CALLS, TOKENS = "API_CALL", "TOKENS"
CALLS_OF_10 = 7
"""Of ten active hours, so many are of calls, the others of tokens."""
CENT: Final = Decimal("0.01")
TERMS: Final = Terms(
    type="HYBRID",
    currency="USD",
    interval="month",
    base_price=Decimal(49),
    charges=(
        Charge(
            id="chg_calls",
            kind="usage",
            display_name="API calls",
            metric=CALLS,
            model="included",
            included=Decimal(100),
            unit_price=CENT,
        ),
        Charge(
            id="chg_tokens",
            kind="usage",
            display_name="Tokens",
            metric=TOKENS,
            model="graduated",
            tiers=(
                Tier(up_to=Decimal(50), unit_price=Decimal("0.003")),
                Tier(up_to=None, unit_price=Decimal("0.0017"), flat_price=Decimal(1)),
            ),
        ),
    ),
)

_DIALECT: Final = {
    "sqlite": {
        "series": "WITH RECURSIVE series(i) AS "
        "(SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i < {count} - 1) ",
        "id": "printf('%s%09d', '{prefix}', {number})",
        "at": "{start_us} + ({after_us})",
        "calls": "CAST({calls} AS TEXT)",
        "tokens": "({tokens}) || '.25'",
        "hour": "occurred_at - occurred_at % 3600000000",
        "sum": "decimal_sum(quantity)",
        "zero": "'0'",
        "false": "0",
    },
    "postgresql": {
        "series": "WITH series(i) AS (SELECT generate_series(0, {count} - 1)) ",
        "id": "'{prefix}' || lpad(({number})::text, 9, '0')",
        "at": "to_timestamp({start_us} / 1000000) + ({after_us}) * interval '1 microsecond'",
        "calls": "{calls}",
        "tokens": "({tokens}) + 0.25",
        "hour": "date_trunc('hour', occurred_at, 'UTC')",
        "sum": "sum(quantity)",
        "zero": "0",
        "false": "false",
    },
}
_STATEMENTS: Final = (
    """INSERT INTO customer (id, organization_id, external_id, name, email, created_at)
    {subscriptions}
    SELECT {customer}, :org, 'c' || i, 'Customer ' || i, 'c' || i || '@example.com', {start}
    FROM series""",
    """INSERT INTO subscription (id, organization_id, customer_id, plan_id, plan_version, state,
    time_zone, anchor_at, period_index, period_start, period_end, due_at, cancel_at_period_end,
    created_at, updated_at)
    {subscriptions}
    SELECT {subscription}, :org, {customer}, :plan, 1, 'ACTIVE',
    'UTC', {start}, 0, {start}, {end}, {end}, {false}, {start}, {start} FROM series""",
    """INSERT INTO usage_event (organization_id, id, customer_id, metric, quantity, occurred_at,
    received_at, identity_field, identity_value, policy, policy_version, state, request_method,
    request_route, fingerprint)
    {events}
    SELECT :org, {event}, {its_customer}, {metric}, {quantity}, {at},
    {at}, 'external_id', {its_name}, '', '', 'counted', 'POST', '/api/track', '' FROM series""",
    # In the order of time, as usage comes: the windows of a customer are not side by side.
    """INSERT INTO usage_window (organization_id, customer_id, metric, hour, total, events,
    maximum, last, last_at, last_seq, changed_at, forwarded)
    SELECT held.organization_id, held.customer_id, held.metric, hour, total, events, maximum,
    quantity, occurred_at, seq, received_at, {zero} FROM (
        SELECT organization_id, customer_id, metric, {hour} AS hour, {sum} AS total,
        count(*) AS events, max(quantity) AS maximum, max(seq) AS last_seq
        FROM usage_event GROUP BY 1, 2, 3, 4
    ) AS held JOIN usage_event ON seq = last_seq ORDER BY hour, last_seq * 7919 % 10007""",
)


@dataclass(frozen=True)
class Month:
    """`each` events of each of `subscriptions`, in `hours` of it: as many windows, all the same."""

    subscriptions: int
    each: int
    hours: int

    @property
    def events(self) -> int:
        """All of them."""
        return self.subscriptions * self.each

    def totals(self) -> Counter[int]:
        """What the invoices are to come to, in cents, and how many of them."""
        kinds = [_owed(self, kind) for kind in range(5)]
        return Counter(kinds[number % 5] for number in range(self.subscriptions))


def _owed(month: Month, kind: int) -> int:
    """The total of an invoice, from the usage itself and by nothing that bills it."""
    calls, tokens = 0, Decimal(0)
    for number in range(month.each):
        if number % month.hours % 10 < CALLS_OF_10:
            calls += 1 + kind
        else:
            tokens += number % 7 + Decimal("0.25")
    overage = max(calls - 100, 0) * CENT
    graduated = min(tokens, Decimal(50)) * Decimal("0.003")
    if tokens > 50:
        graduated += 1 + (tokens - 50) * Decimal("0.0017")
    lines = (Decimal(49), overage, graduated)
    return sum(int((line * 100).quantize(Decimal(1), ROUND_HALF_UP)) for line in lines)


def fill(url: str, month: Month) -> None:
    """Make an organization in an empty database: plan, customers, subscriptions, usage."""
    database = Database.open(url, clock=lambda: END)
    database.migrate()
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        names = {"org": organization_id, "plan": _plan(tx, organization_id)}
    database.close()
    with _filling(url) as execute:
        for statement in _statements(database.dialect, month):
            execute(statement, {name: names[name] for name in names if f":{name}" in statement})


@contextmanager
def _filling(url: str) -> Iterator[Callable[[str, dict[str, str]], object]]:
    """A transaction; on SQLite of a connection without what keeps a file safe, but much faster."""
    if not url.startswith("sqlite"):
        engine = create_engine(url)
        with engine.begin() as session:
            yield lambda statement, names: session.execute(text(statement), names)
            session.execute(text("ANALYZE"))
        engine.dispose()
        return
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:
        register(connection)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
            connection.execute(f"PRAGMA {pragma}")
        yield connection.execute
        connection.commit()


def _plan(tx: Tx, organization_id: str) -> str:
    metrics.create(tx, organization_id, {CALLS, TOKENS})
    made = plans.create(
        tx, organization_id, name="Pro", lookup_id="pro", terms=TERMS, actor=Actor("bench")
    )
    assert isinstance(made, PlanRow), made
    return made.id


def _statements(dialect: str, month: Month) -> list[str]:
    """What fills the tables, one after the other."""
    words = _DIALECT[dialect]
    start_us, end_us = (int(at.timestamp()) * 1_000_000 for at in (START, END))
    number, whose = f"(i % {month.each})", f"(i / {month.each})"
    slot, turn = f"({number} % {month.hours})", f"({number} / {month.hours})"
    after_us = f"{slot} * {(end_us - start_us) // month.hours} + {turn} * 1000000"
    is_call = f"{slot} % 10 < {CALLS_OF_10}"
    parts = {
        "subscriptions": words["series"].format(count=month.subscriptions),
        "events": words["series"].format(count=month.events),
        "customer": words["id"].format(prefix="customer-", number="i"),
        "subscription": words["id"].format(prefix="sub-", number="i"),
        "event": words["id"].format(prefix="e-", number="i"),
        "its_customer": words["id"].format(prefix="customer-", number=whose),
        "its_name": f"'c' || {whose}",
        "start": words["at"].format(start_us=start_us, after_us=0),
        "end": words["at"].format(start_us=end_us, after_us=0),
        "at": words["at"].format(start_us=start_us, after_us=after_us),
        "metric": f"CASE WHEN {is_call} THEN '{CALLS}' ELSE '{TOKENS}' END",
        "quantity": f"CASE WHEN {is_call} THEN {words['calls']} ELSE {words['tokens']} END".format(
            calls=f"1 + {whose} % 5", tokens=f"{number} % 7"
        ),
    }
    return [statement.format(**words | parts) for statement in _STATEMENTS]
