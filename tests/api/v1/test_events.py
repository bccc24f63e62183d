"""Events one by one: a list with filters, and the story of each."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from usageflow.catalog import metrics
from usageflow.catalog.audit import Actor
from usageflow.db.session import Database
from usageflow.db.tables import StripeAccountRow, StripeMeterRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store, tracking
from usageflow.ledger.tracking import Measure, Rules, Tracked

SignIn = Callable[..., httpx.Client]
AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.fixture
def viewer(sign_in: SignIn) -> httpx.Client:
    """Somebody who may only look."""
    return sign_in("VIEWER")


def edge_event(number: int, **changes: Any) -> bytes:
    """An event of an edge."""
    values: dict[str, Any] = {
        "id": f"event-{number}",
        "policy": "chat",
        "policy_version": "3",
        "metric": "API_CALL",
        "identity": Identity("account_id", "acct_1"),
        "quantity": Decimal(number),
        "occurred_at": AT + timedelta(hours=number),
        "state": "counted",
        "request_method": "POST",
        "request_route": "/v1/chat",
        "request_status": 200,
    }
    return encode(UsageEvent(**values | changes))


@pytest.fixture
def append(database: Database, organization_id: str) -> Callable[..., None]:
    """`append(line, ...)`: events of an edge."""

    def appended(*lines: bytes) -> None:
        with database.transaction() as tx:
            store.append(tx, organization_id, lines, unknown_metric="create")

    return appended


def ids(client: httpx.Client, **query: Any) -> list[str]:
    """The ids of the events that are listed."""
    answer = client.get("/api/v1/events", params=query)
    assert answer.status_code == 200, answer.text
    return [event["id"] for event in answer.json()["data"]]


def test_events_are_listed_the_latest_first(
    viewer: httpx.Client, append: Callable[..., None]
) -> None:
    """Page after page, until there is no cursor; what comes in meanwhile moves nothing."""
    append(*(edge_event(number) for number in range(5)))
    first = viewer.get("/api/v1/events?page_size=2").json()
    append(edge_event(9))
    query = {"page_size": 2, "cursor": first["meta"]["next_cursor"]}
    second = viewer.get("/api/v1/events", params=query).json()
    last = viewer.get(f"/api/v1/events?cursor={second['meta']['next_cursor']}").json()
    assert [event["id"] for page in (first, second, last) for event in page["data"]] == [
        f"event-{number}" for number in (4, 3, 2, 1, 0)
    ]
    assert last["meta"] == {"next_cursor": None}
    assert last["data"][0] == {
        "id": "event-0",
        "metric": "API_CALL",
        "customer_id": last["data"][0]["customer_id"],
        "quantity": 0,
        "state": "counted",
        "reason": None,
        "occurred_at": "2026-03-01T12:30:00Z",
        "received_at": last["data"][0]["received_at"],
        "idempotency_key": None,
        "metadata": None,
    }


def test_events_are_found_by_what_they_are(
    viewer: httpx.Client, append: Callable[..., None]
) -> None:
    """By metric, customer, state, time and quantity, and all of them together."""
    append(
        edge_event(1),
        edge_event(2, metric="TOKEN"),
        edge_event(3, identity=Identity("account_id", "acct_2")),
        edge_event(4, state="inbox", quantity=None, reason="missing"),
        edge_event(10, quantity=Decimal("9.5")),
    )
    assert ids(viewer, metric="token") == ["event-2"]
    assert ids(viewer, customer_id="acct_2") == ["event-3"]
    assert ids(viewer, state="inbox") == ["event-4"]
    assert ids(viewer, min_quantity="3") == ["event-10", "event-3"]
    assert ids(viewer, min_quantity="2.000000000001") == ["event-10", "event-3"]
    assert ids(viewer, since="2026-03-01T15:30:00Z", until="2026-03-01T22:30:00Z") == [
        "event-4",
        "event-3",
    ]
    assert ids(viewer, customer_id="acct_1", metric="API_CALL", min_quantity="9.5") == ["event-10"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("metric=GHOST", 404),
        ("customer_id=nobody", 404),
        ("state=odd", 422),
        ("min_quantity=many", 422),
        ("cursor=x", 422),
        ("page_size=101", 422),
    ],
)
def test_what_is_not_there_cannot_be_looked_for(
    viewer: httpx.Client, query: str, status: int
) -> None:
    """It is told what is wrong."""
    assert viewer.get(f"/api/v1/events?{query}").status_code == status


def test_an_event_tells_its_story(
    viewer: httpx.Client,
    database: Database,
    organization_id: str,
    append: Callable[..., None],
) -> None:
    """From the request and who was calling to the window and to what carries it to Stripe."""
    append(edge_event(7, event_name="used"))
    assert viewer.get("/api/v1/events/event-7").json()["stripe"] == {
        "event_name": "used",
        "state": "unassigned",
        "identifier": None,
        "quantity": None,
        "stripe_customer_id": None,
        "first_attempt_at": None,
        "accepted_at": None,
        "reason": None,
    }
    with database.transaction() as tx:
        tx.session.add(
            StripeAccountRow(
                id="account-1",
                organization_id=organization_id,
                kind="own",
                account="own",
                livemode=False,
                state="active",
                created_at=tx.now,
            )
        )
        tx.session.flush()
        tx.session.add(
            StripeMeterRow(
                account_id="account-1",
                event_name="used",
                meter_id="mtr_1",
                formula="sum",
                status="active",
                refreshed_at=tx.now,
            )
        )
    append(edge_event(8, event_name="used", occurred_at=AT), edge_event(9, occurred_at=AT))
    found = viewer.get("/api/v1/events/event-8").json()
    assert found["request"] == {
        "method": "POST",
        "route": "/v1/chat",
        "status": 200,
        "policy": "chat",
        "policy_version": "3",
    }
    assert found["identity"] == {"field": "account_id", "value": "acct_1"}
    assert found["customer"] == {"id": found["customer_id"], "external_id": "acct_1"}
    assert found["window"] == {
        "hour": "2026-03-01T12:00:00Z",
        "total": 17,
        "events": 2,
        "maximum": 9,
        "last": 9,
    }
    assert (found["stripe"]["state"], found["stripe"]["quantity"]) == ("open", 8)
    assert found["stripe"]["identifier"].startswith("uf1_")
    assert viewer.get("/api/v1/events/event-9").json()["stripe"] is None


def test_what_does_not_count_has_no_window(
    viewer: httpx.Client, append: Callable[..., None]
) -> None:
    """Nor a customer, nor anything at Stripe; its reason is told."""
    append(edge_event(1, state="inbox", quantity=None, reason="missing", event_name="used"))
    found = viewer.get("/api/v1/events/event-1").json()
    assert (found["quantity"], found["reason"]) == (None, "missing")
    assert found["customer"] is found["window"] is found["stripe"] is None


def test_another_organizations_event_is_none(sign_in: SignIn, append: Callable[..., None]) -> None:
    """Its id is not known there."""
    append(edge_event(1))
    other = sign_in("OWNER", organization="other")
    assert other.get("/api/v1/events/event-1").status_code == 404
    assert ids(other) == []


def test_the_events_of_a_meter_are_listed(
    viewer: httpx.Client, database: Database, organization_id: str
) -> None:
    """In the words of meters, with the metadata as it was sent."""
    with database.transaction() as tx:
        metrics.define(tx, organization_id, key="API_CALL", actor=Actor("test"))
        row = metrics.find(tx, organization_id, "API_CALL")
        assert row is not None
        meter = Measure(row.id, row.key)
        metadata = {"model": "m", "cost": Decimal("0.10")}
        item = Tracked("acme", meter, Decimal("1.50"), None, "key-1", metadata)
        tracking.take(tx, organization_id, [item, item._replace(idempotency_key="2")], Rules())
    answer = viewer.get(f"/api/v1/meters/{meter.id}/events?page_size=1&page=2").json(
        parse_float=Decimal
    )
    (event,) = answer["data"]
    assert answer["meta"] == {"page": 2, "page_size": 1, "total": 2, "total_pages": 2}
    assert event == {
        "id": event["id"],
        "customer_id": event["customer_id"],
        "meter_id": meter.id,
        "quantity": "1.50",
        "timestamp": event["ingested_at"],
        "ingested_at": event["ingested_at"],
        "idempotency_key": "key-1",
        "meta_data": {"model": "m", "cost": Decimal("0.10")},
    }
    assert viewer.get("/api/v1/meters/GHOST/events").status_code == 404
