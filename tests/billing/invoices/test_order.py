"""An invoice depends on what was used, and on nothing else (hypothesis)."""

import itertools
from datetime import timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usageflow.catalog.charges import Charge, Tier
from usageflow.db.billing_tables import InvoiceLineRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

MINUTES = 31 * 24 * 60
"""Of March, the period that is billed."""
METRICS = ("CALLS", "PEAK", "LATEST")

used = st.lists(
    st.tuples(
        st.sampled_from(METRICS),
        st.decimals(0, 10_000, places=3),
        st.integers(0, MINUTES - 1),
        st.integers(-14 * 4, 14 * 4),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda event: event[2],
)
"""(metric, quantity, minute of the period, quarter hours that the teller's zone is off UTC)."""
names = itertools.count()


def charges() -> list[Charge]:
    """A price of each kind whose result depends on the whole."""
    tiers = (
        Tier(up_to=Decimal(1_000), unit_price=Decimal("0.0125")),
        Tier(up_to=None, unit_price=Decimal("0.0033")),
    )
    common: dict[str, Any] = {"kind": "usage", "unit_price": Decimal("0.017")}
    return [
        Charge(
            id="a",
            kind="usage",
            model="graduated",
            metric="CALLS",
            display_name="Calls",
            tiers=tiers,
        ),
        Charge(id="b", model="per_unit", metric="PEAK", display_name="Peak", **common),
        Charge(id="c", model="per_unit", metric="LATEST", display_name="Latest", **common),
    ]


def tell(books: "Books", customer: str, events: list[Any], batches: list[int], zoned: bool) -> None:  # noqa: FBT001 - two ways to tell the same
    """Let a customer's usage come in, in batches of these sizes."""
    lines = [
        encode(
            UsageEvent(
                id=f"{customer}-{minute}",
                metric=metric,
                quantity=quantity,
                occurred_at=(books.now + timedelta(minutes=minute)).astimezone(
                    timezone(timedelta(minutes=15 * quarters if zoned else 0))
                ),
                identity=Identity("account_id", customer),
                policy="p",
                policy_version="1",
                state="counted",
            )
        )
        for metric, quantity, minute, quarters in events
    ]
    sizes = itertools.chain(batches, itertools.repeat(len(lines)))
    while lines:
        size = next(sizes)
        batch, lines = lines[:size], lines[size:]
        with books.database.transaction() as tx:
            store.append(tx, books.organization_id, batch, unknown_metric="create")


def billed(books: "Books", customer: str) -> list[tuple[Any, ...]]:
    """The lines of the customer's only invoice, but for whose they are."""
    [invoice] = [one for one in books.invoices() if one.customer_id == f"customer-{customer}"]
    lines: list[InvoiceLineRow] = books.lines(invoice)
    return [(one.charge_id, one.quantity, one.unit_price, one.amount, one.steps) for one in lines]


def test_order_batches_and_zones_change_no_invoice(books: "Books") -> None:
    """The same usage told in another order, other batches and other zones costs the same."""
    begun = books.now
    books.plan(*charges())
    with books.database.transaction() as tx:
        tx.session.connection().exec_driver_sql(
            "UPDATE metric SET aggregation = CASE key WHEN 'PEAK' THEN 'MAX'"
            " WHEN 'LATEST' THEN 'LAST' ELSE 'SUM' END"
        )

    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(events=used, batches=st.lists(st.integers(1, 7), max_size=9), data=st.data())
    def holds(events: list[Any], batches: list[int], data: st.DataObject) -> None:
        books.now = begun
        number = next(names)
        plain, mixed = f"plain-{number}", f"mixed-{number}"
        for customer in (plain, mixed):
            books.customer(customer)
            books.subscribe(customer)
        tell(books, plain, events, [], zoned=False)
        tell(books, mixed, data.draw(st.permutations(events)), batches, zoned=True)
        books.work(begun + timedelta(days=31, hours=2))
        assert billed(books, plain) == billed(books, mixed)

    holds()
