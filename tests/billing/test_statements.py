"""Usage statements: every hour and event of an interval, adding up to what was invoiced."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlmodel import select

from usageflow.billing import statements
from usageflow.billing.statements import Row, Statement
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.session import Database
from usageflow.db.tables import CustomerIdentityRow, CustomerRow, MetricRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store
from usageflow.ledger.aggregation import Ask, quantities, watermark

MARCH = datetime(2025, 3, 1, tzinfo=UTC)
APRIL = datetime(2025, 4, 1, tzinfo=UTC)
ACCOUNTS = (Identity("account_id", "acct_1"), Identity("account_id", "acct_2"))
"""Two identities of one customer, which a UNIQUE_COUNT tells apart."""
AGGREGATIONS = ("SUM", "COUNT", "MAX", "LAST", "UNIQUE_COUNT")


class Books:
    """A ledger with a metric of each aggregation, and a customer who uses them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._numbers = itertools.count(1)
        with database.transaction() as tx:
            self.organization_id = default_organization(tx)
            for aggregation in AGGREGATIONS:
                tx.session.add(
                    MetricRow(
                        organization_id=self.organization_id,
                        key=aggregation,
                        name=aggregation,
                        unit="calls",
                        aggregation=aggregation,
                        created_at=tx.now,
                    )
                )
        self.use("2024-01-01T00:00")  # so that there is a customer
        with database.transaction() as tx:
            tx.session.add(
                CustomerIdentityRow(
                    organization_id=self.organization_id,
                    field=ACCOUNTS[1].field,
                    value="acct_2",
                    customer_id=tx.session.exec(select(CustomerRow.id)).one(),
                )
            )

    def use(self, at: str, quantity: str = "1", *, metric: str = "SUM", **changes: Any) -> None:
        """Record one event."""
        line = encode(
            UsageEvent(
                **{
                    "id": f"event-{next(self._numbers):06}",
                    "policy": "chat",
                    "policy_version": "1",
                    "metric": metric,
                    "identity": ACCOUNTS[0],
                    "quantity": Decimal(quantity),
                    "occurred_at": datetime.fromisoformat(at).replace(tzinfo=UTC),
                    "state": "counted",
                    **changes,
                }
            )
        )
        with self.database.transaction() as tx:
            (result,) = store.append(tx, self.organization_id, [line], unknown_metric="create")
        assert result.status == "accepted"

    @property
    def customer_id(self) -> str:
        """The customer's."""
        with self.database.reading() as tx:
            return tx.session.exec(select(CustomerRow.id)).one()

    def quantity(self, metric: str, start: datetime, end: datetime) -> Decimal:
        """What invoices are computed from."""
        ask = Ask(self.customer_id, metric, metric, start, end)
        with self.database.reading() as tx:
            return quantities(tx, self.organization_id, [ask])[ask].quantity

    def statement(self, start: datetime = MARCH, end: datetime = APRIL) -> Statement:
        """The customer's."""
        with self.database.reading() as tx:
            found = statements.of_customer(tx, self.organization_id, self.customer_id, start, end)
        assert isinstance(found, Statement)
        return found

    def invoice(self, *lines: tuple[str, datetime, datetime]) -> str:
        """Of usage as it is now."""
        customer_id = self.customer_id
        known = [(line, self.quantity(*line)) for line in lines]
        with self.database.transaction() as tx:
            tx.session.add(
                InvoiceRow(
                    id="inv_1",
                    organization_id=self.organization_id,
                    customer_id=customer_id,
                    kind="period",
                    state="DRAFT",
                    collect="local",
                    payment_method="manual",
                    currency="USD",
                    period_start=MARCH,
                    period_end=APRIL,
                    watermark=watermark(tx, self.organization_id),
                    subtotal=0,
                    total=0,
                    created_at=tx.now,
                    updated_at=tx.now,
                )
            )
            tx.session.flush()
            for position, ((metric, start, end), quantity) in enumerate(known):
                tx.session.add(
                    InvoiceLineRow(
                        organization_id=self.organization_id,
                        invoice_id="inv_1",
                        position=position,
                        kind="usage",
                        description=metric,
                        metric=metric,
                        period_start=start,
                        period_end=end,
                        quantity=quantity,
                        amount=0,
                    )
                )
        return "inv_1"

    def of_invoice(self, invoice_id: str) -> Statement:
        """The invoice's."""
        with self.database.reading() as tx:
            found = statements.of_invoice(tx, self.organization_id, invoice_id)
        assert isinstance(found, Statement)
        return found


