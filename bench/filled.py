"""A ledger with a month of usage behind it, made by the database itself, which is fast.

Every customer has the same number of events, evenly spaced over the days before `end`, each of
quantity 1; windows are added up from them.
"""

from datetime import datetime, timedelta

from sqlalchemy import text

from usageflow.db.session import Database

DAYS = 30
METRIC = "API_CALL"

_SERIES = {
    "sqlite": (
        "WITH RECURSIVE series(i) AS "
        "(SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i < {count} - 1) "
    ),
    "postgresql": "WITH series(i) AS (SELECT generate_series(0, {count} - 1)) ",
}
_AT = {
    "sqlite": "{start_us} + {n} * {step_us}",
    "postgresql": (
        "to_timestamp({start_us} / 1000000) + {n} * interval '1 microsecond' * {step_us}"
    ),
}
_HOUR = {
    "sqlite": "occurred_at - occurred_at % 3600000000",
    "postgresql": "date_trunc('hour', occurred_at, 'UTC')",
}
_ONE = {"sqlite": "'1'", "postgresql": "1"}
_TOTAL = {"sqlite": "CAST(count(*) AS TEXT)", "postgresql": "count(*)"}
_ZERO = {"sqlite": "'0'", "postgresql": "0"}


def fill(
    database: Database, organization_id: str, *, customers: int, events: int, end: datetime
) -> None:
    """Give `customers` (external ids c0, c1, ...) `events` events in all, and windows of them."""
    dialect = database.dialect
    each = events // customers
    start_us = int((end - timedelta(days=DAYS)).timestamp()) * 1_000_000
    step_us = DAYS * 86_400_000_000 // each
    names = {"org": organization_id, "metric": METRIC}
    at = _AT[dialect].format(start_us=start_us, step_us=step_us, n=f"(i % {each})")
    now = _AT[dialect].format(start_us=start_us, step_us=1, n="0")
    statements = [
        (
            "INSERT INTO metric (organization_id, key, id, token, name, unit, aggregation, "
            "filters, description, created_at) "
            f"VALUES (:org, :metric, 'm', 't', :metric, '', 'SUM', '[]', '', {now})"
        ),
        (
            f"INSERT INTO customer (id, organization_id, external_id, created_at) "
            f"{_SERIES[dialect].format(count=customers)}"
            f"SELECT 'customer-' || i, :org, 'c' || i, {now} FROM series"
        ),
        (
            "INSERT INTO usage_event (organization_id, id, customer_id, metric, quantity, "
            "occurred_at, received_at, identity_field, identity_value, policy, policy_version, "
            "state, request_method, request_route, fingerprint) "
            f"{_SERIES[dialect].format(count=each * customers)}"
            f"SELECT :org, 'e' || i, 'customer-' || (i / {each}), :metric, {_ONE[dialect]}, "
            f"{at}, {at}, 'external_id', 'c' || (i / {each}), '', '', 'counted', 'POST', "
            "'/api/track', '' "
            "FROM series"
        ),
        (
            "INSERT INTO usage_window (organization_id, customer_id, metric, hour, total, events, "
            "maximum, last, last_at, last_seq, changed_at, forwarded) "
            f"SELECT organization_id, customer_id, metric, {_HOUR[dialect]}, {_TOTAL[dialect]}, "
            f"count(*), {_ONE[dialect]}, {_ONE[dialect]}, max(occurred_at), max(seq), "
            f"max(occurred_at), {_ZERO[dialect]} FROM usage_event WHERE organization_id = :org "
            "GROUP BY 1, 2, 3, 4"
        ),
    ]
    for statement in statements:
        with database.transaction() as tx:
            wanted = {name: value for name, value in names.items() if f":{name}" in statement}
            tx.session.execute(text(statement), wanted)
    if dialect == "postgresql":
        with database.transaction() as tx:
            tx.session.execute(text("ANALYZE usage_window, usage_event, customer"))
