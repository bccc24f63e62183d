"""What edges ask: policies with an ETag, and batches answered line by line."""

import asyncio
import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
from sqlmodel import select
from starlette.datastructures import Headers

from usageflow._types import Message, Receive, Scope, Send
from usageflow.api import create_api
from usageflow.api.edge import presented_key
from usageflow.catalog.endpoints import listed
from usageflow.catalog.keys import listing, revoke
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import publish
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import UsageEventRow
from usageflow.errors import DatabaseError
from usageflow.events import Identity, UsageEvent, encode
from usageflow.middleware.discovery import Discovery
from usageflow.policies import Policy, parse_document

EVENTS = "/api/edge/events"
POLICIES = "/api/edge/policies"
ENDPOINTS = "/api/edge/endpoints"

Key = Callable[..., str]


def line(number: int, quantity: str = "1") -> bytes:
    """An encoded usage event."""
    return encode(
        UsageEvent(
            id=f"event-{number}",
            policy="calls",
            policy_version="1",
            metric="API_CALL",
            identity=Identity("account_id", "acct_42"),
            quantity=Decimal(quantity),
            occurred_at=datetime(2026, 11, 21, 9, 30, tzinfo=UTC),
            state="counted",
        )
    )


@pytest.fixture
def writer(key: Key) -> dict[str, str]:
    """Headers of an edge."""
    return {"x-usageflow-api-key": key("usage.write")}


def stored(database: Database) -> list[tuple[str, Decimal | None]]:
    """Id and quantity of every event in the ledger."""
    with database.reading() as tx:
        return [(row.id, row.quantity) for row in tx.session.exec(select(UsageEventRow))]


# Batches


def test_a_batch_is_answered_line_by_line(
    api: httpx.Client, writer: dict[str, str], database: Database, told: list[None]
) -> None:
    """Each line has its own outcome, in order; one bad line fails none of the others."""
    batch = b"\n".join([line(1), b"not json", line(1), line(1, "2"), line(2)])
    response = api.post(EVENTS, content=batch, headers=writer)
    assert response.status_code == 200
    results = response.json()["results"]
    assert [(item["id"], item["status"]) for item in results] == [
        ("event-1", "accepted"),
        (None, "invalid"),
        ("event-1", "duplicate"),
        ("event-1", "conflict"),
        ("event-2", "accepted"),
    ]
    assert [bool(item["reason"]) for item in results] == [False, True, False, True, False]
    assert sorted(stored(database)) == [("event-1", Decimal(1)), ("event-2", Decimal(1))]
    assert told == [None]


def test_the_same_batch_again_counts_nothing_twice(
    api: httpx.Client, writer: dict[str, str], database: Database
) -> None:
    """An edge that lost our answer sends again and gets an answer that settles it."""
    batch = line(1) + b"\n" + line(2) + b"\n"
    for expected in ("accepted", "duplicate"):
        results = api.post(EVENTS, content=batch, headers=writer).json()["results"]
        assert {item["status"] for item in results} == {expected}
    assert len(stored(database)) == 2


def test_gzip_batches_are_exact(
    api: httpx.Client, writer: dict[str, str], database: Database
) -> None:
    """A compressed batch arrives with every digit of its quantities."""
    exact = "12345678901234567890.123456789"
    response = api.post(
        EVENTS,
        content=gzip.compress(line(1, exact)),
        headers=writer | {"content-encoding": "gzip"},
    )
    assert [item["status"] for item in response.json()["results"]] == ["accepted"]
    assert stored(database) == [("event-1", Decimal(exact))]


def test_an_empty_batch_is_no_error(api: httpx.Client, writer: dict[str, str]) -> None:
    """No lines, no results."""
    assert api.post(EVENTS, content=b"\n", headers=writer).json() == {"results": []}


