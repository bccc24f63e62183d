"""/api/v1/invoices and /api/invoices: written by hand, generated, issued, paid, explained."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from usageflow.db.session import Database
from usageflow.db.tables import CustomerIdentityRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store

WORKED = {
    "currency": "USD",
    "due_date": "2030-01-31T00:00:00Z",
    "memo": "Thank you",
    "tax_percent": 18,
    "line_items": [
        {"description": "Setup", "quantity": 1, "unit_amount": 500},
        {"description": "Support", "quantity": 8, "unit_amount": 150},
    ],
}

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what is decided above the database."""


@pytest.fixture
def admin(sign_in: Callable[..., httpx.Client]) -> httpx.Client:
    """A person who may do it all."""
    return sign_in("ADMIN")


@pytest.fixture
def acme(admin: httpx.Client) -> str:
    """The id of a customer."""
    body = {"name": "Acme Corp", "email": "billing@acme.com", "external_id": "acme"}
    made = admin.post("/api/v1/customers", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


@pytest.fixture
def subscription(admin: httpx.Client, acme: str) -> str:
    """Acme's subscription: 100 a month with 10,000 calls, 0.01 for each beyond."""
    call(admin, "POST", "/metrics", {"key": "API_CALL", "name": "Calls", "unit": "calls"})
    charge = {
        "type": "USAGE",
        "metric": "API_CALL",
        "model": "included",
        "included_units": 10_000,
        "overage_price": 0.01,
        "display_name": "Calls",
    }
    plan = {"name": "Pro", "lookup_id": "pro", "base_price": 100, "charges": [charge]}
    call(admin, "POST", "/plans", plan)
    body = {"customer_id": acme, "plan_id": "pro", "start_date": started().isoformat()}
    return str(call(admin, "POST", "/subscriptions", body)["id"])


def started() -> datetime:
    """A moment within the running month of the subscription, and a full hour."""
    return (datetime.now(UTC) - timedelta(days=5)).replace(minute=0, second=0, microsecond=0)


def call(
    client: httpx.Client, method: str, path: str, body: Any = None, status: int | None = None
) -> Any:
    """The answer to a request that is done, or that has this status."""
    content = {} if body is None else {"json": body}
    response = client.request(method, f"/api/v1{path}", **content)
    expected = {status} if status else {200, 201, 204}
    assert response.status_code in expected, response.text
    return response.json() if response.content else None


@pytest.fixture
def track(database: Database, organization_id: str, acme: str) -> Callable[[int], None]:
    """`track(12_000)`: lets Acme use something, an hour after its start."""

    def tracked(quantity: int) -> None:
        event = UsageEvent(
            id="event-1",
            metric="API_CALL",
            quantity=Decimal(quantity),
            occurred_at=started() + timedelta(hours=1, minutes=10),
            identity=Identity("account_id", "acme"),
            policy="p",
            policy_version="1",
            state="counted",
            request_method="POST",
            request_route="/v1/things",
            request_status=200,
        )
        with database.transaction() as tx:
            tx.session.add(
                CustomerIdentityRow(
                    organization_id=organization_id,
                    field="account_id",
                    value="acme",
                    customer_id=acme,
                )
            )
            tx.session.flush()
            store.append(tx, organization_id, [encode(event)], unknown_metric="create")

    return tracked


def test_500_and_8_times_150_with_18_per_cent_tax_are_2006(admin: httpx.Client, acme: str) -> None:
    """The worked number of a manual invoice: 1,700 and 306 tax are 2,006."""
    made = call(admin, "POST", "/invoices", WORKED | {"customer_id": acme}, 201)
    assert (made["status"], made["invoice_number"], made["kind"]) == ("DRAFT", None, "manual")
    assert (made["subtotal"], made["tax"], made["total"]) == (1700, 306, 2006)
    assert [line["line_total"] for line in made["line_items"]] == [500, 1200]
    issued = call(admin, "POST", f"/invoices/{made['id']}/finalize")
    assert (issued["status"], issued["amount_due"]) == ("OPEN", 2006)
    assert issued["invoice_number"].startswith("INV-")
    assert issued["due_date"] == "2030-01-31T00:00:00Z"
    assert issued["bill_to"]["name"] == "Acme Corp"
    again = call(admin, "GET", f"/invoices/{issued['invoice_number']}")
    assert again["id"] == made["id"]


@ON_SQLITE
def test_a_draft_is_written_anew_and_deleted_and_an_issued_invoice_is_not(
    admin: httpx.Client, acme: str
) -> None:
    """PUT and DELETE are for drafts alone."""
    body = WORKED | {"customer_id": acme}
    made = call(admin, "POST", "/invoices", body)
    body["line_items"] = [{"description": "Less", "quantity": "0.5", "unit_amount": "0.01"}]
    changed = call(admin, "PUT", f"/invoices/{made['id']}", body)
    assert (changed["subtotal"], changed["total"]) == (0.01, 0.01)
    call(admin, "DELETE", f"/invoices/{made['id']}", status=204)
    call(admin, "GET", f"/invoices/{made['id']}", status=404)
    other = call(admin, "POST", "/invoices", body)
    call(admin, "PATCH", f"/invoices/{other['id']}/status", {"status": "OPEN"})
    call(admin, "PUT", f"/invoices/{other['id']}", body, 409)
    call(admin, "DELETE", f"/invoices/{other['id']}", status=409)


@ON_SQLITE
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"currency": "XXX"}, "currency"),
        ({"tax_percent": 101}, "tax_percent"),
        ({"line_items": []}, "line_items"),
        ({"line_items": [{"description": "a", "quantity": -1, "unit_amount": 1}]}, "quantity"),
        ({"line_items": [{"description": "a", "quantity": 1, "unit_amount": -1}]}, "unit_amount"),
        (
            {"line_items": [{"description": "a", "quantity": 10**20, "unit_amount": 1}]},
            "line_items",
        ),
    ],
)
def test_what_is_wrong_with_an_invoice_is_said(
    admin: httpx.Client, acme: str, change: dict[str, Any], field: str
) -> None:
    """Each mistake is a 422 that names its field."""
    body = WORKED | {"customer_id": acme} | change
    error = call(admin, "POST", "/invoices", body, 422)["error"]
    assert field in error["fields"][0]["field"]


