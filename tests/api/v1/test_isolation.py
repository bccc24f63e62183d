"""One organization sees nothing of another: every route, made from our own OpenAPI document.

A new route is tried without anything being written here; one that takes the id of something new
fails until `furnished` makes such a thing.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx

from usageflow.db.session import Database
from usageflow.db.tables import ReconciliationRow, StripeAccountRow
from usageflow.webhooks.fan_out import fan_out_due

if TYPE_CHECKING:
    from tests.api.v1.conftest import Calls

UNPROCESSABLE = 422
MARK = "Zebra"
"""Stands in every name of the other organization; no answer to ours may hold it."""
BODY_FIRST = {
    "POST /api/v1/plans/{plan}/features",
    "POST /api/v1/invoices/{invoice_id}/credit-notes",
}
"""Where the example of a body is wrong, and may be refused before anything is looked up."""
POLICY = f"""
[[policy]]
name = "{MARK}-policy"
match = "GET /zebra"
identify = [ {{ from = "header", name = "x-account-id" }} ]
field = "account_id"
metric = "OTHER"
"""


def furnished(client: httpx.Client, database: Database) -> dict[str, str]:
    """Something of everything in the client's organization: the ids, by the names in paths."""

    def make(path: str, body: Any) -> dict[str, Any]:
        answer = client.post(f"/api/v1{path}", json=body)
        assert answer.is_success, (path, answer.text)
        found: dict[str, Any] = answer.json()
        return found

    metric = make("/metrics", {"key": f"{MARK}_CALL", "name": f"{MARK} calls"})
    feature = make("/features", {"name": f"{MARK} switch", "lookup_key": "sso", "type": "switch"})
    plan = make("/plans", {"name": f"{MARK} plan", "base_price": 100})
    charge = make(f"/plans/{plan['id']}/charges", {"metric": metric["id"], "unit_price": 1})
    make(f"/plans/{plan['id']}/features", {"feature_id": feature["id"]})
    customer = make("/customers", {"name": f"{MARK} customer", "external_id": f"{MARK}-1"})
    wanted = {"customer_id": customer["id"], "plan_id": plan["id"]}
    subscription = make("/subscriptions", wanted)
    hook = make("/webhooks", {"url": f"https://{MARK.lower()}.example.com/"})
    key = make("/api-keys", {"name": f"{MARK} key", "scopes": ["usage.write"]})
    invited = make("/invitations", {"email": f"{MARK}@example.com", "role": "VIEWER"})
    event = {"metric": metric["key"], "amount": 5, "customerId": customer["external_id"]}
    tracked = client.post("/api/track", json=event)
    assert tracked.is_success, tracked.text
    invoice = make(f"/subscriptions/{subscription['id']}/generate-invoice", {})
    make(f"/invoices/{invoice['id']}/finalize", {})
    credit = make(f"/invoices/{invoice['id']}/credit-notes", {"amount": 1, "reason": MARK})
    make("/portal-links", {"customer_id": customer["id"]})
    client.put("/api/v1/policies", json={"toml": POLICY}).raise_for_status()
    make(f"/webhooks/{hook['id']}/test", {})
    fan_out_due(database)
    delivery = client.get(f"/api/v1/webhooks/{hook['id']}/deliveries").json()["data"][0]
    member = client.get("/api/v1/members").json()["data"][0]
    session = client.get("/api/v1/auth/sessions").json()["data"][0]
    organization_id = client.get("/api/v1/organization").json()["id"]
    return _at_stripe(database, organization_id) | {
        "metric": metric["id"],
        "meter": metric["meter_token"],
        "feature": feature["id"],
        "plan": plan["id"],
        "version": "1",
        "charge": charge["id"],
        "customer": customer["id"],
        "customer_id": customer["id"],
        "subscription": subscription["id"],
        "subscription_id": subscription["id"],
        "invoice_id": invoice["id"],
        "position": "1",
        "credit_note_id": credit["id"],
        "endpoint": hook["id"],
        "delivery": str(delivery["id"]),
        "event": client.get("/api/v1/webhook-events").json()["data"][0]["id"],
        "event_id": tracked.json()["eventId"],
        "name": f"{MARK}-policy",
        "key_id": key["id"],
        "invitation_id": invited["id"],
        "member_id": member["id"],
        "session_id": session["id"],
        "plan_id": plan["id"],
        "feature_id": feature["id"],
        "organization_id": organization_id,
    }


def _at_stripe(database: Database, organization_id: str) -> dict[str, str]:
    """A Stripe account and a difference, which only Stripe could make come about."""
    with database.transaction() as tx:
        account = StripeAccountRow(
            id="their-account",
            organization_id=organization_id,
            kind="own",
            account=f"acct_{MARK}",
            livemode=False,
            state="active",
            created_at=tx.now,
        )
        tx.session.add(account)
        tx.session.flush()
        difference = ReconciliationRow(
            organization_id=organization_id,
            account_id=account.id,
            stripe_customer_id=f"cus_{MARK}",
            event_name=MARK,
            hour=tx.now,
            expected=Decimal(2),
            observed=Decimal(1),
            classification="unsettled",
            reason=MARK,
            state="open",
            first_seen_at=tx.now,
            observed_at=tx.now,
            checked_at=tx.now,
        )
        tx.session.add(difference)
        tx.session.flush()
        return {"account": account.id, "difference": str(difference.id)}


def test_one_organization_sees_nothing_of_another(
    sign_in: Callable[..., httpx.Client], calls: "Calls", database: Database
) -> None:
    """With the other's ids an owner gets 404 everywhere, and no answer holds the other's names."""
    theirs = furnished(sign_in("OWNER", organization="other"), database)
    missing = calls.names() - theirs.keys()
    assert not missing, f"furnish something for {missing}"
    ours = sign_in("OWNER")
    unlike: list[str] = []
    for method, path, told in calls.operations():
        if told.get("x-permission") is None or "/auth/" in path:
            continue
        response = calls.ask(ours, method, path, theirs)
        told_back = response.text.replace(theirs["name"], "")
        assert MARK.lower() not in told_back.lower(), (method, path, response.text)
        assert response.status_code < httpx.codes.INTERNAL_SERVER_ERROR, (method, path)
        wrong = f"{method} {path}" in BODY_FIRST and response.status_code == UNPROCESSABLE
        if "{" in path and not wrong and response.status_code != httpx.codes.NOT_FOUND:
            unlike.append(f"{method} {path}: {response.status_code} {response.text[:200]}")
    assert not unlike, "\n".join(unlike)
