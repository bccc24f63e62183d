"""What clients of the API tell comes into the ledger once, or is refused with a reason."""

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from usageflow.catalog.charges import Terms, encode
from usageflow.db.billing_tables import PlanRow, PlanVersionRow, SubscriptionRow
from usageflow.db.columns import table
from usageflow.db.tables import (
    CustomerIdentityRow,
    CustomerRow,
    UsageEventRow,
    UsageValueRow,
    UsageWindowRow,
)
from usageflow.ledger import tracking
from usageflow.ledger.tracking import Filter, Measure, Outcome, Rules, Tracked

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CALLS = Measure("metric-1", "API_CALL")
USERS = Measure("metric-2", "ACTIVE_USER", "UNIQUE_COUNT")


def told(**changes: Any) -> Tracked:
    """An event of the customer acme."""
    values: dict[str, Any] = {
        "customer_external_id": "acme",
        "metric": CALLS,
        "quantity": Decimal(1),
        "source": "/api/track",
    }
    return Tracked(**values | changes)


def take(ledger: "Ledger", *items: Tracked, **rules: Any) -> list[Outcome]:
    """Take them in a transaction of its own."""
    with ledger.database.transaction() as tx:
        return tracking.take(tx, ledger.organization_id, items, Rules(**rules))


def codes(outcomes: list[Outcome]) -> list[str]:
    """Status, or the code of what was refused."""
    return [one.code or one.status for one in outcomes]


def sums(ledger: "Ledger") -> dict[str, Decimal]:
    """What was counted, by the external id of its customer."""
    names = {row.id: row.external_id for row in ledger.rows(CustomerRow)}
    found = {names[row.customer_id]: Decimal(0) for row in ledger.rows(UsageWindowRow)}
    for row in ledger.rows(UsageWindowRow):
        found[names[row.customer_id]] += row.total
    return found


def test_an_event_is_stored_as_it_was_told(ledger: "Ledger") -> None:
    """With its customer, its moment, its key, its metadata and where it was told; and it counts."""
    at = NOON - timedelta(hours=2)
    item = told(
        quantity=Decimal("1.50"),
        occurred_at=at,
        idempotency_key="req_1",
        metadata={"endpoint": "/v1/chat", "cost": Decimal("0.10")},
    )
    (outcome,) = take(ledger, item)
    (row,), (customer,) = ledger.rows(UsageEventRow), ledger.rows(CustomerRow)
    assert outcome.status == "accepted"
    assert outcome.event is not None
    assert (outcome.event.id, outcome.event.customer_id) == (row.id, customer.id)
    assert row.model_dump() == {
        "seq": 1,
        "organization_id": ledger.organization_id,
        "id": row.id,
        "customer_id": customer.id,
        "metric": "API_CALL",
        "quantity": Decimal("1.50"),
        "occurred_at": at,
        "received_at": NOON,
        "identity_field": "external_id",
        "identity_value": "acme",
        "policy": "",
        "policy_version": "",
        "event_name": None,
        "state": "counted",
        "reason": None,
        "request_method": "POST",
        "request_route": "/api/track",
        "request_status": None,
        "fingerprint": row.fingerprint,
        "unit_id": None,
        "idempotency_key": "req_1",
        "metadata_": '{"endpoint":"/v1/chat","cost":0.10}',
        "unique_value": None,
    }
    assert row.id.startswith("evt_")
    assert sums(ledger) == {"acme": Decimal("1.50")}


def test_the_same_content_gets_the_original_answer(ledger: "Ledger") -> None:
    """In one batch and later, however its numbers and times are written, and it counts once."""
    at = NOON - timedelta(hours=1)
    item = told(idempotency_key="k", occurred_at=at, quantity=Decimal(5), metadata={"a": 1})
    same = told(
        idempotency_key="k",
        occurred_at=at.astimezone(tz=None),
        quantity=Decimal("5.00"),
        metadata={"a": 2},
    )
    first, again = take(ledger, item, same)
    ledger.clock.advance(600)
    (later,) = take(ledger, same)
    assert [one.status for one in (first, again, later)] == ["accepted", "duplicate", "duplicate"]
    assert first.event == again.event == later.event
    assert first.event is not None
    assert first.event.metadata == '{"a":1}'
    assert sums(ledger) == {"acme": Decimal(5)}