@ON_SQLITE
def test_an_invoice_is_paid_in_part_then_all_and_credited(admin: httpx.Client, acme: str) -> None:
    """Payments and credit notes are told with the invoice, and what is due follows."""
    made = call(admin, "POST", "/invoices", WORKED | {"customer_id": acme})
    path = f"/invoices/{made['id']}"
    call(admin, "POST", f"{path}/pay", {"note": "early"}, 409)
    call(admin, "POST", f"{path}/finalize")
    failed = call(admin, "POST", f"{path}/fail", {"note": "card expired"})
    assert (failed["status"], failed["payment_failures"]) == ("OPEN", 1)
    part = call(admin, "POST", f"{path}/pay", {"amount": 1000, "note": "bank"})
    assert (part["status"], part["amount_paid"], part["amount_due"]) == ("OPEN", 1000, 1006)
    note = {"reason": "Sorry", "amount": 6}
    credit = call(admin, "POST", f"{path}/credit-notes", note, 201)
    assert credit["number"].startswith("CN-")
    lines = [{"description": "More", "amount": 2001}]
    call(admin, "POST", f"{path}/credit-notes", {"reason": "x", "lines": lines}, 409)
    call(admin, "POST", f"{path}/credit-notes", {"reason": "x"}, 422)
    call(admin, "POST", f"{path}/credit-notes", {"reason": "x", "amount": "0.001"}, 422)
    paid = call(admin, "POST", f"{path}/pay")
    assert (paid["status"], paid["amount_paid"], paid["amount_due"]) == ("PAID", 2000, 0)
    assert [one["outcome"] for one in paid["payments"]] == [
        "failed",
        "paid in part: 1,006.00 USD are still due",
        "paid",
    ]
    assert call(admin, "GET", f"{path}/credit-notes")["data"] == paid["credit_notes"]
    call(admin, "POST", f"{path}/void", status=409)


