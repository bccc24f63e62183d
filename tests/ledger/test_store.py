"""Batches come in exactly once, whatever is in them."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError

from usageflow.db.columns import table
from usageflow.db.tables import (
    CustomerRow,
    IngestRejectionRow,
    MetricRow,
    UnitRow,
    UsageEventRow,
    UsageWindowRow,
)
from usageflow.events import decode, fingerprint
from usageflow.ledger import store
from usageflow.ledger.store import ItemResult

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def test_an_event_is_stored_as_it_was_told(ledger: "Ledger", line: "LineOf") -> None:
    """Every field, with the customer it belongs to and the moment it came."""
    encoded = line(quantity="1.50", reason="the client disconnected", event_name="used")
    assert ledger.append(encoded) == ["accepted"]
    event, (row,), (customer,) = (
        decode(encoded),
        ledger.rows(UsageEventRow),
        ledger.rows(CustomerRow),
    )
    assert row.model_dump(exclude={"seq", "organization_id"}) == {
        "id": event.id,
        "customer_id": customer.id,
        "metric": "API_CALL",
        "quantity": Decimal("1.50"),
        "occurred_at": event.occurred_at,
        "received_at": ledger.clock.now,
        "identity_field": "account_id",
        "identity_value": "acct_1",
        "policy": "chat",
        "policy_version": "1",
        "event_name": "used",
        "state": "counted",
        "reason": "the client disconnected",
        "request_method": "POST",
        "request_route": "/chat",
        "request_status": 200,
        "fingerprint": fingerprint(event),
        "unit_id": None,
        "idempotency_key": None,
        "metadata_": None,
        "unique_value": None,
    }
    assert customer.external_id == "acct_1"


def test_the_same_event_again_is_a_duplicate(ledger: "Ledger", line: "LineOf") -> None:
    """In a later batch and within one batch: it counts once."""
    encoded = line()
    assert ledger.append(encoded, encoded) == ["accepted", "duplicate"]
    assert ledger.append(encoded) == ["duplicate"]
    assert [window.total for window in ledger.rows(UsageWindowRow)] == [1]


def test_another_event_under_the_same_id_is_a_conflict(ledger: "Ledger", line: "LineOf") -> None:
    """In a later batch and within one batch: the first stays, the other is kept aside once."""
    first, other = line(id="x", quantity=1), line(id="x", quantity=2)
    assert ledger.append(first, other, first) == ["accepted", "conflict", "duplicate"]
    assert ledger.append(other) == ["conflict"]
    assert [row.quantity for row in ledger.rows(UsageEventRow)] == [1]
    (rejected,) = ledger.rows(IngestRejectionRow)
    assert (rejected.event_key, rejected.body) == ("x", other.decode())
    assert rejected.reason == "this id belongs to another event"


def test_one_bad_line_does_not_fail_the_others(ledger: "Ledger", line: "LineOf") -> None:
    """Results come in the order of the lines; what is refused is kept with its reason."""
    with ledger.database.transaction() as tx:
        results = store.append(
            tx,
            ledger.organization_id,
            [line(id="1"), b"not json", line(id="n", customer="a\0b"), b"\xff", line(id="2")],
            unknown_metric="create",
        )
    assert [(result.id, result.status) for result in results] == [
        ("1", "accepted"),
        (None, "invalid"),
        ("n", "invalid"),
        (None, "invalid"),
        ("2", "accepted"),
    ]
    rejections = ledger.rows(IngestRejectionRow)
    assert {row.reason for row in rejections} == {
        result.reason for result in results if result.status == "invalid"
    }
    assert len(rejections) == 3


def test_what_is_refused_is_kept_once_and_bounded(ledger: "Ledger") -> None:
    """A sender that repeats a broken line for ever does not fill the disk."""
    long = b"x" * 100_000
    ledger.append(long, long)
    ledger.append(long)
    (row,) = ledger.rows(IngestRejectionRow)
    assert row.body == "x" * store.REJECTED_CHARS_MAX


def test_an_empty_batch_is_nothing(ledger: "Ledger") -> None:
    """No line, no result."""
    assert ledger.append() == []


@pytest.mark.parametrize(
    "quantity",
    ["123456789012345678901234567890", "0.000000000001", "0", "0.1", "99999999999999999999999999"],
)
def test_quantities_stay_exact(ledger: "Ledger", line: "LineOf", quantity: str) -> None:
    """From the line to the window no digit is lost: ten of it are ten times as much."""
    ledger.append(*(line(quantity=quantity) for _ in range(10)))
    (window,) = ledger.rows(UsageWindowRow)
    assert (window.total, window.events) == (Decimal(f"{quantity}E+1"), 10)


def test_an_unknown_metric_is_created(ledger: "Ledger", line: "LineOf") -> None:
    """With `create` the event counts and the metric exists afterwards."""
    ledger.append(line(metric="NEW"), line(metric="NEW"))
    assert [row.key for row in ledger.rows(MetricRow)] == ["NEW"]
    assert [row.total for row in ledger.rows(UsageWindowRow)] == [2]


def test_a_gap_makes_no_metric(ledger: "Ledger", line: "LineOf") -> None:
    """Requests that were served before any policy was there belong to no metric."""
    ledger.append(line(metric="(unknown)", state="gap", reason="no policies"))
    assert ledger.rows(MetricRow) == []
    assert [row.state for row in ledger.rows(UsageEventRow)] == ["gap"]


def test_an_unknown_metric_waits_in_the_inbox(ledger: "Ledger", line: "LineOf") -> None:
    """With `inbox` the event is accepted, told apart, and counts nowhere; known ones do count."""
    ledger.append(line(metric="KNOWN"))
    statuses = ledger.append(
        line(metric="NEW"),
        line(metric="NEW", state="inbox", quantity=None, reason="no identity"),
        line(metric="NEW", state="shadow"),
        line(metric="KNOWN"),
        unknown_metric="inbox",
    )
    assert statuses == ["accepted"] * 4
    assert [(row.state, row.reason) for row in ledger.rows(UsageEventRow)][1:] == [
        ("inbox", 'metric "NEW" is not defined'),
        ("inbox", 'no identity; metric "NEW" is not defined'),
        ("shadow", None),
        ("counted", None),
    ]
    assert [(row.metric, row.total) for row in ledger.rows(UsageWindowRow)] == [("KNOWN", 2)]
    assert [row.key for row in ledger.rows(MetricRow)] == ["KNOWN"]


@pytest.mark.parametrize("state", ["inbox", "shadow", "skipped", "gap"])
def test_what_is_not_counted_touches_nothing(ledger: "Ledger", line: "LineOf", state: str) -> None:
    """No customer, window or unit comes of it."""
    ledger.connect(used="sum")
    assert ledger.append(line(state=state, event_name="used", reason="why")) == ["accepted"]
    assert [row.state for row in ledger.rows(UsageEventRow)] == [state]
    for row in (CustomerRow, UsageWindowRow, UnitRow):
        assert ledger.rows(row) == []


def test_longest_keys_fit_every_index(ledger: "Ledger", line: "LineOf") -> None:
    """The largest event the limits allow can be stored, also where a key holds several texts."""
    wide = "\N{GRINNING FACE}"
    lines = [
        line(
            id=f"{n}" + wide * 499, customer=wide * 500, field=f"{n}" + wide * 99, metric=wide * 500
        )
        for n in range(2)
    ]
    assert ledger.append(*lines) == ["accepted", "accepted"]


def test_everything_commits_or_nothing(ledger: "Ledger", line: "LineOf") -> None:
    """A transaction that dies after `append` leaves no trace of the batch."""
    ledger.connect(used="sum")
    with pytest.raises(RuntimeError), ledger.database.transaction() as tx:
        batch = [line(event_name="used"), b"bad"]
        store.append(tx, ledger.organization_id, batch, unknown_metric="create")
        raise RuntimeError
    for row in (UsageEventRow, UsageWindowRow, UnitRow, CustomerRow, MetricRow, IngestRejectionRow):
        assert ledger.rows(row) == []


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": Decimal(0)},
        {"state": "skipped"},
        {"customer_id": None},
        {"metric": "OTHER"},
        {"event_name": None},
        {"identity_value": "acct_2"},
        {"reason": "because"},
        {"unit_id": None},
        {"seq": 99},
        {"fingerprint": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_stored_event_cannot_be_changed(
    ledger: "Ledger", line: "LineOf", change: dict[str, Any]
) -> None:
    """The database itself refuses, also for what the ledger's own code could write."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used"))
    with (
        pytest.raises(IntegrityError, match="usage events are append-only"),
        ledger.database.transaction() as tx,
    ):
        tx.session.execute(update(table(UsageEventRow)).values(change))


