"""Making and ending the links of customers."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from usageflow.billing import portal
from usageflow.db.session import Database
from usageflow.db.tables import CustomerRow


@pytest.fixture
def edge(
    database: Database, organization_id: str, rest: httpx.Client, key: Callable[..., str]
) -> httpx.Client:
    """A client with the key of a backend, where there is a customer acme-1."""
    with database.transaction() as tx:
        customer: dict[str, Any] = {"id": "customer", "external_id": "acme-1"}
        customer |= {"organization_id": organization_id, "created_at": tx.now}
        tx.session.add(CustomerRow(**customer))
    rest.headers["x-api-key"] = key("usage.write")
    return rest


def opens(database: Database, token: str) -> str | None:
    """Whose page a token opens."""
    with database.reading() as tx:
        visitor = portal.visitor(tx, token)
    return None if visitor is None else visitor.customer_id


@pytest.mark.parametrize(
    ("body", "life"),
    [({}, timedelta(hours=1)), ({"expires_in_s": 2_592_000}, timedelta(days=30))],
    ids=["hour", "month"],
)
def test_a_link_leads_to_the_portal(
    edge: httpx.Client, database: Database, body: dict[str, Any], life: timedelta
) -> None:
    """Of this server, for as long as was asked, or an hour."""
    made = edge.post("/api/v1/portal-links", json={"customer_id": "customer", **body})
    assert made.status_code == 201, made.text
    url = urlsplit(made.json()["url"])
    assert (url.scheme, url.netloc, url.path) == ("http", "api", "/portal")
    assert opens(database, parse_qs(url.query)["token"][0]) == "customer"
    left = datetime.fromisoformat(made.json()["expires_at"]) - datetime.now(UTC)
    assert life - timedelta(minutes=5) < left <= life


def test_the_token_of_the_quickstart(edge: httpx.Client, database: Database) -> None:
    """By the customer's external id, with the key that sends usage."""
    made = edge.post("/api/v1/widget/token", json={"customer_external_id": "acme-1"})
    assert made.status_code == 201, made.text
    assert set(made.json()) == {"token", "expires_at", "url"}
    assert opens(database, made.json()["token"]) == "customer"
    assert made.json()["url"].endswith(f"/portal?token={made.json()['token']}")


def test_links_end_when_they_are_revoked(edge: httpx.Client, database: Database) -> None:
    """All of a customer's."""
    token = edge.post("/api/v1/widget/token", json={"customer_external_id": "acme-1"}).json()
    assert edge.delete("/api/v1/customers/acme-1/portal-links").status_code == 204
    assert opens(database, token["token"]) is None


REFUSED: list[tuple[str, dict[str, Any], int]] = [
    ("/portal-links", {"customer_id": "none"}, 404),
    ("/portal-links", {"customer_id": "customer", "expires_in_s": 0}, 422),
    ("/portal-links", {"customer_id": "customer", "expires_in_s": 2_592_001}, 422),
    ("/portal-links", {"customer_id": "customer", "expires_in_s": True}, 422),
    ("/portal-links", {}, 422),
    ("/widget/token", {"customer_external_id": "none"}, 404),
    ("/widget/token", {"customer_external_id": ""}, 422),
]


def test_what_cannot_be_made_is_said(edge: httpx.Client) -> None:
    """In the shape of every refusal."""
    for path, body, status in REFUSED:
        made = edge.post(f"/api/v1{path}", json=body)
        assert (made.status_code, "message" in made.json()["error"]) == (status, True), path
    assert edge.delete("/api/v1/customers/none/portal-links").status_code == 404


def test_who_may_only_read_lets_nobody_in(edge: httpx.Client, key: Callable[..., str]) -> None:
    """Nor keeps anybody out."""
    edge.headers["x-api-key"] = key("billing.read")
    body = {"customer_id": "customer"}
    assert edge.post("/api/v1/portal-links", json=body).status_code == 403
    assert edge.delete("/api/v1/customers/customer/portal-links").status_code == 403
