"""Closing a period: its draft, with base price, usage and what came late."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from usageflow.catalog.charges import Charge

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books


def included(count: str, price: str, metric: str = "API_CALL") -> Charge:
    """A charge with units that cost nothing."""
    return Charge(
        id=f"chg_{metric}",
        kind="usage",
        display_name=f"{metric} over {count}",
        metric=metric,
        model="included",
        included=Decimal(count),
        unit_price=Decimal(price),
    )


def test_100_dollars_and_2000_calls_at_one_cent_are_120_dollars(books: "Books") -> None:
    """The example of the product documents: 100 + (12,000 - 10,000) x 0.01 = 120."""
    books.start(included("10000", "0.01"), base_price=Decimal(100))
    books.use(12_000, datetime(2026, 3, 15, 12, 30, tzinfo=UTC))
    books.work(datetime(2026, 4, 1, tzinfo=UTC))
    (draft,) = books.invoices()
    assert (draft.state, draft.total, draft.currency) == ("DRAFT", 12_000, "USD")
    books.work(datetime(2026, 4, 1, 1, tzinfo=UTC))
    (invoice,) = books.invoices()
    assert (invoice.state, invoice.number, invoice.total) == ("OPEN", "INV-2026-0001", 12_000)
    assert [(line.description, line.amount) for line in books.lines(invoice)] == [
        ("Base price", 10_000),
        ("API_CALL over 10000", 2_000),
    ]
    assert books.told() == ["subscription.created", "invoice.created", "invoice.finalized"]