def test_a_stored_event_cannot_be_deleted(ledger: "Ledger", line: "LineOf") -> None:
    """Neither one by one nor, on PostgreSQL, all at once."""
    ledger.append(line())
    statements = [delete(table(UsageEventRow))]
    if ledger.database.dialect == "postgresql":
        statements.append(text("TRUNCATE usage_event CASCADE"))  # type: ignore[arg-type]
    for statement in statements:
        with (
            pytest.raises(IntegrityError, match="usage events are append-only"),
            ledger.database.transaction() as tx,
        ):
            tx.session.execute(statement)


def test_an_inbox_event_can_be_released_once(ledger: "Ledger", line: "LineOf") -> None:
    """What was missing is filled in; afterwards the event is as fixed as any other."""
    ledger.append(line(), line(state="inbox", quantity=None, reason="response.body is missing"))
    events = table(UsageEventRow)
    customer_id = ledger.rows(CustomerRow)[0].id
    release = (
        update(events)
        .where(events.c.id == "event-000002")
        .values(state="counted", quantity=Decimal(3), customer_id=customer_id, reason=None)
    )
    with ledger.database.transaction() as tx:
        tx.session.execute(release)
    with pytest.raises(IntegrityError), ledger.database.transaction() as tx:
        tx.session.execute(release.values(quantity=Decimal(4)))


def test_a_counted_event_is_complete(ledger: "Ledger", line: "LineOf") -> None:
    """The database does not let an event count without quantity and customer."""
    ledger.append(line(state="inbox", quantity=None))
    with pytest.raises(IntegrityError), ledger.database.transaction() as tx:
        tx.session.execute(update(table(UsageEventRow)).values(state="counted"))


def test_results_say_why() -> None:
    """An accepted event needs no reason."""
    assert ItemResult("a", "accepted").reason is None


def test_a_large_batch_takes_few_statements(ledger: "Ledger", line: "LineOf") -> None:
    """999 events of 50 customers take no more of them than one event does."""
    ledger.connect(used="sum")

    def statements(events: int) -> int:
        seen: list[str] = []
        batch = [line(customer=f"c{n % 50}", event_name="used") for n in range(events)]
        with ledger.database.transaction() as tx:
            connection = tx.session.connection()
            listen(connection, "before_cursor_execute", lambda *args: seen.append(args[2]))
            store.append(tx, ledger.organization_id, batch, unknown_metric="create")
        return len(seen)

    of_one = statements(1)
    assert 0 < statements(999) <= of_one
    assert sum(row.events for row in ledger.rows(UnitRow)) == 1_000
