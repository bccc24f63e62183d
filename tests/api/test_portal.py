"""The portal in a browser: who comes in, what is shown, and that nothing of it leaks."""

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from usageflow.api.portal import COOKIE, PortalPages, portal_url
from usageflow.billing import portal
from usageflow.billing.portal import Link
from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import default_organization
from usageflow.config import Settings
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.session import Database
from usageflow.db.tables import CustomerRow, MetricRow, OrganizationRow

ACTOR = Actor("test")
MARCH = datetime(2025, 3, 1, tzinfo=UTC)
APRIL = datetime(2025, 4, 1, tzinfo=UTC)
HOSTILE = '<script>alert("1")</script>\'&{{ 7*7 }}'


@pytest.fixture
def organization_id(database: Database) -> str:
    """An organization with two customers of hostile names, each of which has an invoice."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        tx.session.get_one(OrganizationRow, organization_id).display_name = HOSTILE
        metric = {"key": "API_CALL", "name": HOSTILE, "unit": HOSTILE}
        tx.session.add(MetricRow(organization_id=organization_id, created_at=tx.now, **metric))
        for name in ("acme", "other"):
            tx.session.add(
                CustomerRow(
                    id=name,
                    organization_id=organization_id,
                    external_id=name,
                    name=HOSTILE,
                    created_at=tx.now,
                )
            )
            tx.session.flush()
            invoice(tx, organization_id, name)
    return organization_id


def invoice(tx: Any, organization_id: str, customer_id: str) -> None:
    """An issued one, with a line."""
    row = InvoiceRow(
        id=f"inv_{customer_id}",
        organization_id=organization_id,
        customer_id=customer_id,
        kind="manual",
        state="DRAFT",
        collect="local",
        payment_method="manual",
        number=f"INV-{customer_id}",
        currency="USD",
        period_start=MARCH,
        period_end=APRIL,
        subtotal=12_000,
        total=12_000,
        issued_at=APRIL,
        due_at=APRIL,
        payment_url="https://pay.example/?a=1&b=2",
        created_at=APRIL,
        updated_at=APRIL,
    )
    tx.session.add(row)
    tx.session.flush()
    tx.session.add(
        InvoiceLineRow(
            organization_id=organization_id,
            invoice_id=row.id,
            position=0,
            kind="usage",
            description=HOSTILE,
            metric="API_CALL",
            unit="calls",
            quantity=Decimal(12_000),
            period_start=MARCH,
            period_end=APRIL,
            amount=12_000,
        )
    )
    tx.session.flush()
    row.state = "OPEN"


@pytest.fixture
def link(database: Database, organization_id: str) -> Link:
    """A link of the customer acme."""
    with database.transaction() as tx:
        made = portal.make(tx, organization_id, "acme", actor=ACTOR)
    assert isinstance(made, Link)
    return made


def test_a_link_opens_a_page_that_loads_nothing_foreign(api: httpx.Client, link: Link) -> None:
    """Hostile names are text; no browser may keep, index, frame or script the page."""
    page = api.get("/portal", params={"token": link.token}, follow_redirects=True)
    assert page.status_code == 200
    assert page.url.path == "/portal"
    assert not page.url.query
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;&#39;&amp;{{ 7*7 }}" in page.text
    assert "USD 120.00 was due on 1 April 2025" in page.text
    assert "12,000 calls" in page.text
    assert 'href="https://pay.example/?a=1&amp;b=2"' in page.text
    assert link.token not in page.text
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-robots-tag"] == "noindex, nofollow"
    assert page.headers["content-security-policy"].startswith(
        "default-src 'none'; style-src 'self'"
    )
    assert "style=" not in page.text
    style = api.get("/portal/style.css")
    assert style.headers["content-type"].startswith("text/css")
    assert "set-cookie" not in style.headers


def test_the_token_moves_into_a_cookie(api: httpx.Client, link: Link) -> None:
    """Which scripts cannot read, other sites cannot send along, and other paths do not get."""
    moved = api.get("/portal", params={"token": link.token})
    assert (moved.status_code, moved.headers["location"]) == (303, "/portal")
    cookie = moved.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}={link.token};")
    for part in ("HttpOnly", "Path=/portal", "SameSite=lax", f"{link.expires_at:%d %b %Y %H:%M}"):
        assert part in cookie
    assert "Secure" not in cookie  # this server is reached by http
    assert moved.headers["cache-control"] == "no-store"


def test_a_cookie_of_https_stays_on_https(database: Database, link: Link) -> None:
    """So the token never crosses a network in the clear."""
    settings = Settings(public_url="https://billing.example/")
    assert portal_url(settings, "t") == "https://billing.example/portal?token=t"
    assert "Secure" in PortalPages(database, settings)._let_in(link.token).headers["set-cookie"]


def test_the_files_of_an_invoice(api: httpx.Client, link: Link) -> None:
    """Its PDF and the usage it bills."""
    api.get("/portal", params={"token": link.token})
    made = api.get("/portal/invoices/inv_acme.pdf")
    assert made.content.startswith(b"%PDF")
    assert made.headers["content-disposition"] == 'attachment; filename="INV-acme.pdf"'
    assert made.headers["cache-control"] == "no-store"
    usage = api.get("/portal/invoices/inv_acme.csv")
    (total,) = csv.DictReader(io.StringIO(usage.text))
    assert (total["row"], total["invoiced"]) == ("total", "12000")


@pytest.mark.parametrize("kind", ["pdf", "csv"])
@pytest.mark.parametrize("invoice_id", ["inv_other", "inv_none", "inv_draft", "%00"])
def test_nobody_gets_what_is_anothers(
    api: httpx.Client, database: Database, link: Link, kind: str, invoice_id: str
) -> None:
    """Of an invoice that is not the visitor's, not even that it is there."""
    with database.transaction() as tx:
        row = tx.session.get_one(InvoiceRow, "inv_acme").model_dump()
        draft = {"id": "inv_draft", "state": "DRAFT", "number": None}
        tx.session.add(InvoiceRow(**row | draft))
    api.get("/portal", params={"token": link.token})
    made = api.get(f"/portal/invoices/{invoice_id}.{kind}")
    assert (made.status_code, "This link is over" in made.text) == (404, True)


def assert_closed(api: httpx.Client, token: str) -> None:
    """Nothing is shown, whichever way the token comes, but what to do."""
    for path in ("/portal", "/portal/invoices/inv_acme.pdf", "/portal/invoices/inv_acme.csv"):
        for asked in (
            api.get(path, params={"token": token}),
            api.get(path, headers={b"cookie": f"{COOKIE}={token}".encode()}),
        ):
            assert asked.status_code == 404
            assert "Ask whoever sent it for a new one" in asked.text
            assert "set-cookie" not in asked.headers
            assert asked.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "token", ["", "wrong", "x" * 10_000, "\u00fc"], ids=["none", "wrong", "long", "foreign"]
)
def test_a_token_that_is_none_ends_calmly(api: httpx.Client, link: Link, token: str) -> None:
    """With a page that says what to do, and no error."""
    assert api.get("/portal", params={"token": link.token}).status_code == 303
    api.cookies.clear()
    assert_closed(api, token)


def test_a_link_that_was_revoked_is_over(
    api: httpx.Client, database: Database, organization_id: str, link: Link
) -> None:
    """Also for who is in already."""
    api.get("/portal", params={"token": link.token})
    with database.transaction() as tx:
        portal.revoke(tx, organization_id, "acme", actor=ACTOR)
    assert api.get("/portal").status_code == 404
    assert_closed(api, link.token)
