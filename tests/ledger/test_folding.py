"""Each forwarded event is in exactly one unit."""

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from usageflow.db.columns import table
from usageflow.db.tables import InstallationRow, LaneRow, StripeMeterRow, UnitRow, UsageEventRow
from usageflow.ledger import boundaries, folding
from usageflow.ledger.identifiers import identifier
from usageflow.ledger.verdicts import Accepted

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def shape(ledger: "Ledger") -> list[tuple[str, int, Decimal, int]]:
    """(state, sequence, quantity, events) of every unit."""
    return [
        (unit.state, unit.sequence, unit.quantity, unit.events) for unit in ledger.rows(UnitRow)
    ]


def test_events_of_a_sum_meter_are_folded(ledger: "Ledger", line: "LineOf") -> None:
    """Within a batch and from batch to batch, into one open unit that knows its events."""
    ledger.connect(used="sum")
    ledger.append(line(quantity=1, event_name="used"), line(quantity="0.5", event_name="used"))
    ledger.append(line(quantity=2, event_name="used"))
    assert shape(ledger) == [("open", 1, Decimal("3.5"), 3)]
    (unit,) = ledger.rows(UnitRow)
    assert [event.unit_id for event in ledger.rows(UsageEventRow)] == [unit.id] * 3


@pytest.mark.parametrize("formula", ["count", "last"])
def test_events_of_other_meters_stay_alone(ledger: "Ledger", line: "LineOf", formula: str) -> None:
    """Each is a sealed unit with a number of its own, at its own time."""
    ledger.connect(used=formula)
    later = ledger.clock.now + timedelta(minutes=5)
    ledger.append(line(event_name="used"), line(event_name="used", occurred_at=later))
    ledger.append(line(event_name="used"))
    assert shape(ledger) == [("sealed", number, Decimal(1), 1) for number in (1, 2, 3)]
    noon = ledger.clock.now
    assert [unit.occurred_at for unit in ledger.rows(UnitRow)] == [noon, later, noon]


def test_an_unknown_or_pre_aggregated_meter_never_folds(ledger: "Ledger", line: "LineOf") -> None:
    """Folding under a meter that does not add up would bill too little."""
    ledger.connect(window="sum")
    with ledger.database.transaction() as tx:
        tx.session.execute(update(table(StripeMeterRow)).values(event_time_window="hour"))
    ledger.append(*(line(event_name=name) for name in ("window", "window", "unknown", "unknown")))
    assert [state for state, *_ in shape(ledger)] == ["sealed"] * 4


def test_a_unit_never_crosses_an_hour(ledger: "Ledger", line: "LineOf") -> None:
    """Events on both sides of an hour are two units, each with the first number of its hour."""
    ledger.connect(used="sum")
    last = ledger.clock.now + timedelta(minutes=59, seconds=59, microseconds=999_999)
    ledger.append(
        line(event_name="used", occurred_at=last),
        line(event_name="used", occurred_at=last + timedelta(microseconds=1)),
    )
    assert shape(ledger) == [("open", 1, Decimal(1), 1), ("open", 2, Decimal(1), 1)]
    assert next(unit.occurred_at for unit in ledger.rows(UnitRow)) == last


def test_lanes_are_apart(ledger: "Ledger", line: "LineOf") -> None:
    """Customers and event names each have a lane; an event without a name has none."""
    ledger.connect(used="sum", tokens="sum")
    ledger.append(
        line(customer="a", event_name="used"),
        line(customer="a", event_name="tokens"),
        line(customer="b", event_name="used"),
        line(customer="b"),
    )
    lanes = ledger.rows(LaneRow)
    assert sorted((lane.identity_value, lane.event_name) for lane in lanes) == [
        ("a", "tokens"),
        ("a", "used"),
        ("b", "used"),
    ]
    assert all(lane.waiting for lane in lanes)


