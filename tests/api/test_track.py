"""Usage told over HTTP, in every dialect, by keys and by people."""

import asyncio
import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest
from sqlmodel import col, select
from starlette.applications import Starlette

from usageflow.api import claims, dialects, group_commit
from usageflow.api.claims import Credentials, Submission
from usageflow.api.track import TrackEndpoints
from usageflow.api.track_openapi import OPENAPI
from usageflow.catalog import (
    customers,
    keys,
    metrics,
    organization_settings,
    organizations,
    sessions,
)
from usageflow.catalog.audit import Actor
from usageflow.catalog.keys import create_key
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import ApiKeyRow, MemberRow, MetricRow, PersonRow, UsageEventRow
from usageflow.ledger import tracking

ACTOR = Actor("test")
KEY_HEADERS = ("x-usageflow-api-key", "X-API-Key", "Authorization")
Sent = Callable[..., httpx.Response]


@pytest.fixture
def organization_id(database: Database) -> str:
    """The default organization, with a metric of each kind that dialects tell apart."""
    with database.transaction() as tx:
        made = organizations.default_organization(tx)
        metrics.define(tx, made, key="API_CALL", property="call_count", actor=ACTOR)
        metrics.define(tx, made, key="TOKEN", actor=ACTOR)
        metrics.define(tx, made, key="VISIT", aggregation="COUNT", actor=ACTOR)
        metrics.define(tx, made, key="ACTIVE_USER", aggregation="UNIQUE_COUNT", actor=ACTOR)
    return made


@pytest.fixture
def secret(database: Database, organization_id: str) -> str:
    """A key that may tell usage."""
    with database.transaction() as tx:
        return create_key(tx, organization_id, "edge", ["usage.write"]).secret


@pytest.fixture
def send(database: Database, secret: str) -> Sent:
    """`send("/api/track", {...})`: a POST with the key, through the endpoints alone."""
    endpoints = TrackEndpoints(database, Settings(ingest_bytes_max=20_000, ingest_events_max=500))
    app = Starlette(routes=endpoints.routes())

    def post(path: str, body: Any, **headers: str) -> httpx.Response:
        given = {"x-usageflow-api-key": secret} if not headers.pop("nobody", "") else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)

        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                return await client.post(path, content=content, headers=given)

        return asyncio.run(exchange())

    return post


def stored(database: Database) -> list[UsageEventRow]:
    """Every event, in order."""
    with database.reading() as tx:
        found = list(tx.session.exec(select(UsageEventRow).order_by(col(UsageEventRow.seq))))
        tx.session.expunge_all()
    return found


def named(database: Database, organization_id: str, key: str) -> MetricRow:
    """A metric."""
    with database.reading() as tx:
        found = metrics.find(tx, organization_id, key)
        tx.session.expunge_all()
    assert found is not None
    return found


TRACK = {
    "metric": "API_CALL",
    "amount": 1000,
    "customerId": "user_123",
    "metadata": {"endpoint": "/v1/chat"},
}


def test_the_track_request_of_the_documents_works(send: Sent, database: Database) -> None:
    """usageflow-getting-started, step 7, twice: one event, and the same answer."""
    first = send("/api/track", TRACK, Idempotency_Key="unique-event-id")
    again = send("/api/track", TRACK, x_idempotency_key="unique-event-id")
    (event,) = stored(database)
    assert (first.status_code, first.json()) == (
        200,
        {"success": True, "eventId": event.id, "acceptance": "ACCEPTED"},
    )
    assert (again.status_code, again.content) == (200, first.content)
    assert (event.quantity, event.metadata_) == (Decimal(1000), '{"endpoint":"/v1/chat"}')
    other = send("/api/track", TRACK | {"amount": 1}, Idempotency_Key="unique-event-id")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_the_smallest_request_is_the_organizations_own(send: Sent, database: Database) -> None:
    """Nobody named; the metric in small letters; now."""
    assert send("/api/track", {"metric": "api_call", "amount": 1}).status_code == 200
    (event,) = stored(database)
    assert (event.metric, event.identity_value) == ("API_CALL", "default")
    assert event.occurred_at == event.received_at


@pytest.mark.parametrize("name", ["id", "token", "key"])
def test_the_meter_request_of_the_documents_works(
    send: Sent, database: Database, organization_id: str, name: str
) -> None:
    """fluxrate-quickstart, step 6; the meter by its token, and by its id or key as well."""
    meter = named(database, organization_id, "API_CALL")
    told = {
        "meter_token": getattr(meter, name),
        "customer_external_id": "acme-corp-001",
        "quantity": 150,
        "idempotency_key": "req_unique_abc123",
        "timestamp": "2999-01-01T00:00:00Z",
    }
    assert send("/api/v1/sdk/track", told).status_code == 400
    del told["timestamp"]
    first, again = send("/api/v1/sdk/track", told), send("/api/v1/sdk/track", told)
    (event,) = stored(database)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert first.json() == {
        "id": event.id,
        "customer_id": event.customer_id,
        "meter_id": meter.id,
        "quantity": "150",
        "timestamp": event.occurred_at.isoformat().replace("+00:00", "Z"),
        "created_at": event.received_at.isoformat().replace("+00:00", "Z"),
        "meta_data": None,
    }


