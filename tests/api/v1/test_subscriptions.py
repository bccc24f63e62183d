"""/api/v1/subscriptions and /api/subscriptions: the product documents' subscription, and wishes."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest

from usageflow.db.session import Database
from usageflow.db.tables import CustomerIdentityRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store


@pytest.fixture
def admin(sign_in: Callable[..., httpx.Client]) -> httpx.Client:
    """A person who may do it all."""
    return sign_in("ADMIN")


def posted(client: httpx.Client, path: str, body: Any = None, status: int = 201) -> dict[str, Any]:
    """The answer to a POST."""
    response = client.post(f"/api/v1{path}", json=body)
    assert response.status_code == status, response.text
    made: dict[str, Any] = response.json()
    return made


def read(client: httpx.Client, path: str, **params: Any) -> dict[str, Any]:
    """The answer to a GET."""
    response = client.get(path, params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.fixture
def catalog(admin: httpx.Client) -> dict[str, Any]:
    """The plan and the customer of the quickstart, and a dearer plan."""
    plan = {"name": "Starter", "lookup_id": "starter", "type": "USAGE", "currency": "USD"}
    posted(admin, "/metrics", {"key": "api_calls", "name": "API Calls", "unit": "calls"})
    charge = {
        "type": "USAGE",
        "meter_id": "api_calls",
        "unit_price": 0.001,
        "display_name": "Calls",
    }
    starter = posted(admin, "/plans", plan | {"billing_interval": "month"})
    posted(admin, "/plans/starter/charges", charge)
    pro = posted(
        admin,
        "/plans",
        {
            "name": "Pro",
            "lookup_id": "pro",
            "base_price": 100,
            "charges": [charge],
            "trial_days": 7,
        },
    )
    customer = posted(
        admin,
        "/customers",
        {"name": "Acme Corp", "email": "billing@acme.com", "external_id": "acme-corp-001"},
    )
    return {"starter": starter, "pro": pro, "customer": customer}


def subscribed(client: httpx.Client, **more: Any) -> dict[str, Any]:
    """A subscription of Acme's to the starter plan."""
    body = {"customer_external_id": "acme-corp-001", "plan_id": "starter"}
    return posted(client, "/subscriptions", body | more)


def test_the_subscription_of_the_quickstart(admin: httpx.Client, catalog: dict[str, Any]) -> None:
    """Step 4 word by word: made, read, listed by customer, plan and status."""
    made = posted(
        admin,
        "/subscriptions",
        {
            "customer_id": catalog["customer"]["id"],
            "plan_id": catalog["starter"]["id"],
            "billing_interval": "month",
            "start_date": "2025-01-01T00:00:00Z",
        },
    )
    assert made["id"].startswith("sub_")
    assert {name: made[name] for name in ("status", "plan_name", "plan_version", "currency")} == {
        "status": "ACTIVE",
        "plan_name": "Starter",
        "plan_version": 2,
        "currency": "USD",
    }
    assert made["current_period_start"] == "2025-01-01T00:00:00Z"
    assert made["current_period_end"] == "2025-02-01T00:00:00Z"
    assert made["customer_external_id"] == "acme-corp-001"
    assert (made["trial_end_date"], made["cancel_at_period_end"]) == (None, False)
    assert read(admin, f"/api/v1/subscriptions/{made['id']}") == made
    for path, filters in (
        ("/subscriptions", {}),
        ("/subscriptions", {"customer_id": "acme-corp-001", "status": "ACTIVE"}),
        ("/subscriptions", {"plan_id": "starter"}),
        ("/customers/acme-corp-001/subscriptions", {}),
    ):
        found = read(admin, f"/api/v1{path}", **filters)
        assert (found["data"], found["meta"]["total"]) == ([made], 1)
    assert read(admin, "/api/v1/subscriptions", plan_id="pro")["data"] == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"plan_id": "starter", "customer_id": "nobody"}, 422, "customer_id"),
        ({"plan_id": "gold"}, 422, "plan_id"),
        ({"plan_id": "starter", "billing_interval": "year"}, 422, "billing_interval"),
        ({"plan_id": "starter", "start_date": "1999-01-01T00:00:00Z"}, 422, "start_date"),
        ({"plan_id": "starter", "start_date": "2025-01-01T00:00:00"}, 422, "start_date"),
        (
            {"plan_id": "starter", "trial_end_date": "1999-01-01T00:00:00Z"},
            422,
            "trial_end_date",
        ),
    ],
    ids=["customer", "plan", "interval", "start", "naive", "trial"],
)
def test_what_is_wrong_is_named(
    admin: httpx.Client, catalog: dict[str, Any], body: dict[str, Any], status: int, field: str
) -> None:
    """By the field of the request."""
    response = admin.post("/api/v1/subscriptions", json=body)
    assert response.status_code == status
    assert [one["field"] for one in response.json()["error"]["fields"]] == [field]