def test_what_is_being_sent_is_not_added_to(ledger: "Ledger", line: "LineOf") -> None:
    """While a unit is at Stripe, what arrives is folded into the next one."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used"))
    (claim,) = ledger.claim()
    ledger.append(line(event_name="used"), line(event_name="used"))
    assert shape(ledger) == [("sending", 1, Decimal(1), 1), ("open", 2, Decimal(2), 2)]
    ledger.settle(claim, Accepted())
    (following,) = ledger.claim()
    assert (following.quantity, following.events) == (Decimal(2), 2)


@pytest.mark.parametrize(
    ("quantities", "units"),
    [
        (["999999999999998", 1, 1], ["999999999999999", "1"]),
        (["99999999999999", "0.1", "0.01"], ["99999999999999.1", "0.01"]),
        (["0.000000000001", "0.000000000001", "1000"], ["0.000000000002", "1000"]),
    ],
)
def test_a_sum_stays_within_the_digits_stripe_takes(
    ledger: "Ledger", line: "LineOf", quantities: list[Any], units: list[str]
) -> None:
    """A sum of more than 15 digits would be refused; the open unit is sealed before."""
    ledger.connect(used="sum")
    for quantity in quantities:
        ledger.append(line(event_name="used", quantity=quantity))
    assert [f"{quantity:f}" for _, _, quantity, _ in shape(ledger)] == units
    assert [state for state, *_ in shape(ledger)] == ["sealed", "open"]


def test_a_quantity_too_large_for_one_unit_is_carried_by_parts(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """They add up to it, each of at most 15 digits; what comes next is folded apart from them."""
    ledger.connect(used="sum", each="count")
    ledger.append(line(event_name="used"), line(event_name="used", quantity="1234567890123456.5"))
    ledger.append(line(event_name="used", quantity=2), line(event_name="each", quantity=10**15))
    first, *parts, last, counted = ledger.rows(UnitRow)
    assert (first.quantity, last.quantity, counted.quantity) == (1, 2, 10**15)
    assert sum(part.quantity for part in parts) == Decimal("1234567890123456.5")
    assert [part.kind for part in parts] == ["usage", "part", "part"]
    assert {part.parent_id for part in parts[1:]} == {parts[0].id}
    assert [part.state for part in (first, *parts, last)] == ["sealed"] * 4 + ["open"]
    metered = {lane.event_name: lane.metered for lane in ledger.rows(LaneRow)}
    assert metered == {"used": Decimal("1234567890123459.5"), "each": Decimal(10**15)}


def test_no_unit_crosses_a_boundary(ledger: "Ledger", line: "LineOf") -> None:
    """Usage before a moment that divides the hour never shares a unit with usage after it."""
    ledger.connect(used="sum")
    at = [ledger.clock.now + timedelta(minutes=minutes) for minutes in (0, 10, 20, 30)]
    ledger.append(line(event_name="used", occurred_at=at[0]))
    (lane,) = ledger.rows(LaneRow)
    with ledger.database.transaction() as tx:
        boundaries.add(tx, [lane.id], at[2], "period")
    for quantity, moment in ((2, at[1]), (4, at[2]), (8, at[3]), (16, at[0])):
        ledger.append(line(event_name="used", quantity=quantity, occurred_at=moment))
    assert [quantity for _, _, quantity, _ in shape(ledger)] == [1, 2, 12, 16]
    with ledger.database.reading() as tx:
        assert boundaries.of(tx, [lane.id]) == {lane.id: (at[2],)}


def test_usage_before_the_account_is_picked_up(ledger: "Ledger", line: "LineOf") -> None:
    """Without an account there are no units; afterwards old events are assigned, oldest first."""
    ledger.append(*(line(event_name="used", quantity=n) for n in range(1, 6)), line())
    with ledger.database.transaction() as tx:
        assert folding.assign_unassigned(tx, ledger.organization_id, 10) == 0
    assert ledger.rows(UnitRow) == []
    ledger.connect(used="sum")
    counts = []
    for _ in range(4):
        with ledger.database.transaction() as tx:
            counts.append(folding.assign_unassigned(tx, ledger.organization_id, 2))
    assert counts == [2, 2, 1, 0]
    assert shape(ledger) == [("open", 1, Decimal(15), 5)]


def test_identifiers_are_short_and_never_the_same(ledger: "Ledger", line: "LineOf") -> None:
    """56 characters from the installation, account, customer, event name, hour and number."""
    ledger.connect(each="count")
    later = ledger.clock.now + timedelta(hours=1)
    ledger.append(
        line(event_name="each"),
        line(event_name="each"),
        line(event_name="each", occurred_at=later),
        line(event_name="each", customer="b"),
        line(event_name="other"),
    )
    identifiers = {unit.identifier for unit in ledger.rows(UnitRow)}
    assert len(identifiers) == 5
    assert all(name.startswith("uf1_") and len(name) == 56 for name in identifiers)
    assert all(name.isascii() and name == name.lower() for name in identifiers)


def test_an_identifier_is_the_same_for_ever(ledger: "Ledger", line: "LineOf") -> None:
    """It is a function of its parts, and no two lists of parts run together."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used"))
    (unit,), (lane,) = ledger.rows(UnitRow), ledger.rows(LaneRow)
    (installation,) = ledger.rows(InstallationRow)
    place = {"hour": unit.hour, "sequence": 1}
    again = identifier(
        installation.id, "account-1", customer_id=lane.customer_id, event_name="used", **place
    )
    assert again == unit.identifier
    shifted = {"customer_id": lane.customer_id + "u", "event_name": "sed"}
    assert identifier(installation.id, "account-1", **shifted, **place) != again
    assert (
        identifier("i", "a", customer_id="c", event_name="e", **place)
        == "uf1_45brnycwkcfaslbz2auwcqohs4qjlfbfnfyph7rsxyaw45fskchq"
    )


@pytest.mark.parametrize(
    "change", [{"quantity": Decimal(9)}, {"events": 9}, {"identifier": "x"}, {"sequence": 9}]
)
def test_a_sealed_unit_cannot_be_changed(
    ledger: "Ledger", line: "LineOf", change: dict[str, Any]
) -> None:
    """The database refuses another payload under the same identifier, and deletion."""
    ledger.connect(each="count")
    ledger.append(line(event_name="each"))
    units = table(UnitRow)
    for statement in (update(units).values(change), delete(units)):
        with (
            pytest.raises(IntegrityError, match="the payload of a sealed unit never changes"),
            ledger.database.transaction() as tx,
        ):
            tx.session.execute(statement)
