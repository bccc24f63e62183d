"""Values are kept for the metrics that tell them apart, and for no others."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from usageflow.ledger import values

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def told(ledger: "Ledger") -> list[tuple[str, datetime, str, int]]:
    """Metric, hour, value and how many events told it."""
    with ledger.database.reading() as tx:
        found = values.totals(tx, ledger.organization_id)
    return sorted((value.metric, value.hour, value.value, told) for value, told in found.items())


def test_a_value_is_kept_once_per_hour(ledger: "Ledger", line: "LineOf") -> None:
    """An edge's event tells who was calling; however often, in one batch and in the next."""
    ledger.declare({"UNIQUE_COUNT": "ACTIVE_USER", "SUM": "API_CALL"})
    active = {"metric": "ACTIVE_USER"}
    ledger.append(line(), line(customer="a", **active), line(customer="a", **active))
    ledger.append(
        line(customer="a", **active),
        line(customer="b", **active),
        line(customer="a", occurred_at=NOON + timedelta(hours=1), **active),
        line(customer="c", state="shadow", **active),
    )
    assert told(ledger) == [
        ("ACTIVE_USER", NOON, "a", 3),
        ("ACTIVE_USER", NOON, "b", 1),
        ("ACTIVE_USER", NOON + timedelta(hours=1), "a", 1),
    ]