@pytest.mark.parametrize(
    ("content", "encoding", "status", "code"),
    [
        (b"x" * 4_001, "identity", 413, "body_too_large"),
        (gzip.compress(b"x" * 4_001, mtime=0), "gzip", 413, "body_too_large"),
        (b"\n".join([b"{}"] * 501), "identity", 413, "too_many_events"),
        (b"not gzip", "gzip", 400, "invalid_body"),
        (b"", "br", 415, "unsupported_encoding"),
    ],
)
def test_batches_beyond_the_limits_are_refused_whole(
    *,
    api: httpx.Client,
    writer: dict[str, str],
    told: list[None],
    content: bytes,
    encoding: str,
    status: int,
    code: str,
) -> None:
    """A batch that cannot be read within the limits stores nothing and says which limit it was."""
    response = api.post(EVENTS, content=content, headers=writer | {"content-encoding": encoding})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert told == []


def test_a_failing_database_keeps_the_events_with_the_edge(
    api: httpx.Client,
    writer: dict[str, str],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    told: list[None],
) -> None:
    """503 with Retry-After: nothing was taken, the same batch may come again."""

    def fail() -> None:
        raise DatabaseError("disk full")

    monkeypatch.setattr(database, "transaction", fail)
    response = api.post(EVENTS, content=line(1), headers=writer)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["code"] == "database_unavailable"
    assert told == []


def test_a_client_that_leaves_in_its_body_is_no_fault(
    database: Database, settings: Settings, writer: dict[str, str], told: list[None]
) -> None:
    """Half a batch is no batch: nothing is stored, nothing is raised into the server's log."""
    app = create_api(database, settings, on_events=lambda: told.append(None))
    conversation: list[Message] = [
        {"type": "http.request", "body": line(1) + b"\n", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return conversation.pop(0)

    async def send(_: Message) -> None:
        """Nobody is there."""

    scope = {
        "type": "http",
        "method": "POST",
        "path": EVENTS,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in writer.items()],
    }
    asyncio.run(app(scope, receive, send))
    assert (stored(database), told) == ([], [])


# Keys


@pytest.mark.parametrize(
    ("method", "path"), [("POST", EVENTS), ("GET", POLICIES), ("POST", ENDPOINTS)]
)
def test_only_keys_with_the_scope_get_in(
    api: httpx.Client, key: Key, database: Database, method: str, path: str
) -> None:
    """401 without a good key, 403 with one that may not; the reason is in the message."""
    revoked = key("usage.write")
    with database.transaction() as tx:
        organization = default_organization(tx)
        revoke(tx, organization, listing(tx, organization)[0].id)
    for secret, status, code, word in (
        (None, 401, "invalid_api_key", "no API key"),
        ("nonsense", 401, "invalid_api_key", "48 hex"),
        ("uf_live_" + "0" * 48, 401, "invalid_api_key", "not known"),
        (revoked, 401, "invalid_api_key", "revoked"),
        (key("usage.read"), 403, "insufficient_scope", "usage.write"),
        (key("usage.write"), 200, None, ""),
    ):
        headers = {} if secret is None else {"x-usageflow-api-key": secret}
        content = b'{"endpoints":[]}' if path == ENDPOINTS else b""
        response = api.request(method, path, headers=headers, content=content)
        assert response.status_code == status
        assert ("www-authenticate" in response.headers) == (status == 401)
        if code is not None:
            assert response.json()["error"]["code"] == code
            assert word in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({}, None),
        ({"x-usageflow-api-key": " a "}, "a"),
        ({"authorization": "Bearer a"}, "a"),
        ({"authorization": "bearer  a "}, "a"),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Basic a"}, None),
        ({"authorization": "Bearer a", "x-usageflow-api-key": "b"}, "b"),
    ],
)
def test_where_a_key_may_stand(headers: dict[str, str], secret: str | None) -> None:
    """Our own header wins over a bearer token; other schemes are not keys."""
    assert presented_key(Headers(headers)) == secret


def test_the_last_use_of_a_key_is_noted_seldom(
    api: httpx.Client, key: Key, database: Database
) -> None:
    """An operator sees which keys are in use; a busy edge does not rewrite its row each time."""
    headers = {"authorization": f"Bearer {key('usage.write')}"}

    def last_use() -> datetime | None:
        with database.transaction() as tx:
            return listing(tx, default_organization(tx))[0].last_used_at

    assert last_use() is None
    api.post(EVENTS, content=line(1), headers=headers)
    first = last_use()
    assert first is not None
    api.post(EVENTS, content=line(2), headers=headers)
    assert last_use() == first