@ON_SQLITE
@pytest.mark.parametrize(
    ("way", "body", "status"),
    [
        ("/void", {"note": "twice"}, "VOID"),
        ("/uncollectible", None, "UNCOLLECTIBLE"),
        ("/status", {"status": "VOID"}, "VOID"),
        ("/status", {"status": "PAID", "note": "cash"}, "PAID"),
        ("/status", {"status": "UNCOLLECTIBLE"}, "UNCOLLECTIBLE"),
    ],
)
def test_an_issued_invoice_comes_to_its_end(
    admin: httpx.Client, acme: str, way: str, body: Any, status: str
) -> None:
    """Void, given up or paid, by its own address or by its status."""
    made = call(admin, "POST", "/invoices", WORKED | {"customer_id": acme})
    call(admin, "POST", f"/invoices/{made['id']}/finalize")
    method = "PATCH" if way == "/status" else "POST"
    ended = call(admin, method, f"/invoices/{made['id']}{way}", body)
    assert ended["status"] == status
    listed = call(admin, "GET", f"/invoices?status={status}&customer_id=acme")
    assert [one["id"] for one in listed["data"]] == [made["id"]]


def test_generate_preview_and_explain_an_invoice(
    admin: httpx.Client, track: Callable[[int], None], subscription: str
) -> None:
    """The preview is what is generated; it opens to steps, windows, events and requests."""
    track(12_000)
    preview = call(admin, "POST", f"/subscriptions/{subscription}/preview-invoice", status=200)
    made = call(admin, "POST", f"/subscriptions/{subscription}/generate-invoice", status=201)
    assert preview["total"] == made["total"] == 120
    assert [line["line_total"] for line in made["line_items"]] == [100, 20]
    path = f"/invoices/{made['id']}"
    call(admin, "POST", f"{path}/recompute", status=409)
    call(admin, "POST", f"{path}/finalize")
    explained = call(admin, "GET", f"{path}/explain")
    assert explained["lines"][1]["steps"][-1]["text"] == "2,000 x 0.01 = 20"
    text = admin.get(f"/api/v1{path}/explain?format=text")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == explained["text"]
    assert call(admin, "POST", f"{path}/recompute") == {"identical": True, "differences": []}
    windows = call(admin, "GET", f"{path}/lines/2/windows")
    assert [one["total"] for one in windows["windows"]] == [12_000]
    assert len(call(admin, "GET", f"{path}/lines/2/windows?group_by=hour")["windows"]) == 1
    events = call(admin, "GET", f"{path}/lines/2/events")
    assert [(one["quantity"], one["after_invoice"]) for one in events["data"]] == [(12_000, False)]
    assert call(admin, "GET", f"{path}/lines/1/windows")["windows"] == []
    call(admin, "GET", f"{path}/lines/3/events", status=404)


@ON_SQLITE
def test_lists_of_a_customer_and_of_a_subscription(
    admin: httpx.Client, acme: str, subscription: str
) -> None:
    """Each has its own invoices, newest first, bounded by when they were made."""
    by_hand = call(admin, "POST", "/invoices", WORKED | {"customer_id": acme})["id"]
    made = call(admin, "POST", f"/subscriptions/{subscription}/generate-invoice")["id"]

    def ids(path: str) -> list[str]:
        return [one["id"] for one in call(admin, "GET", path)["data"]]

    assert ids("/customers/acme/invoices") == [made, by_hand]
    assert ids(f"/subscriptions/{subscription}/invoices") == [made]
    assert ids("/invoices?from=2020-01-01T00:00:00Z&to=2021-01-01T00:00:00Z") == []
    assert ids("/invoices?collect=stripe_meters") == []
    call(admin, "GET", "/customers/nobody/invoices", status=404)


def test_a_past_period_under_another_plan(
    admin: httpx.Client, track: Callable[[int], None], acme: str, subscription: str
) -> None:
    """What if: the same usage priced by another plan, beside the subscription's own."""
    track(12_000)
    charge = {"type": "USAGE", "metric": "API_CALL", "unit_price": 0.02, "display_name": "Calls"}
    call(admin, "POST", "/plans", {"name": "Flat", "lookup_id": "flat", "charges": [charge]})
    asked = {
        "plan_id": "flat",
        "start": started().isoformat(),
        "end": (started() + timedelta(days=3)).isoformat(),
    }
    found = call(admin, "POST", "/what-if", asked | {"subscription_id": subscription})
    assert (found["what_if"]["total"], found["own_plan"]["total"]) == (240, 120)
    alone = call(admin, "POST", "/what-if", asked | {"customer_id": acme})
    assert (alone["what_if"], alone["own_plan"]) == (found["what_if"], None)
    call(admin, "POST", "/what-if", asked, 422)
    call(admin, "POST", "/what-if", asked | {"customer_id": "nobody"}, 404)
    call(admin, "POST", "/what-if", asked | {"subscription_id": "sub_x"}, 404)
    call(admin, "POST", "/what-if", asked | {"customer_id": acme, "plan_id": "x"}, 422)
    call(admin, "POST", "/what-if", asked | {"customer_id": acme, "end": asked["start"]}, 422)