def test_without_a_key_every_telling_is_another_event(ledger: "Ledger") -> None:
    """Two equal requests are two facts, unless the client says otherwise."""
    assert codes(take(ledger, told(), told())) == ["accepted", "accepted"]
    assert sums(ledger) == {"acme": Decimal(2)}


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": Decimal(2)},
        {"customer_external_id": "other"},
        {"customer_external_id": None},
        {"metric": Measure("metric-3", "TOKEN")},
        {"occurred_at": NOON - timedelta(hours=1)},
        {"occurred_at": NOON},
    ],
    ids=["quantity", "customer", "nobody", "metric", "time", "a time at all"],
)
def test_other_content_under_the_same_key_is_a_conflict(
    ledger: "Ledger", change: dict[str, Any]
) -> None:
    """In one batch and later; the first stays what it is."""
    item = told(idempotency_key="k")
    assert codes(take(ledger, item, item._replace(**change))) == [
        "accepted",
        "idempotency_conflict",
    ]
    assert codes(take(ledger, item._replace(**change))) == ["idempotency_conflict"]
    assert sums(ledger) == {"acme": Decimal(1)}


def test_another_value_under_the_same_key_is_a_conflict(ledger: "Ledger") -> None:
    """What is told apart is content, other metadata is not."""
    item = told(metric=USERS, idempotency_key="k", metadata={"user_id": "a", "page": 1})
    assert codes(
        take(
            ledger,
            item,
            item._replace(metadata={"user_id": "a", "page": 2}),
            item._replace(metadata={"user_id": "b"}),
        )
    ) == ["accepted", "duplicate", "idempotency_conflict"]


def test_a_key_is_answered_before_it_is_judged_again(ledger: "Ledger") -> None:
    """A retry after the window closed, or after the customer went, gets the original answer."""
    item = told(idempotency_key="k", occurred_at=NOON)
    (first,) = take(ledger, item)
    ledger.clock.advance(90 * 86_400)
    with ledger.database.transaction() as tx:
        tx.session.execute(update(table(CustomerRow)).values(archived_at=tx.now))
    assert take(ledger, item, unknown_customer="refuse") == [first._replace(status="duplicate")]


def test_two_organizations_may_use_one_key(ledger: "Ledger") -> None:
    """A key is its organization's own."""
    with ledger.database.transaction() as tx:
        from usageflow.catalog import organizations

        other = organizations.create(tx, "other", actor="test")
        item = told(idempotency_key="k")
        mine = tracking.take(tx, ledger.organization_id, [item], Rules())
        theirs = tracking.take(tx, other, [item._replace(quantity=Decimal(7))], Rules())
    assert codes(mine + theirs) == ["accepted", "accepted"]


def test_one_key_told_by_two_at_once_counts_once(ledger: "Ledger") -> None:
    """One is accepted, the other gets its answer; with other content, a conflict."""
    barrier = threading.Barrier(4)
    found: list[Outcome] = []

    def send(quantity: int) -> None:
        barrier.wait()
        found.extend(take(ledger, told(idempotency_key="k", quantity=Decimal(quantity))))

    threads = [threading.Thread(target=send, args=(n,)) for n in (1, 1, 2, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes(found)) == [
        "accepted",
        "duplicate",
        "idempotency_conflict",
        "idempotency_conflict",
    ]
    assert len(ledger.rows(UsageEventRow)) == 1


# What is refused


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"quantity": Decimal(0)}, "invalid_quantity"),
        ({"quantity": Decimal(-1)}, "invalid_quantity"),
        ({"quantity": Decimal("NaN")}, "invalid_quantity"),
        ({"quantity": Decimal("1E-13")}, "invalid_quantity"),
        ({"quantity": Decimal("1E+40")}, "invalid_quantity"),
        ({"customer_external_id": ""}, "invalid_customer"),
        ({"customer_external_id": " acme"}, "invalid_customer"),
        ({"customer_external_id": "a\0b"}, "invalid_customer"),
        ({"customer_external_id": "x" * 501}, "invalid_customer"),
        ({"idempotency_key": ""}, "invalid_key"),
        ({"idempotency_key": "x" * 501}, "invalid_key"),
        ({"occurred_at": NOON + timedelta(minutes=5, seconds=1)}, "invalid_timestamp"),
        ({"occurred_at": NOON - timedelta(days=60)}, "outside_window"),
        ({"metadata": {"a": "x" * 16_384}}, "invalid_metadata"),
        ({"metadata": {"a": [[[[[[[[[[1]]]]]]]]]]}}, "invalid_metadata"),
        ({"metric": USERS}, "invalid_metadata"),
        ({"metric": USERS, "metadata": {"user_id": {"id": 7}}}, "invalid_metadata"),
        ({"metric": USERS, "metadata": {"user_id": None}}, "invalid_metadata"),
    ],
)
def test_what_cannot_be_taken_is_refused_alone(
    ledger: "Ledger", change: dict[str, Any], code: str
) -> None:
    """With a reason; the others of its batch are taken, and it leaves nothing behind."""
    outcomes = take(ledger, told(), told(customer_external_id="odd")._replace(**change), told())
    assert codes(outcomes) == ["accepted", code, "accepted"]
    assert outcomes[1].message
    assert sums(ledger) == {"acme": Decimal(2)}
    assert [row.external_id for row in ledger.rows(CustomerRow)] == ["acme"]


