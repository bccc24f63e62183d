"""Addresses that answer with a file: PDF and usage statements."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlmodel import select

from usageflow.db.billing_tables import CreditNoteRow, InvoiceLineRow, InvoiceRow
from usageflow.db.session import Database
from usageflow.db.tables import CustomerRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store
from usageflow.ledger.aggregation import watermark

MARCH = datetime(2025, 3, 1, tzinfo=UTC)
APRIL = datetime(2025, 4, 1, tzinfo=UTC)
INTERVAL = {"start": "2025-03-01T00:00:00Z", "end": "2025-04-01T00:00:00Z"}


@pytest.fixture
def reader(
    database: Database, organization_id: str, rest: httpx.Client, key: Callable[..., str]
) -> httpx.Client:
    """Who may read, where a customer `=acme` used 12 and 30, and has an invoice and a credit."""
    ours: dict[str, Any] = {"organization_id": organization_id}
    with database.transaction() as tx:
        lines = [
            encode(
                UsageEvent(
                    id=f"event-{quantity}",
                    policy="chat",
                    policy_version="1",
                    metric="API_CALL",
                    identity=Identity("external_id", "=acme"),
                    quantity=Decimal(quantity),
                    occurred_at=MARCH,
                    state="counted",
                )
            )
            for quantity in (12, 30)
        ]
        store.append(tx, organization_id, lines, unknown_metric="create")
        row = InvoiceRow(
            id="inv_1",
            customer_id=tx.session.exec(select(CustomerRow.id)).one(),
            kind="manual",
            state="DRAFT",
            collect="local",
            payment_method="manual",
            number="INV-2025-0001",
            currency="USD",
            watermark=watermark(tx, organization_id),
            subtotal=4_200,
            total=4_200,
            issued_at=APRIL,
            created_at=tx.now,
            updated_at=tx.now,
            **ours,
        )
        tx.session.add(row)
        tx.session.flush()
        tx.session.add(
            InvoiceLineRow(
                invoice_id="inv_1",
                position=0,
                kind="usage",
                description="API calls",
                metric="API_CALL",
                period_start=MARCH,
                period_end=APRIL,
                quantity=Decimal(42),
                amount=4_200,
                **ours,
            )
        )
        tx.session.flush()
        row.state = "OPEN"
        tx.session.add(
            CreditNoteRow(
                id="cn_1",
                invoice_id="inv_1",
                number="CN-2025-0001",
                currency="USD",
                amount=100,
                reason="agreed",
                lines='[{"description":"agreed","amount":100}]',
                created_by="ann",
                created_at=APRIL,
                **ours,
            )
        )
    rest.headers["x-api-key"] = key("billing.read")
    return rest


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/invoices/inv_1/pdf", "INV-2025-0001.pdf"),
        ("/credit-notes/cn_1/pdf", "CN-2025-0001.pdf"),
    ],
)
def test_documents_are_pdf(reader: httpx.Client, path: str, name: str) -> None:
    """To be saved by their number, and kept by nobody on the way."""
    made = reader.get(f"/api/v1{path}")
    assert made.status_code == 200, made.text
    assert made.content.startswith(b"%PDF")
    assert made.headers["content-type"] == "application/pdf"
    assert made.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert made.headers["cache-control"] == "no-store"


def test_a_usage_statement_of_an_invoice(reader: httpx.Client) -> None:
    """CSV by hours, unless asked otherwise; its total is what the invoice says."""
    made = reader.get("/api/v1/invoices/inv_1/usage-statement")
    assert made.headers["content-type"] == "text/csv; charset=utf-8"
    assert made.headers["content-disposition"] == 'attachment; filename="INV-2025-0001-usage.csv"'
    rows = list(csv.DictReader(io.StringIO(made.text)))
    assert [(one["row"], one["quantity"], one["invoiced"]) for one in rows] == [
        ("hour", "42", ""),
        ("total", "42", "42"),
    ]


def test_a_usage_statement_of_a_customer(reader: httpx.Client) -> None:
    """By its external id, event by event, as NDJSON."""
    made = reader.get(
        "/api/v1/customers/=acme/usage-statement",
        params={**INTERVAL, "format": "ndjson", "detail": "events"},
    )
    assert made.status_code == 200, made.text
    assert made.headers["content-type"] == "application/x-ndjson"
    name = 'attachment; filename="usage-2025-03-01-2025-04-01.ndjson"'
    assert made.headers["content-disposition"] == name
    rows = [json.loads(line) for line in made.text.splitlines()]
    assert [(one["row"], one["quantity"]) for one in rows] == [
        ("event", 12),
        ("event", 30),
        ("total", 42),
    ]


REFUSED: list[tuple[str, dict[str, Any], int]] = [
    ("/invoices/inv_none/pdf", {}, 404),
    ("/credit-notes/cn_none/pdf", {}, 404),
    ("/invoices/inv_none/usage-statement", {}, 404),
    ("/customers/none/usage-statement", INTERVAL, 404),
    ("/customers/=acme/usage-statement", {}, 422),
    ("/customers/=acme/usage-statement", {**INTERVAL, "end": INTERVAL["start"]}, 422),
    ("/customers/=acme/usage-statement", {**INTERVAL, "end": "2027-01-01T00:00:00Z"}, 422),
    ("/customers/=acme/usage-statement", {**INTERVAL, "start": "2025-03-01"}, 422),
    ("/invoices/inv_1/usage-statement", {"format": "xml"}, 422),
    ("/invoices/inv_1/usage-statement", {"detail": "all"}, 422),
]


def test_what_cannot_be_made_is_said(reader: httpx.Client) -> None:
    """In the shape of every refusal."""
    for path, params, status in REFUSED:
        made = reader.get(f"/api/v1{path}", params=params)
        assert (made.status_code, "message" in made.json()["error"]) == (status, True), path


def test_who_may_only_write_usage_reads_none(reader: httpx.Client, key: Callable[..., str]) -> None:
    """Nor any invoice."""
    reader.headers["x-api-key"] = key("usage.write")
    for path in ("/invoices/inv_1/pdf", "/invoices/inv_1/usage-statement"):
        assert reader.get(f"/api/v1{path}").status_code == 403
