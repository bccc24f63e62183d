"""The inbox over HTTP: what needs a human is listed, and what they decide is done and noted."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlmodel import col, select

from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow, LaneRow, UnitRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store
from usageflow.stripe.accounts import ensure_own
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running

SignIn = Callable[..., httpx.Client]
KEY = "sk_test_inbox"
EXACT = "1234567890123456789012345.123456789"


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    """An emulator on a free port."""
    with running(create_emulator(search_lag_s=0)) as url:
        yield url


@pytest.fixture
def emulator(emulator_url: str) -> RemoteEmulator:
    """The emulator, empty."""
    remote = RemoteEmulator(emulator_url, KEY)
    remote.reset()
    return remote


@pytest.fixture
def settings(emulator: RemoteEmulator) -> Settings:
    """Usage goes to the emulator."""
    return Settings(stripe_api_key=KEY, stripe_api_base=emulator.url)


@pytest.fixture
def admin(sign_in: SignIn) -> httpx.Client:
    """Who may decide."""
    return sign_in("ADMIN")


def event(number: int, **changes: Any) -> bytes:
    """An encoded usage event of acct_N."""
    fields: dict[str, Any] = {
        "id": f"event-{number}",
        "policy": "calls",
        "policy_version": "1",
        "metric": "API_CALL",
        "identity": Identity("account_id", f"acct_{number}"),
        "quantity": Decimal(EXACT),
        "occurred_at": datetime.now(UTC),
        "state": "counted",
        "request_method": "GET",
        "request_route": "/v1/items/:id",
        "request_status": 200,
    }
    return encode(UsageEvent(**fields | changes))


@pytest.fixture
def stuck(database: Database, organization_id: str) -> list[str]:
    """Three quarantined units, one of them too old for Stripe; their identifiers in order."""
    with database.transaction() as tx:
        ensure_own(tx, organization_id, livemode=False)
        old = {"occurred_at": tx.now - timedelta(days=40)}
        lines = [
            event(n, event_name="calls", quantity=Decimal(1), **(old if n == 3 else {}))
            for n in range(1, 4)
        ]
        store.append(tx, organization_id, lines, unknown_metric="create")
    with database.transaction() as tx:
        units = tx.session.exec(
            select(UnitRow)
            .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
            .order_by(col(LaneRow.identity_value))
        ).all()
        for unit in units:
            unit.state, unit.reason = "quarantined", "no_meter: there is none"
        return [unit.identifier for unit in sorted(units, key=lambda unit: unit.id or 0)]


def states(database: Database) -> dict[str, str]:
    """State of each unit by its identifier."""
    with database.reading() as tx:
        return {row.identifier: row.state for row in tx.session.exec(select(UnitRow))}


def noted(database: Database) -> list[tuple[str, str]]:
    """(action, subject) of what was decided, which has an actor and a request."""
    with database.reading() as tx:
        rows = tx.session.exec(
            select(AuditRow)
            .where(col(AuditRow.action).startswith("inbox."))
            .order_by(col(AuditRow.seq))
        ).all()
        assert all(row.actor.startswith("admin") and row.request_id for row in rows)
        return [(row.action, row.subject) for row in rows]


def test_what_needs_a_human_is_listed(
    admin: httpx.Client, database: Database, organization_id: str, stuck: list[str]
) -> None:
    """The latest first whatever it is, by kind and state, page by page, with every digit."""
    with database.transaction() as tx:
        lines = [
            b'{"id":"x"}',
            event(8, state="inbox", quantity=None, reason="no usage"),
            event(9, state="gap", identity=Identity("account_id", None), reason="disk full"),
        ]
        store.append(tx, organization_id, lines, unknown_metric="create")
    listed = admin.get("/api/v1/inbox", params={"page_size": 4})
    assert listed.json()["meta"] == {"page": 1, "page_size": 4, "total": 6, "total_pages": 2}
    gap, inboxed, line, unit = listed.json()["data"]
    assert EXACT in listed.text
    assert (gap["id"], gap["state"], gap["identity"], gap["reason"]) == (
        *("event-9", "gap", None, "disk full"),
    )
    assert inboxed["identity"] == {"field": "account_id", "value": "acct_8"}
    assert (inboxed["request"], inboxed["quantity"]) == ("GET /v1/items/:id", None)
    assert (line["kind"], line["id"], line["line"]) == ("rejection", "x", '{"id":"x"}')
    assert (unit["kind"], unit["event_name"], unit["quantity"]) == ("unit", "calls", 1)
    second = admin.get("/api/v1/inbox", params={"page_size": 4, "page": 2}).json()["data"]
    assert {one["id"] for one in [unit, *second]} == set(stuck)
    query: tuple[dict[str, str], ...] = ({"kind": "rejection"}, {"state": "quarantined"})
    totals = [admin.get("/api/v1/inbox", params=one).json()["meta"]["total"] for one in query]
    assert totals == [1, 3]


def test_units_are_sent_again(admin: httpx.Client, database: Database, stuck: list[str]) -> None:
    """What cannot be is told with its reason, and stays."""
    answer = admin.post("/api/v1/inbox/retry", json={"identifiers": stuck}).json()
    assert [one["done"] for one in answer["outcomes"]] == [True, True, False]
    assert "too old" in answer["outcomes"][2]["told"]
    assert [states(database)[one] for one in stuck] == ["sealed", "sealed", "quarantined"]
    assert noted(database) == [("inbox.retry", one) for one in stuck[:2]]


def test_units_are_sent_again_by_code(
    admin: httpx.Client, stuck: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some at a time; those that could not be helped are passed over."""
    monkeypatch.setattr("usageflow.api.v1.inbox.UNITS_MAX", 2)
    first = admin.post("/api/v1/inbox/retry", json={"code": "no_meter"}).json()
    assert (len(first["outcomes"]), first["left"]) == (2, 1)
    rest = admin.post("/api/v1/inbox/retry", json={"code": "no_meter"}).json()
    assert [(one["identifier"], one["done"]) for one in rest["outcomes"]] == [(stuck[2], False)]
    none = admin.post("/api/v1/inbox/retry", json={"code": "no_meter", "skip": 1}).json()
    assert none == {"outcomes": [], "left": 0}