def test_issued_invoices_in_the_words_of_the_product_documents(
    admin: httpx.Client,
    rest: httpx.Client,
    key: Callable[..., str],
    track: Callable[[int], None],
    subscription: str,
) -> None:
    """A draft is not there; an issued invoice has exactly these fields first."""
    track(12_000)
    rest.headers["x-usageflow-api-key"] = key("usage.read")
    made = call(admin, "POST", f"/subscriptions/{subscription}/generate-invoice")
    assert rest.get("/api/invoices").json() == {"invoices": [], "nextCursor": None}
    call(admin, "POST", f"/invoices/{made['id']}/finalize")
    body = rest.get("/api/invoices").json()
    (shown,) = body["invoices"]
    assert list(shown)[:6] == ["id", "amount", "status", "periodStart", "periodEnd", "createdAt"]
    assert (shown["id"], shown["amount"], shown["status"]) == (made["id"], 120, "PENDING")
    assert shown["periodStart"].endswith("00:00.000Z")
    assert b'"amount":120,' in rest.get("/api/invoices").content
    call(admin, "POST", f"/invoices/{made['id']}/fail")
    assert [one["status"] for one in rest.get("/api/invoices").json()["invoices"]] == ["FAILED"]
    call(admin, "POST", f"/invoices/{made['id']}/pay")
    assert [one["status"] for one in rest.get("/api/invoices").json()["invoices"]] == ["PAID"]


def test_issued_invoices_page_by_page_and_by_status(
    admin: httpx.Client, rest: httpx.Client, key: Callable[..., str], acme: str
) -> None:
    """A cursor leads on; a status and a customer narrow; void ones are not shown."""
    rest.headers["x-usageflow-api-key"] = key("usage.read")
    ids = []
    for way in (None, "fail", "pay", "void", "uncollectible"):
        made = call(admin, "POST", "/invoices", WORKED | {"customer_id": acme})
        call(admin, "POST", f"/invoices/{made['id']}/finalize")
        if way is not None:
            call(admin, "POST", f"/invoices/{made['id']}/{way}")
        ids.append(made["id"])
    pending, failed, paid, _, given_up = ids

    def shown(**params: Any) -> Any:
        response = rest.get("/api/invoices", params=params)
        assert response.status_code == 200, response.text
        body = response.json()
        return [one["id"] for one in body["invoices"]], body["nextCursor"]

    assert shown(customerId="acme") == ([given_up, paid, failed, pending], None)
    assert shown(limit=2) == ([given_up, paid], paid)
    assert shown(limit=2, cursor=paid) == ([failed, pending], None)
    assert shown(status="PENDING") == ([pending], None)
    assert shown(status="FAILED") == ([given_up, failed], None)
    assert shown(status="PAID") == ([paid], None)
    assert rest.get("/api/invoices", params={"cursor": "x"}).status_code == 422
    assert rest.get("/api/invoices", params={"customerId": "x"}).status_code == 404


@ON_SQLITE
def test_a_held_invoice_is_released(admin: httpx.Client, subscription: str) -> None:
    """One that nothing speaks against is released like any other; an unknown one is not there."""
    made = call(admin, "POST", f"/subscriptions/{subscription}/generate-invoice")
    assert call(admin, "POST", f"/invoices/{made['id']}/release")["status"] == "OPEN"
    call(admin, "POST", "/invoices/inv_none/release", status=404)
    call(admin, "POST", "/invoices/inv_none/pay", {"amount": 5}, 404)
    call(admin, "POST", "/invoices/inv_none/credit-notes", {"reason": "x", "amount": 5}, 404)
    call(admin, "GET", "/invoices/inv_none/credit-notes", status=404)
    call(admin, "DELETE", "/invoices/inv_none", status=404)
