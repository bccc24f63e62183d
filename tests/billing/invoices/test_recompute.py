"""Recomputing an issued invoice: the same bytes, or what differs, in words."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from usageflow.billing import invoices, manual, recompute
from usageflow.billing.manual import Draft, Item
from usageflow.catalog.charges import Charge
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.tables import MetricRow

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_APRIL = datetime(2026, 4, 1, tzinfo=UTC)
_GRACE = timedelta(hours=1)


def charge(metric: str, price: str = "0.0123") -> Charge:
    """A price for each unit."""
    return Charge(
        id=f"chg_{metric}",
        kind="usage",
        display_name=metric,
        metric=metric,
        model="per_unit",
        unit_price=Decimal(price),
    )


def again(books: "Books") -> dict[str | None, list[str] | Refused]:
    """What differs in each invoice, by its number."""
    with books.database.reading() as tx:
        return {
            row.number: recompute.differences(tx, tx.session.get_one(InvoiceRow, row.id))
            for row in books.invoices()
        }


def march(day: int, hour: int = 0) -> datetime:
    """An hour in March, not the full one."""
    return datetime(2026, 3, day, hour, 17, tzinfo=UTC)


def test_every_kind_of_invoice_is_the_same_byte_for_byte(books: "Books") -> None:
    """Every aggregation, an invoice within the period, late usage, and one written by hand."""
    ways = ("SUM", "COUNT", "MAX", "LAST", "UNIQUE_COUNT")
    books.now = march(1)
    subscription = books.start(*map(charge, ways), base_price=Decimal("9.99"), minimum=Decimal(50))
    with books.database.transaction() as tx:
        for way in ways:
            tx.session.get_one(MetricRow, (books.organization_id, way)).aggregation = way
    for number, day in enumerate((1, 3, 9, 9, 20, 31)):
        if day == 20:
            books.now = march(15)
            with books.database.transaction() as tx:
                invoices.generate(tx, books.organization_id, subscription, actor=books.actor)
        for way in ways:
            books.use(f"{number + 1}.5", march(day, 3), metric=way)
    books.now = march(31, 23)
    books.work(_APRIL + timedelta(days=1))
    books.work(books.now + _GRACE)
    for way in ways:
        books.use(1_000, march(30), metric=way)
    books.work(datetime(2026, 5, 2, tzinfo=UTC))
    books.work(books.now + _GRACE)
    item = Item("Help", Decimal("1.5"), Decimal("0.333"))
    with books.database.transaction() as tx:
        made = manual.create(
            tx, books.organization_id, Draft("acme", "USD", [item]), actor=books.actor
        )
        assert isinstance(made, InvoiceRow)
        invoices.issue(tx, books.organization_id, made.id, actor=books.actor)
    found = again(books)
    assert found == {f"INV-2026-000{number}": [] for number in range(1, 5)}
    late = [line for one in books.invoices() for line in books.lines(one) if line.kind == "late"]
    assert {line.metric for line in late} == {"SUM", "COUNT", "MAX", None}


def test_what_was_changed_behind_our_back_is_said(books: "Books") -> None:
    """An event's quantity, an amount, a total: each difference is named, with both values."""
    books.start(charge("API_CALL", "0.01"))
    books.use(1_200, march(5))
    books.work(_APRIL)
    books.work(_APRIL + _GRACE)
    triggers = (
        ("usage_event_no_update", "usage_event", "UPDATE usage_event SET quantity = '1300'"),
        ("invoice_no_update", "invoice", "UPDATE invoice SET tax = 5"),
    )
    for trigger, table, change in triggers:
        with books.database.transaction() as tx:
            on = "" if tx.dialect == "sqlite" else f" ON {table}"
            tx.session.execute(text(f"DROP TRIGGER {trigger}{on}"))
            value = change if tx.dialect == "sqlite" else change.replace("'", "")
            tx.session.execute(text(value))
    assert again(books) == {
        "INV-2026-0001": [
            "API_CALL: quantity is 1,200 on the invoice, and would be 1,300",
            "API_CALL: amount is 12.00 on the invoice, and would be 13.00",
            "the subtotal is 12.00 on the invoice, and would be 13.00",
            "the tax is 0.05 on the invoice, and would be 0.00",
            "the total is 12.00 on the invoice, and would be 13.00",
        ]
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DELETE FROM invoice_line", ["API_CALL: not on the invoice, and would be"]),
        (
            "UPDATE invoice_line SET charge_id = 'other'",
            [
                "API_CALL: on the invoice, and would not be",
                "API_CALL: not on the invoice, and would be",
            ],
        ),
        (
            "UPDATE invoice_line SET description = 'Calls'",
            ["the lines differ in their wording or their steps"],
        ),
    ],
)
def test_lines_that_are_not_what_they_were_are_named(
    till: "Books", change: str, expected: list[str]
) -> None:
    """One that is missing, one too many, other words."""
    till.start(charge("API_CALL"))
    till.work(_APRIL)
    till.work(_APRIL + _GRACE)
    with till.database.transaction() as tx:
        for act in ("update", "delete"):
            tx.session.execute(text(f"DROP TRIGGER invoice_line_no_{act}"))
        tx.session.execute(text(change))
    assert again(till) == {"INV-2026-0001": expected}


def test_usage_that_came_later_changes_nothing(till: "Books") -> None:
    """The watermark says what the invoice knew."""
    till.start(charge("API_CALL"))
    till.use(5, march(5))
    till.work(_APRIL)
    till.work(_APRIL + _GRACE)
    till.use(500, march(6))
    assert again(till) == {"INV-2026-0001": []}


def test_a_draft_is_not_computed_again(till: "Books") -> None:
    """It is when it is issued."""
    till.start(charge("API_CALL"))
    till.work(_APRIL)
    assert isinstance(again(till)[None], Refused)
