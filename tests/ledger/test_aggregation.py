"""What usage comes to over any interval, against a plain fold of all events."""

import itertools
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.event import listen

from usageflow.db.tables import AGGREGATIONS, CustomerRow, UsageEventRow
from usageflow.ledger import aggregation
from usageflow.ledger.aggregation import Ask, Quantity

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
METRICS = {name: f"M_{name}" for name in AGGREGATIONS}


def by_hand(events: "list[UsageEventRow]", ask: Ask) -> Quantity:
    """The answer as anybody would find it who has all the events."""
    own = [
        event
        for event in events
        if event.state == "counted"
        and event.metric == ask.metric
        and ask.customer_id in (None, event.customer_id)
        and ask.start <= event.occurred_at < ask.end
    ]
    if not own:
        return Quantity(Decimal(0), 0, Decimal(0))
    quantities = [event.quantity or Decimal(0) for event in own]
    last = max(own, key=lambda event: (event.occurred_at, event.seq or 0))
    found = {
        "SUM": sum(quantities, Decimal(0)),
        "COUNT": Decimal(len(own)),
        "MAX": max(quantities),
        "LAST": last.quantity or Decimal(0),
        "UNIQUE_COUNT": Decimal(len({event.unique_value for event in own})),
    }
    forwarded = [event.quantity or Decimal(0) for event in own if event.event_name]
    return Quantity(found[ask.aggregation], len(own), sum(forwarded, Decimal(0)))