def test_a_quantity_may_be_a_property(send: Sent, database: Database) -> None:
    """What the metric's property has; an event of a count is one."""
    for told, quantity in (
        ({"meter_name": "API_CALL", "properties": {"call_count": 10, "region": "eu"}}, "10"),
        ({"meter_name": "API_CALL", "properties": {"call_count": "0.5"}}, "0.5"),
        ({"meter_name": "VISIT", "properties": {"page": "/"}}, "1"),
        ({"meter_name": "ACTIVE_USER", "properties": {"user_id": "u-1"}}, "1"),
    ):
        answer = send("/api/v1/usage", told | {"customer_external_id": "acme"})
        assert (answer.status_code, answer.json()["quantity"]) == (201, quantity)
        assert answer.json()["meta_data"] == told["properties"]
    assert stored(database)[-1].unique_value == "u-1"


@pytest.mark.parametrize(
    "told",
    [
        {"meter_name": "API_CALL", "properties": {"other": 1}},
        {"meter_name": "API_CALL", "properties": {"call_count": "many"}},
        {"meter_name": "API_CALL"},
        {"meter_name": "TOKEN", "properties": {"call_count": 1}},
    ],
)
def test_without_a_quantity_nothing_is_guessed(
    send: Sent, database: Database, told: dict[str, Any]
) -> None:
    """What is not told is neither 0 nor 1."""
    answer = send("/api/v1/usage", told)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_quantity")
    assert stored(database) == []


