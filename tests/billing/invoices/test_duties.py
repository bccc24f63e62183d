"""What the worker does for billing: how often it asks the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, Engine, event

from usageflow.billing import duties
from usageflow.catalog.charges import Charge

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_APRIL, _MAY = (datetime(2026, month, 1, tzinfo=UTC) for month in (4, 5))
_GRACE = timedelta(hours=1)
_CALLS = Charge(
    id="chg_calls",
    kind="usage",
    display_name="Calls",
    metric="API_CALL",
    model="per_unit",
    unit_price=Decimal("0.01"),
)


@contextmanager
def _asked() -> Iterator[list[str]]:
    """The SELECT statements that are run meanwhile."""
    found: list[str] = []

    def note(_connection: Connection, _cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_a_batch_asks_the_same_for_eleven_subscriptions_as_for_one(
    till: "Books", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing and issuing read for all together, with usage, and with periods before them."""
    till.plan(_CALLS, base_price=Decimal(10))
    for number in range(12):
        till.customer(f"c{number}")
        till.subscribe(f"c{number}")
        till.use(number, datetime(2026, 3, 2 + number, tzinfo=UTC), customer=f"c{number}")
    till.work(_APRIL)
    till.work(_APRIL + _GRACE)
    for number in range(12):
        till.use(number, datetime(2026, 4, 2 + number, tzinfo=UTC), customer=f"c{number}")
    asked: dict[str, list[list[str]]] = {}
    for batch in (1, 11):
        monkeypatch.setattr(duties, "BATCH", batch)
        for do, at in ((duties.close_due, _MAY), (duties.finalize_due, _MAY + _GRACE)):
            till.now = at
            with _asked() as found:
                assert do(till.database) == batch
            asked.setdefault(do.__name__, []).append(found)
    for one, eleven in asked.values():
        assert len(eleven) == len(one), eleven