def test_a_clock_may_be_five_minutes_ahead(ledger: "Ledger") -> None:
    """Five minutes are taken, inclusively."""
    assert codes(take(ledger, told(occurred_at=NOON + timedelta(minutes=5)))) == ["accepted"]


def test_a_refused_key_is_still_free(ledger: "Ledger") -> None:
    """What was never taken does not stand in the way of what is mended."""
    bad = told(idempotency_key="k", occurred_at=NOON - timedelta(days=60))
    assert codes(take(ledger, bad, bad._replace(occurred_at=NOON), bad)) == [
        "outside_window",
        "accepted",
        "idempotency_conflict",
    ]


# How late usage may come


def test_usage_without_a_subscription_belongs_to_its_month(ledger: "Ledger") -> None:
    """Until so many hours after the month of UTC, inclusively."""
    october = told(occurred_at=datetime(2026, 10, 31, 23, 59, tzinfo=UTC))
    take(ledger, told())
    for customer in ("acme", "new"):
        item = october._replace(customer_external_id=customer)
        ledger.clock.now = datetime(2026, 11, 4, tzinfo=UTC)
        assert codes(take(ledger, item)) == ["accepted"]
        ledger.clock.advance(1)
        assert codes(take(ledger, item)) == ["outside_window"]
        assert codes(take(ledger, item, late_hours=73)) == ["accepted"]


def subscribe(ledger: "Ledger", start: datetime, end: datetime, *, customer: str = "acme") -> None:
    """Let a customer be in a billing period from `start` to `end`."""
    terms = Terms(type="FIXED", currency="USD", interval="month")
    plan = {"id": "plan_1", "organization_id": ledger.organization_id}
    (payer,) = [one for one in ledger.rows(CustomerRow) if one.external_id == customer]
    with ledger.database.transaction() as tx:
        tx.session.add(
            PlanRow(
                **plan,
                lookup_id="pro",
                name="Pro",
                is_active=True,
                version=1,
                created_at=tx.now,
                updated_at=tx.now,
            )
        )
        tx.session.flush()
        tx.session.add(
            PlanVersionRow(
                plan_id="plan_1",
                version=1,
                organization_id=ledger.organization_id,
                document=encode(terms),
                created_at=tx.now,
            )
        )
        tx.session.flush()
        tx.session.add(
            SubscriptionRow(
                id="sub_1",
                organization_id=ledger.organization_id,
                customer_id=payer.id,
                plan_id="plan_1",
                plan_version=1,
                state="ACTIVE",
                time_zone="UTC",
                anchor_at=start,
                period_index=0,
                period_start=start,
                period_end=end,
                created_at=tx.now,
                updated_at=tx.now,
            )
        )


def test_usage_of_a_subscriber_belongs_to_its_period(ledger: "Ledger") -> None:
    """A period that goes on takes what is older than any month; what was before it does not."""
    take(ledger, told())
    begun = NOON - timedelta(days=80)
    subscribe(ledger, begun, NOON + timedelta(days=5))
    old = [told(occurred_at=begun), told(occurred_at=begun - timedelta(seconds=1))]
    assert codes(take(ledger, *old)) == ["accepted", "outside_window"]
    other = told(customer_external_id="other", occurred_at=begun)
    assert codes(take(ledger, other)) == ["outside_window"]


# Whose it is


def test_nobody_named_is_the_default_customer(ledger: "Ledger") -> None:
    """The organization itself; also where unknown customers are refused."""
    item = told(customer_external_id=None)
    assert codes(take(ledger, item, item, unknown_customer="refuse")) == ["accepted"] * 2
    assert sums(ledger) == {"default": Decimal(2)}


def test_an_unknown_customer_is_made_or_refused(ledger: "Ledger") -> None:
    """As the organization has it; a refusal makes none."""
    assert codes(take(ledger, told(), unknown_customer="refuse")) == ["unknown_customer"]
    assert ledger.rows(CustomerRow) == []
    assert codes(take(ledger, told(), told())) == ["accepted"] * 2
    assert codes(take(ledger, told(), unknown_customer="refuse")) == ["accepted"]
    assert [row.external_id for row in ledger.rows(CustomerRow)] == ["acme"]