@pytest.fixture
def books(database: Database) -> Books:
    """With no usage after 2024."""
    return Books(database)


def use_much(books: Books) -> None:
    """Usage of every metric at the ends of hours, of March, and beside it."""
    times = (
        *("2025-02-28T23:59:59", "2025-03-01T00:00", "2025-03-01T00:59:59", "2025-03-01T01:00"),
        *("2025-03-15T10:10", "2025-03-15T10:20", "2025-03-15T10:50", "2025-03-31T23:59"),
        "2025-04-01T00:00",
    )
    for number, at in enumerate(times):
        for metric in AGGREGATIONS:
            books.use(at, f"{number * 7 % 5}.1", metric=metric, identity=ACCOUNTS[number % 2])


def hours(rows: list[Row]) -> list[tuple[str, str]]:
    """(hour, quantity) of each line."""
    return [(f"{row.start:%m-%dT%H:%M}", format(row.quantity, "f")) for row in rows]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (MARCH, APRIL),
        (datetime(2025, 3, 1, 0, 30, tzinfo=UTC), datetime(2025, 3, 31, 23, 59, 30, tzinfo=UTC)),
        (datetime(2025, 3, 15, 10, 15, tzinfo=UTC), datetime(2025, 3, 15, 10, 45, tzinfo=UTC)),
        (datetime(2025, 3, 15, 10, tzinfo=UTC), datetime(2025, 3, 15, 10, 45, tzinfo=UTC)),
    ],
    ids=["month", "ragged", "within-an-hour", "begin-of-an-hour"],
)
def test_totals_are_what_an_invoice_would_say(books: Books, start: datetime, end: datetime) -> None:
    """Of every aggregation, wherever an interval begins and ends; hours lie within it."""
    use_much(books)
    statement = books.statement(start, end)
    assert len(statement.parts) == len(AGGREGATIONS)
    for part in statement.parts:
        assert part.total.quantity == books.quantity(part.total.metric, start, end)
        assert part.total.events == sum(row.events or 0 for row in part.hours)
        for row in part.hours:
            assert row.start is not None
            assert row.end is not None
            assert start <= row.start < row.end <= end
    sums = next(part for part in statement.parts if part.total.metric == "SUM")
    assert sums.total.quantity == sum(row.quantity for row in sums.hours)


def test_hours_without_usage_are_left_out(books: Books) -> None:
    """Each other one tells how much in how many events."""
    books.use("2025-03-01T00:10", "1.5")
    books.use("2025-03-01T00:50", "2.25")
    books.use("2025-03-02T12:00", "3")
    (part,) = books.statement().parts
    assert hours(list(part.hours)) == [("03-01T00:00", "3.75"), ("03-02T12:00", "3")]
    assert [row.events for row in part.hours] == [2, 1]


def test_a_statement_of_an_invoice_is_frozen(books: Books) -> None:
    """Usage that comes later changes neither hours, nor events, nor totals."""
    books.use("2025-03-01T00:10", "2")
    books.use("2025-03-05T08:00", "40")
    invoice_id = books.invoice(("SUM", MARCH, APRIL))
    before = books.of_invoice(invoice_id)
    read = list(statements.rows(books.database, before, "events"))
    books.use("2025-03-01T00:20", "100")
    books.use("2025-03-09T00:20", "100")
    after = books.of_invoice(invoice_id)
    assert after == before
    assert list(statements.rows(books.database, before, "events")) == read
    (part,) = after.parts
    assert part.total.quantity == part.total.invoiced == 42
    assert books.quantity("SUM", MARCH, APRIL) == 242


