"""/api/v1/customers: the payers, and how usage recognises them."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

ACME = {"name": "Acme Corp", "email": "billing@acme.com", "external_id": "acme-corp-001"}
PATH = "/api/v1/customers/acme-corp-001"
IDENTITY = {"field": "account_id", "value": "acct/42?"}


@pytest.fixture
def admin(rest: httpx.Client, key: Callable[..., str]) -> httpx.Client:
    """A client that may read and write all of billing."""
    rest.headers["x-api-key"] = key("billing.write")
    return rest


def test_the_customer_of_the_quickstart(admin: httpx.Client) -> None:
    """All that was said comes back, by either id; the second time it is a conflict."""
    made = admin.post("/api/v1/customers", json=ACME)
    assert made.status_code == 201
    customer = made.json()
    assert ACME.items() <= customer.items()
    for name in (customer["id"], "acme-corp-001"):
        assert admin.get(f"/api/v1/customers/{name}").json() == customer
    again = admin.post("/api/v1/customers", json=ACME)
    assert again.status_code == 409
    assert again.json()["error"]["fields"][0]["field"] == "external_id"
    assert admin.get("/api/v1/customers/acme").status_code == 404


def test_an_address_is_told_in_either_way(admin: httpx.Client) -> None:
    """As one object, or as fields of its own, which change a part."""
    flat = {"billing_address_line1": "Allee 1", "billing_address_country": "DE"}
    address = {"city": "Ulm", "state": "", "postal_code": "89073"}
    made = admin.post("/api/v1/customers", json=ACME | flat | {"address": address}).json()
    whole = address | {"line1": "Allee 1", "line2": "", "country": "DE"}
    assert made["address"] == whole
    moved = admin.patch(PATH, json={"billing_address_city": "Bonn"}).json()
    assert moved["address"] == whole | {"city": "Bonn"}
    moved = admin.patch(PATH, json={"address": {"line2": "2nd floor"}}).json()
    assert moved["address"] == whole | {"city": "Bonn", "line2": "2nd floor"}
    refused = admin.patch(PATH, json={"address": {"country": "Germany"}})
    assert refused.json()["error"]["fields"][0]["field"] == "address.country"


def test_a_customer_changes_or_is_told_anew(admin: httpx.Client) -> None:
    """PATCH keeps what it does not name, PUT forgets it; the external id stays."""
    told = {"phone": "+49", "tax_percent": 19.5, "metadata": {"tier": "gold"}}
    admin.post("/api/v1/customers", json=ACME | told | {"stripe_customer_id": "cus_1"})
    changed = admin.patch(PATH, json={"email": None, "tax_percent": "7.25"})
    assert '"tax_percent":7.25' in changed.text
    assert (changed.json()["email"], changed.json()["phone"]) == (None, "+49")
    anew = admin.put(PATH, json={"name": "Acme Inc", "metadata": {"a": "b"}}).json()
    assert (anew["name"], anew["metadata"], anew["external_id"]) == (
        "Acme Inc",
        {"a": "b"},
        "acme-corp-001",
    )
    for forgotten in ("email", "phone", "tax_percent", "stripe_customer_id"):
        assert anew[forgotten] is None
    assert admin.put(PATH, json={"email": "a@b"}).status_code == 422
    assert admin.patch("/api/v1/customers/x", json={}).status_code == 404


def test_customers_are_found_in_lists(admin: httpx.Client) -> None:
    """By a part of what they are called, or by exactly what they are."""
    admin.post("/api/v1/customers", json=ACME)
    admin.post("/api/v1/customers", json={"name": "Beta", "external_id": "beta"})

    def listed(**params: Any) -> list[str]:
        found = admin.get("/api/v1/customers", params=params).json()["data"]
        return [customer["name"] for customer in found]

    assert listed() == ["Acme Corp", "Beta"]
    assert listed(search="acme.com") == listed(email="billing@acme.com") == ["Acme Corp"]
    assert listed(external_id="beta") == listed(page=2, page_size=1) == ["Beta"]
    assert admin.delete("/api/v1/customers/beta").status_code == 204
    assert listed(archived=True) == ["Beta"]
    assert listed() == ["Acme Corp"]
    restored = admin.post("/api/v1/customers/beta/restore")
    assert restored.json()["archived_at"] is None
    assert listed() == ["Acme Corp", "Beta"]
    assert admin.delete("/api/v1/customers/x").status_code == 404
    assert admin.post("/api/v1/customers/x/restore").status_code == 404


def test_identities_are_given_and_taken(admin: httpx.Client) -> None:
    """With the customer or later, whatever characters they have; from another only on demand."""
    acme = admin.post("/api/v1/customers", json=ACME | {"identities": [IDENTITY]}).json()
    beta = admin.post("/api/v1/customers", json={"name": "Beta", "external_id": "beta"}).json()
    path = "/api/v1/customers/beta/identities"
    refused = admin.post(path, json=IDENTITY)
    assert refused.status_code == 409
    assert acme["id"] in refused.json()["error"]["message"]
    moved = admin.post(path, json=IDENTITY | {"move": True})
    assert moved.status_code == 201
    assert moved.json() == IDENTITY | {"customer_id": beta["id"]}
    assert admin.get(path).json()["data"] == [moved.json()]
    assert admin.get(f"{PATH}/identities").json()["meta"]["total"] == 0
    assert admin.delete(f"{PATH}/identities", params=IDENTITY).status_code == 404
    assert admin.delete(path, params=IDENTITY).status_code == 204
    assert admin.get("/api/v1/customers/x/identities").status_code == 404
    assert admin.delete(path).status_code == 422
    taken = admin.post(path, json={"field": "x" * 41, "value": "y"})
    assert taken.json()["error"]["fields"][0]["field"] == "field"
