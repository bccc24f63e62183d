"""What the worker does for billing: how often it asks the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from usageflow.billing import dunning, duties, payments
from usageflow.catalog import audit
from usageflow.catalog.charges import Charge
from usageflow.db import outbox

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


@pytest.mark.parametrize(("room", "name"), [(dunning, "mind"), (payments, "apply")])
def test_what_is_done_for_one_customer_keeps_nobody_waiting_for_the_next(
    books: "Books", monkeypatch: pytest.MonkeyPatch, room: Any, name: str
) -> None:
    """While the worker waits for a row it holds no other, so nobody waits for it in a circle."""
    books.plan(base_price=Decimal(10))
    for customer in ("a", "b"):
        books.customer(customer)
        books.subscribe(customer)
    books.work(_APRIL)
    books.work(_APRIL + _GRACE)
    with books.database.transaction() as tx:
        for invoice in books.invoices() if room is payments else []:
            outbox.tell_payment(
                tx,
                books.organization_id,
                invoice.id,
                "failed",
                source="stripe",
                reference=invoice.id,
                at=books.now,
            )
    done = getattr(room, name)
    seen = 0

    def watched(tx: Any, *more: Any) -> Any:
        nonlocal seen
        seen += 1
        if tx.dialect == "postgresql":  # on SQLite writers take turns anyway
            with books.database.transaction() as other:
                other.session.execute(text("SET LOCAL lock_timeout = '2s'"))
                audit.record(
                    other, books.organization_id, actor=books.actor, action="a", subject=""
                )
        return done(tx, *more)

    monkeypatch.setattr(room, name, watched)
    books.work(_APRIL + timedelta(days=20))
    assert seen == 2
    minded = {one.subscription_id for one in books.invoices()}
    assert "ACTIVE" not in {books.subscription(one or "").state for one in minded}


def test_word_of_a_payment_that_has_no_effect_yet_is_not_work_done(
    till: "Books", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps no other from having its effect, and is tried again after a pause, not at once."""
    till.start(base_price=Decimal(10))
    till.work(_APRIL)
    till.work(_APRIL + _GRACE)
    (invoice,) = till.invoices()
    with till.database.transaction() as tx:
        for number in range(2):
            outbox.tell_payment(
                tx,
                till.organization_id,
                invoice.id,
                "failed",
                source="stripe",
                reference=f"evt-{number}",
                at=till.now,
            )
    whole = payments.apply

    def broken(tx: Any, payment: Any) -> None:
        if payment.reference == "evt-0":
            raise RuntimeError("broken")
        whole(tx, payment)

    monkeypatch.setattr(payments, "apply", broken)
    assert [duties.apply_payments(till.database) for _ in range(2)] == [1, 0]
    assert "payment 1 fails" in caplog.text