def test_what_is_too_old_is_carried_over(
    admin: httpx.Client, database: Database, stuck: list[str]
) -> None:
    """Another unit has it, as usage of now."""
    answer = admin.post("/api/v1/inbox/carry", json={"identifiers": stuck[1:]}).json()
    assert [one["done"] for one in answer["outcomes"]] == [False, True]
    assert states(database)[stuck[2]] == "reissued"
    assert noted(database) == [("inbox.carry", stuck[2])]


def test_units_are_written_off(admin: httpx.Client, database: Database, stuck: list[str]) -> None:
    """For a reason; an identifier of nobody is told."""
    body = {"identifiers": [stuck[0], "uf1_none"], "reason": "a test customer"}
    answer = admin.post("/api/v1/inbox/write-off", json=body).json()
    assert [one["done"] for one in answer["outcomes"]] == [True, False]
    assert states(database)[stuck[0]] == "written_off"
    assert noted(database) == [("inbox.write_off", stuck[0])]


def test_an_identity_is_attached_and_detached(
    admin: httpx.Client, database: Database, stuck: list[str], emulator: RemoteEmulator
) -> None:
    """To a customer that Stripe has, and once."""
    (customer,) = emulator.seed([{"account_id": "other"}], ["calls"])
    identity = {"field": "account_id", "value": "acct_1"}
    unknown = admin.post("/api/v1/inbox/attach", json={**identity, "stripe_customer": "cus_none"})
    assert (unknown.status_code, "no customer cus_none" in unknown.text) == (409, True)
    body = {**identity, "stripe_customer": customer}
    assert admin.post("/api/v1/inbox/attach", json=body).json() == {"lanes": 0}
    emulator.fault("status", route="/v1/customers", status=500)
    failed = admin.post("/api/v1/inbox/attach", json=body)
    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "stripe_failed")
    assert admin.post("/api/v1/inbox/detach", json=identity).status_code == 204
    assert admin.post("/api/v1/inbox/detach", json=identity).status_code == 404
    assert noted(database) == [
        ("inbox.attach", "account_id acct_1"),
        ("inbox.detach", "account_id acct_1"),
    ]


@pytest.mark.parametrize("body", [{}, {"identifiers": ["uf1_1"], "code": "x"}], ids=["no", "both"])
def test_units_are_named_in_one_way(admin: httpx.Client, body: dict[str, Any]) -> None:
    """By their identifiers or by a code."""
    assert admin.post("/api/v1/inbox/retry", json=body).status_code == 422


def test_units_of_others_are_not_there(
    sign_in: SignIn, database: Database, stuck: list[str]
) -> None:
    """Another organization sees nothing and changes nothing; without an account it is told so."""
    other = sign_in("OWNER", organization="other")
    assert other.get("/api/v1/inbox").json()["data"] == []
    before = states(database)
    for action in ("retry", "carry", "write-off"):
        body = {"identifiers": stuck} | ({"reason": "r"} if action == "write-off" else {})
        answer = other.post(f"/api/v1/inbox/{action}", json=body).json()
        assert {one["told"] for one in answer["outcomes"]} == {"there is no such unit"}
    assert states(database) == before
    identity = {"field": "account_id", "value": "acct_1"}
    assert other.post("/api/v1/inbox/detach", json=identity).status_code == 409