def test_a_customer_is_who_bears_the_external_id(ledger: "Ledger", line: "LineOf") -> None:
    """Whoever made it: a person, an edge that knows it by another field, or another client."""
    with ledger.database.transaction() as tx:
        tx.session.add(
            CustomerRow(
                id="c-1",
                organization_id=ledger.organization_id,
                external_id="acme",
                created_at=tx.now,
            )
        )
    ledger.append(line(customer="edge", field="account_id"))
    ledger.append(line(customer="acme", field="external_id"))
    take(ledger, told(), told(customer_external_id="edge"))
    assert sums(ledger) == {"acme": Decimal(2), "edge": Decimal(2)}


def test_an_identity_that_was_moved_is_followed(ledger: "Ledger") -> None:
    """What a person has decided about an external id goes before the name itself."""
    take(ledger, told(), told(customer_external_id="other"))
    ids = {row.external_id: row.id for row in ledger.rows(CustomerRow)}
    with ledger.database.transaction() as tx:
        known = table(CustomerIdentityRow)
        move = update(known).where(known.c.value == "other")
        tx.session.execute(move.values(customer_id=ids["acme"]))
    take(ledger, told(customer_external_id="other"))
    assert sums(ledger) == {"acme": Decimal(2), "other": Decimal(1)}


def test_an_archived_customer_takes_no_more_usage(ledger: "Ledger") -> None:
    """A person has taken it out of use."""
    take(ledger, told())
    with ledger.database.transaction() as tx:
        tx.session.execute(update(table(CustomerRow)).values(archived_at=tx.now))
    assert codes(take(ledger, told())) == ["archived_customer"]


# What a metric counts


def test_what_a_filter_keeps_out_is_kept_and_not_counted(ledger: "Ledger") -> None:
    """The event is there, with its reason; only what every filter lets through counts."""
    metric = CALLS._replace(
        filters=(Filter("region", ("eu", "us")), Filter("paid", ("true",))),
    )
    outcomes = take(
        ledger,
        told(metric=metric, metadata={"region": "eu", "paid": True}),
        told(metric=metric, metadata={"region": "asia", "paid": True}),
        told(metric=metric, metadata={"region": "us"}),
        told(metric=metric),
    )
    assert codes(outcomes) == ["accepted"] * 4
    assert [(row.state, row.reason) for row in ledger.rows(UsageEventRow)] == [
        ("counted", None),
        ("skipped", "API_CALL counts only where region is eu or us"),
        ("skipped", "API_CALL counts only where paid is true"),
        ("skipped", "API_CALL counts only where region is eu or us"),
    ]
    assert sums(ledger) == {"acme": Decimal(1)}


def test_different_values_are_kept_of_what_the_metric_names(ledger: "Ledger") -> None:
    """Texts and numbers alike; `user_id` if the metric says nothing."""
    other = USERS._replace(property="seat")
    take(
        ledger,
        *(told(metric=USERS, metadata={"user_id": value}) for value in ("a", "b", "a", 7)),
        told(metric=other, metadata={"user_id": "a", "seat": "9"}),
    )
    assert sorted((row.value, row.events) for row in ledger.rows(UsageValueRow)) == [
        ("7", 1),
        ("9", 1),
        ("a", 2),
        ("b", 1),
    ]


def test_who_is_no_customer_is_the_organizations_own_usage(ledger: "Ledger") -> None:
    """While the organization itself subscribes, it pays for strangers; customers pay themselves."""
    take(ledger, told(customer_external_id=None), told(customer_external_id="acme"))
    subscribe(ledger, NOON - timedelta(days=5), NOON + timedelta(days=5), customer="default")
    (stranger,) = take(ledger, told(customer_external_id="user_123"))
    take(ledger, told(customer_external_id="acme"))
    assert sums(ledger) == {"default": Decimal(2), "acme": Decimal(2)}
    assert stranger.event is not None
    (row,) = [one for one in ledger.rows(UsageEventRow) if one.id == stranger.event.id]
    assert (row.identity_field, row.identity_value) == ("external_id", "user_123")
    assert take(ledger, told(customer_external_id="x"), unknown_customer="refuse")[0].event
    with ledger.database.transaction() as tx:
        tx.session.execute(update(table(SubscriptionRow)).values(state="CANCELLED"))
    take(ledger, told(customer_external_id="user_123"))
    assert sums(ledger)["user_123"] == 1