# Policies


def policy(metric: str = "API_CALL") -> Policy:
    """A valid policy."""
    return Policy.model_validate(
        {
            "name": "calls",
            "match": "GET /v1/calls",
            "identify": [{"from": "header", "name": "x-account-id"}],
            "field": "account_id",
            "metric": metric,
        }
    )


def publish_one(database: Database, one: Policy) -> None:
    """Make it the only policy."""
    with database.transaction() as tx:
        publish(tx, default_organization(tx), [one])


def test_policies_come_with_a_tag_and_only_when_they_changed(
    api: httpx.Client, writer: dict[str, str], database: Database
) -> None:
    """An edge that has the current set gets 304; a change gives it the new set and tag."""
    empty = api.get(POLICIES, headers=writer)
    assert empty.json() == {"policies": []}
    publish_one(database, policy())
    first = api.get(POLICIES, headers=writer | {"if-none-match": empty.headers["etag"]})
    assert first.status_code == 200
    assert first.headers["content-type"] == "application/json"
    tag = first.headers["etag"]
    same = api.get(POLICIES, headers=writer | {"if-none-match": tag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    publish_one(database, policy("AI_TOKEN"))
    second = api.get(POLICIES, headers=writer | {"if-none-match": tag})
    assert second.status_code == 200
    assert second.headers["etag"] != tag
    assert [item["version"] for item in second.json()["policies"]] == ["2"]


def test_the_document_is_what_an_edge_reads(
    api: httpx.Client, writer: dict[str, str], database: Database
) -> None:
    """The edge's own reader accepts the document and finds the policy with its version."""
    publish_one(database, policy())
    document = parse_document(api.get(POLICIES, headers=writer).content, "the server")
    assert document.problems == ()
    assert document.policies == ((policy(), "1"),)


@pytest.mark.parametrize("form", ["*", "{0}", "W/{0}", '"other", {0}', '"other" ,W/{0}'])
def test_every_form_of_the_condition_is_understood(
    api: httpx.Client, writer: dict[str, str], form: str
) -> None:
    """Lists, weak tags and the star (RFC 9110, section 13.1.2)."""
    tag = api.get(POLICIES, headers=writer).headers["etag"]
    answer = api.get(POLICIES, headers=writer | {"if-none-match": form.format(tag)})
    assert answer.status_code == 304


# Endpoints


def test_a_report_of_endpoints_is_kept(
    api: httpx.Client, writer: dict[str, str], database: Database, told: list[None]
) -> None:
    """Reports add up; nobody is woken, as nothing is to be forwarded."""
    content = b'{"endpoints":[{"method":"GET","template":"/v1/x/{id}","requests":3}]}'
    for _ in range(2):
        response = api.post(ENDPOINTS, content=content, headers=writer)
        assert (response.status_code, response.json()) == (200, {"endpoints": 1})
    with database.reading() as tx:
        (one,) = listed(tx, default_organization(tx))
    assert (one.method, one.template, one.requests) == ("GET", "/v1/x/{id}", 6)
    assert told == []


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{}", 400, "invalid_body"),
        (b"x" * 4_001, 413, "body_too_large"),
    ],
)
def test_what_is_no_report_is_refused(
    api: httpx.Client, writer: dict[str, str], content: bytes, status: int, code: str
) -> None:
    """Whole, with the reason."""
    response = api.post(ENDPOINTS, content=content, headers=writer)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_an_edge_s_report_is_what_the_server_takes(
    api: httpx.Client, writer: dict[str, str]
) -> None:
    """The two ends of one conversation."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def nothing(message: Message | None = None) -> Message:
        return {"type": "http.disconnect"}

    discovery = Discovery(10)
    scope = {"type": "http", "method": "GET", "path": "/v1/x/7", "headers": []}
    observation = discovery.begin(scope, "/v1/x/7")
    assert observation
    asyncio.run(observation.through(app, nothing, nothing))  # type: ignore[arg-type]  # one for both
    response = api.post(ENDPOINTS, content=discovery.take(), headers=writer)
    assert (response.status_code, response.json()) == (200, {"endpoints": 1})