def test_a_customer_is_named_once(admin: httpx.Client, catalog: dict[str, Any]) -> None:
    """Two names for it are refused; a second subscription to the plan is a conflict."""
    twice = {"plan_id": "pro", "customer_id": "a", "customer_external_id": "b"}
    assert admin.post("/api/v1/subscriptions", json=twice).status_code == 422
    subscribed(admin)
    again = {"plan_id": "starter", "customer_id": "acme-corp-001"}
    assert admin.post("/api/v1/subscriptions", json=again).status_code == 409


def test_pausing_resuming_and_ending(admin: httpx.Client, catalog: dict[str, Any]) -> None:
    """Each wish answers with the subscription as it is then; a wish out of place is a 409."""
    path = f"/subscriptions/{subscribed(admin, start_date='2026-01-01T00:00:00Z')['id']}"
    assert posted(admin, f"{path}/pause", status=200)["status"] == "PAUSED"
    assert admin.post(f"/api/v1{path}/pause").status_code == 409
    assert posted(admin, f"{path}/resume", status=200)["status"] == "ACTIVE"
    ending = posted(admin, f"{path}/cancel", {"reason": "too dear"}, status=200)
    assert (ending["status"], ending["cancel_at_period_end"]) == ("ACTIVE", True)
    assert ending["cancel_reason"] == "too dear"
    assert posted(admin, f"{path}/uncancel", status=200)["canceled_at"] is None
    ended = posted(admin, f"{path}/cancel", {"cancel_at_period_end": False}, status=200)
    assert ended["status"] == "CANCELLED"
    assert ended["ended_at"] is not None


def test_cancelling_needs_no_body(admin: httpx.Client, catalog: dict[str, Any]) -> None:
    """Then it ends with its period."""
    made = subscribed(admin)
    ending = posted(admin, f"/subscriptions/{made['id']}/cancel", status=200)
    assert ending["cancel_at_period_end"] is True


def test_deleting_ends_at_once_and_keeps_it_to_read(
    admin: httpx.Client, catalog: dict[str, Any]
) -> None:
    """204, and a subscription that is cancelled."""
    path = f"/api/v1/subscriptions/{subscribed(admin)['id']}"
    assert admin.delete(path).status_code == 204
    assert read(admin, path)["status"] == "CANCELLED"
    assert admin.delete(path).status_code == 409


def test_changing_the_plan_now_and_later(admin: httpx.Client, catalog: dict[str, Any]) -> None:
    """Now with the same end of the period; later as `next_plan_id`, which can be taken back."""
    made = subscribed(admin)
    path = f"/subscriptions/{made['id']}"
    later = posted(admin, f"{path}/change-plan", {"plan_id": "pro", "when": "period_end"}, 200)
    assert (later["plan_name"], later["next_plan_id"]) == ("Starter", catalog["pro"]["id"])
    assert posted(admin, f"{path}/keep-plan", status=200)["next_plan_id"] is None
    now = posted(admin, f"{path}/change-plan", {"plan_id": "pro"}, 200)
    assert (now["plan_name"], now["status"]) == ("Pro", "ACTIVE")
    assert now["current_period_end"] == made["current_period_end"]