def test_a_customer_is_named_by_our_id_too(
    send: Sent, database: Database, organization_id: str
) -> None:
    """In the dialect of meters; there is none of another id."""
    with database.transaction() as tx:
        made = customers.create(tx, organization_id, name="Acme", external_id="acme", actor=ACTOR)
        customer_id = getattr(made, "id", "")
    told = {"meter_id": "API_CALL", "quantity": 1}
    assert send("/api/v1/usage", told | {"customer_id": customer_id}).json()["customer_id"] == (
        customer_id
    )
    answer = send("/api/v1/usage", told | {"customer_id": "nobody"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_customer")


def test_unknown_metrics_are_refused(send: Sent, database: Database) -> None:
    """400 or 404, as each dialect has it; none is made."""
    answer = send("/api/track", {"metric": "GHOST", "amount": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_metric")
    answer = send("/api/v1/usage", {"meter_name": "GHOST", "quantity": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_metric")
    answer = send("/api/track", {"metric": "a\0", "amount": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_metric")
    assert stored(database) == []


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 10_000, "\N{SNOWMAN}"])
def test_odd_names_of_metrics_are_unknown(send: Sent, name: str) -> None:
    """Whatever a text may hold, on both databases; the event beside it counts."""
    events = [{"metric": name, "amount": 1}, {"metric": "API_CALL", "amount": 1}]
    results = send("/api/v1/usage/batch", {"events": events}).json()["results"]
    assert [one["status"] for one in results] == ["refused", "accepted"]
    assert results[0]["error"]["code"] == "unknown_metric"


def test_strict_organizations_refuse_unknown_customers(
    send: Sent, database: Database, organization_id: str
) -> None:
    """400 or 404, as each dialect has it."""
    with database.transaction() as tx:
        organization_settings.change(
            tx, organization_id, {"unknown_customer": "refuse"}, actor=ACTOR
        )
    assert send("/api/track", TRACK).status_code == 400
    told = {"meter_name": "API_CALL", "quantity": 1, "customer_external_id": "user_123"}
    assert send("/api/v1/usage", told).status_code == 404


def test_organizations_are_taken_in_one_order(
    database: Database, organization_id: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers that commit usage of the same two never wait for each other in a circle."""
    with database.transaction() as tx:
        other = organizations.create(tx, "other", actor=ACTOR)
        secrets = [secret, create_key(tx, other, "edge", ["usage.write"]).secret]
    seen: list[str] = []

    def note(_: Any, organization: str, *__: Any) -> list[Any]:
        seen.append(organization)
        return []

    monkeypatch.setattr(tracking, "take", note)
    claim = dialects.track(b'{"metric": "GHOST", "amount": 1}', None)
    for order in (secrets, secrets[::-1]):
        told = [
            Submission(Credentials(one, None, foreign=False), [claim], "/api/track")
            for one in order
        ]
        with database.transaction() as tx:
            claims.take(tx, told)
    assert seen == 2 * sorted([organization_id, other])


def test_a_name_that_no_database_takes_fails_alone(send: Sent, database: Database) -> None:
    """A NUL in what names a metric or a customer is the name of none."""
    wrong = [
        {"metric": "API_CALL\0", "amount": 1},
        {"meter_name": "\0", "quantity": 1},
        {"meter_name": "API_CALL", "quantity": 1, "customer_id": "a\0"},
        {"metric": "API_CALL", "amount": 1, "customerId": "a\0"},
        {"metric": "API_CALL", "amount": 1, "metadata": {"a\0": "b\0"}},
    ]
    answer = send("/api/v1/usage/batch", {"events": [*wrong, {"metric": "API_CALL", "amount": 7}]})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [one["status"] for one in results] == [*(4 * ["refused"]), "accepted", "accepted"]


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson; charset=utf-8"])
def test_a_batch_is_answered_event_by_event(
    send: Sent, database: Database, media_type: str
) -> None:
    """Either form in any order; what is refused fails none of the others."""
    events: list[Any] = [
        {"metric": "API_CALL", "amount": 1, "idempotencyKey": "a"},
        {"metric": "API_CALL", "amount": 2, "idempotencyKey": "a"},
        {"meter_name": "API_CALL", "quantity": 1, "idempotency_key": "b"},
        {"metric": "API_CALL", "amount": 1, "idempotencyKey": "a"},
        {"metric": "GHOST", "amount": 1},
        {"metric": "API_CALL", "amount": -1},
        {"amount": 1},
        7,
    ]
    body = b"\n".join(map(msgspec.json.encode, events))
    if media_type == "application/json":
        body = msgspec.json.encode({"events": events})
    answer = send("/api/v1/usage/batch", body, Content_Type=media_type)
    results = answer.json()["results"]
    assert answer.status_code == 200
    assert [
        (one["status"], one.get("error", {}).get("code"), bool(one["eventId"])) for one in results
    ] == [
        ("accepted", None, True),
        ("conflict", "idempotency_conflict", False),
        ("accepted", None, True),
        ("duplicate", None, True),
        ("refused", "unknown_metric", False),
        ("refused", "invalid_quantity", False),
        ("refused", "invalid", False),
        ("refused", "invalid", False),
    ]
    assert results[0]["eventId"] == results[3]["eventId"]
    assert [event.id for event in stored(database)] == [
        results[0]["eventId"],
        results[2]["eventId"],
    ]


def test_a_batch_may_be_compressed_and_is_bounded(send: Sent, database: Database) -> None:
    """gzip, within the size before and after."""
    body = msgspec.json.encode({"events": [{"metric": "API_CALL", "amount": 1}] * 3})
    answer = send("/api/v1/usage/batch", gzip.compress(body), Content_Encoding="gzip")
    assert len(answer.json()["results"]) == len(stored(database)) == 3
    for large, encoding, status in (
        (b" " * 20_001, "identity", 413),
        (gzip.compress(b" " * 20_001), "gzip", 413),
        (msgspec.json.encode({"events": [7] * 501}), "identity", 413),
        (b"", "br", 415),
        (b"", "gzip", 400),
        (b"no", "identity", 400),
    ):
        refused = send("/api/v1/usage/batch", large, Content_Encoding=encoding)
        assert (refused.status_code, set(refused.json())) == (status, {"error"})
    assert len(stored(database)) == 3


EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/gateway",
    "type": "API_CALL",
    "subject": "acme",
    "data": {"quantity": 3},
}


def test_cloudevents_are_taken(send: Sent, database: Database) -> None:
    """One with the answer of /api/track, a batch one by one; an id of a source counts once."""
    one = send("/api/v1/cloudevents", EVENT, Content_Type="application/cloudevents+json")
    batch = send(
        "/api/v1/cloudevents",
        [EVENT, EVENT | {"source": "/other"}, {"id": "2"}],
        Content_Type="application/cloudevents-batch+json",
    )
    assert one.json()["acceptance"] == "ACCEPTED"
    results = batch.json()["results"]
    assert [result["status"] for result in results] == ["duplicate", "accepted", "refused"]
    assert results[0]["eventId"] == one.json()["eventId"]
    assert [(event.quantity, event.identity_value) for event in stored(database)] == [
        (Decimal(3), "acme")
    ] * 2


PATHS = {
    "/api/track": TRACK,
    "/api/v1/sdk/track": {"meter_token": "API_CALL", "quantity": 1},
    "/api/v1/usage": {"meter_name": "API_CALL", "quantity": 1},
    "/api/v1/usage/batch": {"events": [TRACK]},
    "/api/v1/cloudevents": EVENT,
}


@pytest.mark.parametrize("path", PATHS)
def test_any_key_header_will_do(send: Sent, secret: str, path: str) -> None:
    """The product documents have three."""
    for name in KEY_HEADERS:
        shown = f"Bearer {secret}" if name == "Authorization" else secret
        answer = send(path, PATHS[path], nobody="yes", **{name: shown})
        assert answer.is_success


@pytest.mark.parametrize("path", PATHS)
def test_who_shows_nothing_is_told_how(send: Sent, database: Database, path: str) -> None:
    """401 with the challenge that HTTP demands, whatever the body is."""
    for body in (PATHS[path], b"no", b" " * 65_537):
        answer = send(path, body, nobody="yes")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_credentials")
        assert "www-authenticate" in answer.headers
    assert stored(database) == []


@pytest.mark.parametrize("path", PATHS)
def test_a_key_must_be_good_for_it(
    send: Sent, database: Database, organization_id: str, path: str
) -> None:
    """Its permission is needed, and a revoked one ends with the next request."""
    with database.transaction() as tx:
        reader = create_key(tx, organization_id, "reader", ["usage.read"]).secret
        writer = create_key(tx, organization_id, "writer", ["usage.write"])
    assert send(path, PATHS[path], X_API_Key=reader, nobody="yes").status_code == 403
    assert send(path, PATHS[path], X_API_Key=writer.secret, nobody="yes").is_success
    with database.transaction() as tx:
        keys.revoke(tx, organization_id, writer.api_key.id)
    answer = send(path, PATHS[path], X_API_Key=writer.secret, nobody="yes")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert send(path, PATHS[path], X_API_Key="uf_live_guess", nobody="yes").status_code == 401


@pytest.mark.parametrize(
    ("role", "site", "status"),
    [
        ("DEVELOPER", "same-origin", 200),
        ("VIEWER", "same-origin", 403),
        ("OWNER", "cross-site", 403),
        (None, "same-origin", 401),
    ],
)
def test_people_may_tell_usage_as_well(
    *,
    send: Sent,
    database: Database,
    organization_id: str,
    role: str | None,
    site: str,
    status: int,
) -> None:
    """With the cookie of their session, if their role permits it and no other site leads them."""
    token = "ended" if role is None else session_of(database, organization_id, role)
    headers = {"Cookie": f"access_token={token}", "Sec_Fetch_Site": site}
    answer = send("/api/track", {"metric": "API_CALL", "amount": 1}, nobody="yes", **headers)
    assert answer.status_code == status
    assert len(stored(database)) == (status == 200)


def session_of(database: Database, organization_id: str, role: str) -> str:
    """The access token of a new person."""
    with database.transaction() as tx:
        person = PersonRow(
            id="person-1", email="a@example.com", password_hash="$none$", created_at=tx.now
        )
        tx.session.add(person)
        tx.session.flush()
        tx.session.add(
            MemberRow(
                id="member-1",
                organization_id=organization_id,
                person_id="person-1",
                role=role,
                created_at=tx.now,
            )
        )
        tx.session.flush()
        return sessions.begin(tx, "person-1", organization_id).access_token


def test_too_much_at_once_is_told_so(send: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with the time to come again, rather than an answer that takes ever longer."""
    monkeypatch.setattr(group_commit, "WAITING_MAX", 0)
    answer = send("/api/track", TRACK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
    assert answer.headers["retry-after"] == "1"


def test_the_use_of_a_key_is_noted(send: Sent, database: Database) -> None:
    """So that a person can see which ones are used."""
    send("/api/track", TRACK)
    with database.reading() as tx:
        used = [row.last_used_at for row in tx.session.exec(select(ApiKeyRow))]
    assert None not in used


def test_single_events_are_bounded(send: Sent) -> None:
    """A body that no event needs is not read to its end."""
    answer = send("/api/track", TRACK | {"metadata": {"a": "x" * 65_536}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_many_at_once_are_all_durable(database: Database, secret: str) -> None:
    """Requests of one moment share transactions; each gets its own answer."""
    app = Starlette(routes=TrackEndpoints(database, Settings()).routes())
    headers = {"x-usageflow-api-key": secret}

    async def run() -> list[str]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            answers = await asyncio.gather(
                *(
                    client.post(
                        "/api/track",
                        json={"metric": "API_CALL", "amount": n},
                        headers=headers | {"idempotency-key": str(n)},
                    )
                    for n in range(1, 41)
                )
            )
        return [answer.json()["eventId"] for answer in answers]

    ids = asyncio.run(run())
    found = {event.id: event.quantity for event in stored(database)}
    assert [found[event_id] for event_id in ids] == list(range(1, 41))


def test_openapi_tells_every_path() -> None:
    """And each of its bodies is JSON."""
    assert OPENAPI.keys() == PATHS.keys()
    assert json.loads(json.dumps(OPENAPI)) == OPENAPI