@pytest.mark.parametrize("metric", AGGREGATIONS)
def test_every_aggregation_is_frozen(books: Books, metric: str) -> None:
    """Also where late usage comes into the very hours that were billed."""
    for at, quantity in (
        ("2025-03-01T00:10", "5"),
        ("2025-03-01T00:20", "3"),
        ("2025-03-02T00:00", "4"),
    ):
        books.use(at, quantity, metric=metric)
    invoice_id = books.invoice((metric, MARCH, APRIL))
    before = books.of_invoice(invoice_id)
    for at in ("2025-03-01T00:30", "2025-03-02T00:30", "2025-03-03T00:00"):
        books.use(at, "50", metric=metric, identity=ACCOUNTS[1])
    assert books.of_invoice(invoice_id) == before
    assert before.parts[0].total.quantity == before.parts[0].total.invoiced


def test_an_invoice_tells_of_each_period_it_bills(books: Books) -> None:
    """Late usage of February has its own part, in the order of the lines."""
    february = datetime(2025, 2, 1, tzinfo=UTC)
    books.use("2025-02-10T00:00", "7")
    books.use("2025-03-10T00:00", "8", metric="COUNT")
    statement = books.of_invoice(books.invoice(("COUNT", MARCH, APRIL), ("SUM", february, MARCH)))
    assert [(part.total.metric, part.total.start) for part in statement.parts] == [
        ("COUNT", MARCH),
        ("SUM", february),
    ]
    assert [part.total.invoiced for part in statement.parts] == [1, 7]


def test_events_are_read_page_by_page(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order of time, those of one moment once each, and only of the interval."""
    monkeypatch.setattr(statements, "EVENTS_AT_ONCE", 2)
    books.use("2025-02-28T23:59:59")
    for quantity in range(5):
        books.use("2025-03-01T00:00", str(quantity + 1))
    books.use("2025-03-20T00:00", "10")
    books.use("2025-04-01T00:00")
    found = list(statements.rows(books.database, books.statement(), "events"))
    assert [int(row.quantity) for row in found] == [1, 2, 3, 4, 5, 10, 25]
    assert [row.row for row in found] == ["event"] * 6 + ["total"]
    assert len({row.event_id for row in found}) == 7  # six ids, and none of the total


@pytest.mark.parametrize("at", ["2025-03-01", "2025-02-01"])
def test_an_interval_must_have_an_end(books: Books, at: str) -> None:
    """After its start."""
    with books.database.reading() as tx:
        end = datetime.fromisoformat(at).replace(tzinfo=UTC)
        found = statements.of_customer(tx, books.organization_id, "acct_1", MARCH, end)
    assert isinstance(found, Refused)
    assert (found.code, found.field) == ("invalid", "end")


def test_an_interval_is_bounded(books: Books) -> None:
    """At a year and a month."""
    with books.database.reading() as tx:
        end = MARCH + timedelta(days=statements.DAYS_MAX, seconds=1)
        found = statements.of_customer(tx, books.organization_id, "acct_1", MARCH, end)
    assert isinstance(found, Refused)
    assert str(statements.DAYS_MAX) in found.message


def test_what_is_not_ours_is_not_there(books: Books) -> None:
    """Neither a customer nor an invoice of another organization is told of."""
    invoice_id = books.invoice(("SUM", MARCH, APRIL))
    customer_id = books.customer_id
    with books.database.reading() as tx:
        for found in (
            statements.of_customer(tx, "another", customer_id, MARCH, APRIL),
            statements.of_invoice(tx, "another", invoice_id),
        ):
            assert isinstance(found, Refused)
            assert found.code == "not_found"