def filled(ledger: "Ledger", line: "LineOf", count: int) -> list[UsageEventRow]:
    """Events of three customers over a day, of every metric, in no order; and some not counted."""
    chance = random.Random(7)
    ledger.declare(METRICS)
    lines = [
        line(
            customer=chance.choice("abc"),
            metric=METRICS[chance.choice(AGGREGATIONS)],
            quantity=Decimal(chance.randrange(10**9)).scaleb(-chance.randrange(12)),
            occurred_at=NOON + timedelta(seconds=chance.randrange(-43_200, 43_200)),
            event_name=chance.choice((None, "used")),
            state=chance.choice(("counted", "counted", "counted", "shadow")),
        )
        for _ in range(count)
    ]
    for batch in (lines[: count // 3], lines[count // 3 :]):
        ledger.append(*batch)
    return ledger.rows(UsageEventRow)


def some_asks(ledger: "Ledger") -> list[Ask]:
    """For every customer, everyone and nobody, each aggregation and intervals of all kinds."""
    chance = random.Random(11)
    moments = [NOON, NOON + timedelta(hours=3), NOON - timedelta(hours=12)] + [
        NOON + timedelta(microseconds=chance.randrange(-(10**6) * 50_000, 10**6 * 50_000))
        for _ in range(8)
    ]
    payers = [row.id for row in ledger.rows(CustomerRow)]
    return [
        Ask(payer, METRICS[name], name, start, end)
        for payer in (*payers, None, "nobody")
        for name in AGGREGATIONS
        for start, end in itertools.product(moments, moments)
        if start <= end
    ]


def test_quantities_are_what_the_events_come_to(ledger: "Ledger", line: "LineOf") -> None:
    """Whatever the interval: whole hours, parts of one, hours and parts, nothing at all."""
    events, asks = filled(ledger, line, 400), some_asks(ledger)
    with ledger.database.reading() as tx:
        found = aggregation.quantities(tx, ledger.organization_id, asks)
    assert found == {ask: by_hand(events, ask) for ask in asks}


def test_no_question_is_no_statement(ledger: "Ledger") -> None:
    """And an interval that is empty comes to nothing."""
    empty = Ask("a", "X", "MAX", NOON, NOON)
    with ledger.database.reading() as tx:
        assert aggregation.quantities(tx, ledger.organization_id, []) == {}
        assert aggregation.changed_since(tx, ledger.organization_id, [empty], NOON) == set()
        found = aggregation.quantities(tx, ledger.organization_id, [empty])
    assert found == {empty: Quantity(Decimal(0), 0, Decimal(0))}


def test_thousands_of_asks_take_as_many_statements_as_a_few(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """Closing the periods of all customers does not ask for one after the other."""
    filled(ledger, line, 30)

    def statements(customers: int) -> int:
        seen: list[Any] = []
        asks = [
            Ask(f"c{n}", METRICS[name], name, NOON - timedelta(minutes=90), NOON)
            for n in range(customers)
            for name in AGGREGATIONS
        ]
        with ledger.database.reading() as tx:
            listen(
                tx.session.connection(), "before_cursor_execute", lambda *args: seen.append(args)
            )
            aggregation.quantities(tx, ledger.organization_id, asks)
        return len(seen)

    assert statements(1_000) == statements(1) <= 7


def test_what_was_added_to_since_is_told(ledger: "Ledger", line: "LineOf") -> None:
    """Late usage of a period is found by when it came, not by when it was."""
    ledger.append(line(customer="a", occurred_at=NOON - timedelta(days=40)), line(customer="b"))
    ledger.clock.advance(60)
    ledger.append(line(customer="a", occurred_at=NOON - timedelta(days=39)))
    payers = {row.external_id: row.id for row in ledger.rows(CustomerRow)}
    asks = [
        Ask(payers[name], "API_CALL", "SUM", NOON - timedelta(days=days), NOON + timedelta(1))
        for name, days in (("a", 50), ("a", 38), ("b", 50))
    ]
    everyone = asks[0]._replace(customer_id=None)
    with ledger.database.reading() as tx:
        changed = aggregation.changed_since(
            tx, ledger.organization_id, [*asks, everyone], NOON + timedelta(seconds=60)
        )
        assert changed == {asks[0], everyone}
        assert aggregation.changed_since(tx, ledger.organization_id, asks, NOON) == {
            asks[0],
            asks[2],
        }


def test_the_watermark_is_the_newest_event(ledger: "Ledger", line: "LineOf") -> None:
    """0 while there is none; every event raises it, also one that does not count."""
    with ledger.database.reading() as tx:
        assert aggregation.watermark(tx, ledger.organization_id) == 0
    ledger.append(line(), line(state="shadow"))
    with ledger.database.reading() as tx:
        assert aggregation.watermark(tx, ledger.organization_id) == 2


@pytest.mark.parametrize("aggregation_name", AGGREGATIONS)
def test_another_organization_sees_nothing_of_it(
    ledger: "Ledger", line: "LineOf", aggregation_name: str
) -> None:
    """Not even if it knows the customer's id."""
    filled(ledger, line, 30)
    payers = [None, *(row.id for row in ledger.rows(CustomerRow))]
    start, end = NOON - timedelta(days=1, minutes=1), NOON + timedelta(days=1, minutes=1)
    asks = [Ask(payer, METRICS[aggregation_name], aggregation_name, start, end) for payer in payers]
    with ledger.database.reading() as tx:
        assert set(aggregation.quantities(tx, "another", asks).values()) == {
            Quantity(Decimal(0), 0, Decimal(0))
        }


def test_customers_with_usage_are_counted(ledger: "Ledger", line: "LineOf") -> None:
    """Each once, in parts of hours as in whole ones; who has none in the interval is not."""
    ledger.append(
        *(line(customer="a", occurred_at=NOON + timedelta(minutes=n)) for n in (0, 90, 200)),
        line(customer="b", occurred_at=NOON + timedelta(minutes=70)),
        line(customer="c", occurred_at=NOON - timedelta(minutes=1)),
        line(customer="d", occurred_at=NOON + timedelta(minutes=1), state="shadow"),
    )
    everyone = Ask(None, "API_CALL", "SUM", NOON, NOON + timedelta(minutes=201))
    asks = [everyone, everyone._replace(start=NOON + timedelta(minutes=71))]
    asks.append(everyone._replace(end=NOON))
    with ledger.database.reading() as tx:
        found = aggregation.customers(tx, ledger.organization_id, asks)
    assert [found[ask] for ask in asks] == [2, 1, 0]
