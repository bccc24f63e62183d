"""The arithmetic of an invoice as a person reads it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from usageflow.billing import evidence, invoices, preview
from usageflow.billing.contents import content
from usageflow.billing.explain import Explanation, explain
from usageflow.billing.preview import Preview
from usageflow.catalog.charges import Charge
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.tables import MetricRow

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_APRIL = datetime(2026, 4, 1, tzinfo=UTC)

EXPECTED = """\
Invoice INV-2026-0002, OPEN, in USD
computed from the ledger up to event number 3

1. Base price (2026-03-01T00:00:00+00:00 to 2026-04-01T00:00:00+00:00, version 1 of the plan)
     1 x 100 = 100
   = 100, rounded 100.00
   - 100.00 billed before = 0.00

2. Calls (API_CALL: 12,000.5 calls, 2026-03-01T00:00:00+00:00 to 2026-04-01T00:00:00+00:00, \
version 1 of the plan)
     10,000 of 10,000 included
     2,000.5 x 0.01 = 20.005
   = 20.005, rounded 20.01
   - 10.00 billed before = 10.01

Subtotal: 0.00 + 10.01 = 10.01
Tax: 10.01 x 7.5 / 100, rounded = 0.75
Total: 10.01 + 0.75 = USD 10.76
"""


def included() -> Charge:
    """10,000 calls included, then one cent each."""
    return Charge(
        id="chg",
        kind="usage",
        display_name="Calls",
        metric="API_CALL",
        model="included",
        included=Decimal(10_000),
        unit_price=Decimal("0.01"),
    )


def begun(books: "Books", **terms: Decimal) -> str:
    """A subscription whose metric counts calls."""
    subscription = books.start(included(), **terms)
    with books.database.transaction() as tx:
        tx.session.get_one(MetricRow, (books.organization_id, "API_CALL")).unit = "calls"
    return subscription


def explained(books: "Books", invoice: InvoiceRow) -> Explanation:
    """One invoice, explained."""
    with books.database.reading() as tx:
        row = tx.session.get_one(InvoiceRow, invoice.id)
        return explain(row, content(tx, row).lines)


def test_an_invoice_is_explained_so_that_it_can_be_redone_by_hand(till: "Books") -> None:
    """Usage, steps, rounding, what was billed before, tax, total: each number is there."""
    till.settings(tax_percent=Decimal("7.5"))
    subscription = begun(till, base_price=Decimal(100))
    till.use(11_000, datetime(2026, 3, 5, tzinfo=UTC))
    till.now = datetime(2026, 3, 10, tzinfo=UTC)
    with till.database.transaction() as tx:
        invoices.generate(tx, till.organization_id, subscription, actor=till.actor)
    till.use(1_000, datetime(2026, 3, 15, tzinfo=UTC))
    till.use("0.5", datetime(2026, 3, 15, tzinfo=UTC))
    till.work(till.now + timedelta(hours=1))
    till.work(_APRIL)
    till.work(_APRIL + timedelta(hours=1))
    last = till.invoices()[-1]
    found = explained(till, last)
    assert found.text == EXPECTED
    assert [line.exact for line in found.lines] == [Decimal(100), Decimal("20.005")]
    for line in found.lines:
        assert line.rounded - line.billed_before == line.amount
    assert sum(line.amount for line in found.lines) == found.subtotal
    assert found.subtotal + found.tax == found.total


def test_a_line_opens_to_windows_and_events(books: "Books") -> None:
    """By hour and by day; the request is told, and what came after the invoice is there too."""
    books.now = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    begun(books)
    hours = [(1, 12), (1, 13), (1, 13), (2, 9)]
    for number, (day, hour) in enumerate(hours):
        books.use(number + 1, datetime(2026, 3, day, hour, 45, tzinfo=UTC))
    books.work(datetime(2026, 4, 1, 12, 30, tzinfo=UTC))
    books.work(datetime(2026, 4, 1, 13, 30, tzinfo=UTC))
    (invoice,) = books.invoices()
    with books.database.reading() as tx:
        line = evidence.line(tx, invoice, 1)
        assert line is not None
        assert evidence.line(tx, invoice, 2) is None
        by_hour = evidence.windows(tx, invoice, line, by="hour")
        by_day = evidence.windows(tx, invoice, line)
        events, total = evidence.events(tx, invoice, line, offset=1, limit=2)
        assert total == 4
        assert [(one.quantity, one.request_route) for one in events] == [
            (Decimal(2), "/v1/things"),
            (Decimal(3), "/v1/things"),
        ]
    assert [(int(one.total), one.events, one.partial) for one in by_hour] == [
        (1, 1, True),
        (5, 2, False),
        (4, 1, False),
    ]
    assert [
        (one.start.day, one.partial, int(one.total), int(one.maximum), int(one.last))
        for one in by_day
    ] == [
        (1, True, 6, 3, 3),
        (2, False, 4, 4, 4),
    ]


def test_a_base_price_opens_to_nothing(till: "Books") -> None:
    """No usage is behind it."""
    till.start(base_price=Decimal(5))
    till.work(_APRIL)
    (invoice,) = till.invoices()
    with till.database.reading() as tx:
        line = evidence.line(tx, invoice, 1)
        assert line is not None
        assert evidence.windows(tx, invoice, line) == []
        assert evidence.events(tx, invoice, line, offset=0, limit=5) == ([], 0)


def test_a_preview_is_what_would_be_generated(books: "Books") -> None:
    """And keeps nothing; what was billed before is taken off."""
    subscription = begun(books, base_price=Decimal(100))
    books.use(11_000, datetime(2026, 3, 5, tzinfo=UTC))
    books.now = datetime(2026, 3, 10, tzinfo=UTC)

    def previewed() -> Preview:
        with books.database.reading() as tx:
            found = preview.running(tx, books.organization_id, subscription)
            assert isinstance(found, Preview)
            return found

    assert previewed().sums.total == 11_000
    assert books.invoices() == []
    with books.database.transaction() as tx:
        invoices.generate(tx, books.organization_id, subscription, actor=books.actor)
    assert previewed().sums.total == 0
    assert previewed().units == {"API_CALL": "calls"}
    with books.database.reading() as tx:
        assert isinstance(preview.running(tx, books.organization_id, "sub_none"), Refused)


def test_a_trial_previews_nothing(till: "Books") -> None:
    """What is used in it is never billed."""
    till.plan(included(), base_price=Decimal(100))
    till.customer()
    subscription = till.subscribe(trial_end=till.now + timedelta(days=7))
    with till.database.reading() as tx:
        found = preview.running(tx, till.organization_id, subscription)
    assert isinstance(found, Preview)
    assert (found.lines, found.sums.total) == ([], 0)