def test_what_is_not_there_is_404(admin: httpx.Client, catalog: dict[str, Any]) -> None:
    """Reading, wishing, and filters that name nothing."""
    for path in (
        "/subscriptions/sub_none",
        "/subscriptions/sub_none/usage",
        "/subscriptions?customer_id=nobody",
        "/subscriptions?plan_id=nothing",
        "/customers/nobody/subscriptions",
    ):
        assert admin.get(f"/api/v1{path}").status_code == 404, path
    assert admin.post("/api/v1/subscriptions/sub_none/pause").status_code == 404
    assert admin.delete("/api/v1/subscriptions/sub_none").status_code == 404


def test_usage_so_far_is_told_by_charge(
    admin: httpx.Client, catalog: dict[str, Any], database: Database, organization_id: str
) -> None:
    """145,200 calls at 0.001 are 145.20; what a trial uses is told and not billed."""
    other = posted(admin, "/customers", {"name": "Zenith", "external_id": "zenith"})
    made = subscribed(admin)
    trial = posted(admin, "/subscriptions", {"customer_id": other["id"], "plan_id": "pro"})
    with database.transaction() as tx:
        for number, customer_id in enumerate((made["customer_id"], other["id"])):
            identity = CustomerIdentityRow(
                organization_id=organization_id,
                field="account_id",
                value=f"account-{number}",
                customer_id=customer_id,
            )
            tx.session.add(identity)
            tx.session.flush()
            event = UsageEvent(
                id=f"event-{number}",
                state="counted",
                policy="calls",
                policy_version="1",
                metric="api_calls",
                identity=Identity("account_id", identity.value),
                quantity=Decimal(145_200),
                occurred_at=tx.now,
                request_method="GET",
                request_route="/",
                request_status=200,
            )
            store.append(tx, organization_id, [encode(event)], unknown_metric="create")
    usage = read(admin, f"/api/v1/subscriptions/{made['id']}/usage")
    assert (usage["billed"], usage["currency"]) == (True, "USD")
    [charge] = usage["charges"]
    assert (charge["metric"], charge["unit"], charge["quantity"]) == ("api_calls", "calls", 145_200)
    assert (charge["amount"], charge["included"]) == (145.2, 0)
    usage = read(admin, f"/api/v1/subscriptions/{trial['id']}/usage")
    assert (usage["billed"], usage["status"]) == (False, "TRIAL")
    assert usage["charges"][0]["quantity"] == 145_200


def test_the_current_subscription_of_the_organization(
    admin: httpx.Client, rest: httpx.Client, key: Callable[..., str], catalog: dict[str, Any]
) -> None:
    """GET /api/subscriptions with a key: null at first, then the newest that has not ended."""
    rest.headers["x-usageflow-api-key"] = key("usage.read")
    assert read(rest, "/api/subscriptions") == {"subscription": None}
    made = posted(admin, "/subscriptions", {"plan_id": "pro", "start_date": "2026-01-01T00:00:00Z"})
    assert read(rest, "/api/subscriptions") == {
        "subscription": {
            "id": made["id"],
            "planName": "Pro",
            "status": made["status"],
            "periodStart": made["current_period_start"],
            "periodEnd": made["current_period_end"],
            "createdAt": made["created_at"],
        }
    }
    theirs = {"customerId": "acme-corp-001"}
    assert read(rest, "/api/subscriptions", **theirs) == {"subscription": None}
    subscription = read(rest, "/api/subscriptions", customerId="default")["subscription"]
    assert subscription["id"] == made["id"]
    assert rest.get("/api/subscriptions", params={"customerId": "nobody"}).status_code == 404
    admin.delete(f"/api/v1/subscriptions/{made['id']}")
    assert read(rest, "/api/subscriptions") == {"subscription": None}
