"""Invoices and credit notes as PDF: everything on them, and only what their rows say."""

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pypdf
import pytest

from usageflow.billing import documents, parties
from usageflow.billing.parties import Party
from usageflow.billing.typesetting import Sheet
from usageflow.catalog import organization_settings
from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import CreditNoteRow, InvoiceLineRow, InvoiceRow
from usageflow.db.session import Database
from usageflow.db.tables import CustomerRow

ISSUED = datetime(2025, 4, 1, 1, 0, tzinfo=UTC)
FROM = Party(
    name="CloudAI GmbH", address=("Friedrichstr. 1",), note="IBAN DE00", time_zone="Europe/Berlin"
)
TO = Party(name="Acme Corp", address=("1 Main St",), email="billing@acme.com")
PERIOD = {
    "period_start": datetime(2025, 2, 28, 23, tzinfo=UTC),
    "period_end": datetime(2025, 3, 31, 22, tzinfo=UTC),
}


LINES: list[dict[str, Any]] = [
    {"kind": "base", "description": "Base price", "quantity": Decimal(1)}
    | {"unit_price": Decimal(100), "amount": 10_000},
    {"kind": "usage", "description": "API calls", "quantity": Decimal(12_000)}
    | {"metric": "API_CALL", "unit": "calls", "amount": 2_000}
    | {"steps": '[{"text":"2,000 x 0.01 = 20","quantity":"2000"}]'},
]


def invoice(**changes: Any) -> InvoiceRow:
    """An issued invoice of 120."""
    row: dict[str, Any] = {
        "id": "inv_1",
        "organization_id": "o",
        "customer_id": "customer",
        "kind": "period",
        "state": "OPEN",
        "collect": "local",
        "payment_method": "manual",
        "number": "INV-2025-0001",
        "currency": "USD",
        **PERIOD,
        "subtotal": 12_000,
        "total": 12_000,
        "memo": "",
        "bill_from": parties.frozen(FROM),
        "bill_to": parties.frozen(TO),
        "issued_at": ISSUED,
        "due_at": datetime(2025, 4, 15, tzinfo=UTC),
        "created_at": ISSUED,
        "updated_at": ISSUED,
    }
    return InvoiceRow(**row | changes)


def line(position: int, **values: Any) -> InvoiceLineRow:
    """One line of it."""
    row: dict[str, Any] = {"organization_id": "o", "invoice_id": "inv_1", "steps": "[]", "unit": ""}
    return InvoiceLineRow(**row | {"position": position} | PERIOD | values)


def sheet_of(*lines: dict[str, Any], **changes: Any) -> Sheet:
    """What stands on an invoice."""
    rows = [line(position, **values) for position, values in enumerate(lines or LINES)]
    return documents.composed(invoice(**changes), rows, FROM, TO)


@pytest.fixture
def organization_id(database: Database) -> str:
    """An organization with a customer, an issued invoice and a credit note."""
    with database.transaction() as tx:
        ours: dict[str, Any] = {"organization_id": default_organization(tx)}
        tx.session.add(CustomerRow(id="customer", external_id="acme", created_at=tx.now, **ours))
        row = invoice(**ours, state="DRAFT")
        tx.session.flush()
        tx.session.add(row)
        tx.session.flush()
        tx.session.add_all(line(number, **values, **ours) for number, values in enumerate(LINES))
        tx.session.flush()
        row.state = "OPEN"
        tx.session.add(credit_note(**ours))
    return str(ours["organization_id"])


def credit_note(**changes: Any) -> CreditNoteRow:
    """Of 20."""
    row: dict[str, Any] = {
        "id": "cn_1",
        "organization_id": "o",
        "invoice_id": "inv_1",
        "number": "CN-2025-0001",
        "currency": "USD",
        "amount": 2_000,
        "reason": "agreed",
        "lines": '[{"description":"agreed","amount":2000}]',
        "created_by": "ann",
        "created_at": ISSUED,
    }
    return CreditNoteRow(**row | changes)


def totals(sheet: Sheet) -> list[tuple[str, str]]:
    """The sum, line by line."""
    return [(line.label, line.value) for line in sheet.totals]


def test_an_invoice_has_everything_that_an_invoice_needs(
    database: Database, organization_id: str
) -> None:
    """Issuer, customer, number, days of the issuer's zone, period, lines, sum."""
    with database.reading() as tx:
        made = documents.invoice_pdf(tx, organization_id, "inv_1")
        again = documents.invoice_pdf(tx, organization_id, "inv_1")
    assert not isinstance(made, Refused)
    name, document = made
    assert made == again
    assert name == "INV-2025-0001.pdf"
    (page,) = pypdf.PdfReader(io.BytesIO(document)).pages
    text = page.extract_text()
    for expected in (
        *("CloudAI GmbH", "Friedrichstr. 1", "Acme Corp", "1 Main St", "billing@acme.com"),
        *("INV-2025-0001", "1 April 2025", "15 April 2025", "31 March 2025", "IBAN DE00"),
        *("Base price", "100.00", "12,000 calls", "2,000 x 0.01 = 20", "20.00"),
        *("USD 120.00", "Amount due", "Europe/Berlin", "Page 1 of 1"),
    ):
        assert expected in text


def test_the_sum_tells_tax_payments_and_credits() -> None:
    """From the subtotal to what is still due."""
    sheet = sheet_of(
        subtotal=170_000,
        tax_percent=Decimal("18.00"),
        tax=30_600,
        total=200_600,
        amount_paid=50_000,
        amount_credited=600,
    )
    assert totals(sheet) == [
        ("Subtotal", "1,700.00"),
        ("Tax (18 %)", "306.00"),
        ("Total", "USD 2,006.00"),
        ("Credited", "-6.00"),
        ("Paid", "-500.00"),
        ("Amount due", "USD 1,500.00"),
    ]


@pytest.mark.parametrize(
    ("changes", "stamp", "badge", "due"),
    [
        ({"state": "OPEN"}, None, None, "USD 120.00"),
        (
            {"state": "DRAFT", "number": None, "issued_at": None},
            "Draft",
            "Not issued yet: amounts may change",
            None,
        ),
        (
            {"state": "VOID", "ended_at": ISSUED},
            "Void",
            "Void since 1 April 2025: nothing is owed",
            "USD 0.00",
        ),
        (
            {"state": "PAID", "paid_at": ISSUED, "amount_paid": 12_000},
            None,
            "Paid on 1 April 2025",
            "USD 0.00",
        ),
        ({"state": "UNCOLLECTIBLE", "ended_at": ISSUED}, None, None, "USD 120.00"),
        (
            {"state": "DRAFT", "collect": "stripe_meters"},
            "Draft",
            "Charged through Stripe: this is no request for payment",
            None,
        ),
    ],
    ids=["open", "draft", "void", "paid", "uncollectible", "shadow"],
)
def test_a_state_is_seen_at_once(
    changes: dict[str, Any], stamp: str | None, badge: str | None, due: str | None
) -> None:
    """What is no invoice yet, or no longer one, is stamped; nothing is due on it."""
    sheet = sheet_of(**changes)
    assert (sheet.stamp, sheet.badge) == (stamp, badge)
    assert dict(totals(sheet)).get("Amount due") == due


def test_a_draft_has_no_number_yet() -> None:
    """Its file is called by its id, and it was not issued on any day."""
    sheet = sheet_of(state="DRAFT", number=None, issued_at=None)
    assert documents.file_name(sheet) == "draft-inv_1.pdf"
    assert dict(sheet.facts)["Invoice"] == "draft"
    assert "Issued" not in dict(sheet.facts)


def test_only_a_draft_shows_who_they_are_today(database: Database, organization_id: str) -> None:
    """Whatever they are called later, an issued invoice stays as it was."""
    with database.transaction() as tx:
        before = documents.invoice_sheet(tx, organization_id, "inv_1")
        tx.session.get_one(CustomerRow, "customer").name = "Acme Ltd"
        changes = {"issuer": {"name": "Other"}, "time_zone": "Asia/Tokyo"}
        organization_settings.change(tx, organization_id, changes, actor=Actor("test"))
        assert documents.invoice_sheet(tx, organization_id, "inv_1") == before
        kept = {"bill_to": "{}", "bill_from": "{}", "number": None}
        ours = {"organization_id": organization_id, "id": "inv_2", "state": "DRAFT"}
        tx.session.add(invoice(**kept, **ours, period_start=ISSUED))
        tx.session.flush()
        draft = documents.invoice_sheet(tx, organization_id, "inv_2")
    assert isinstance(draft, Sheet)
    assert (draft.issuer.name, draft.payer.name) == ("Other", "Acme Ltd")
    assert draft.notes[-1].endswith("Asia/Tokyo.")


def test_a_line_tells_its_arithmetic_where_it_is_not_plain() -> None:
    """Steps where no single price says it, what was billed before, and another period."""
    steps = [{"text": f"step {n}"} for n in range(documents.STEPS_SHOWN_MAX + 3)]
    late = {
        "period_start": datetime(2025, 1, 31, 23, tzinfo=UTC),
        "period_end": PERIOD["period_start"],
    }
    lines: list[dict[str, Any]] = [
        {"kind": "usage", "description": "tiers", "amount": 1, "steps": json.dumps(steps)},
        {"kind": "usage", "description": "plain", "amount": 1, "unit_price": Decimal("0.001")}
        | {"steps": '[{"text":"not shown"}]'},
        {"kind": "usage", "description": "again", "amount": 1, "unit_price": Decimal(1)}
        | {"billed_before": 250, "steps": '[{"text":"3 x 1 = 3"}]'},
        {"kind": "late", "description": "late", "amount": 1, **late},
        {"kind": "manual", "description": "by hand", "amount": -500}
        | {"period_start": None, "period_end": None},
    ]
    tiers, plain, again, late_line, manual = sheet_of(*lines).lines
    assert tiers.details == (*(f"step {n}" for n in range(8)), "and 3 more steps")
    assert (plain.details, plain.unit_price) == ((), "0.001")
    assert again.details == ("3 x 1 = 3", "billed before: 2.50")
    assert late_line.details == ("1 \u2013 28 February 2025",)
    assert (manual.details, manual.quantity, manual.amount) == ((), "", "-5.00")


def test_notes_are_at_the_foot() -> None:
    """What the invoice says, where to pay it while it is open, what all invoices say."""
    stay = ("IBAN DE00", "Periods are of the time zone Europe/Berlin.")
    changes = {"memo": "Thank you", "payment_url": "https://pay.example/1"}
    assert sheet_of(**changes).notes == ("Thank you", "Pay online: https://pay.example/1", *stay)


def test_a_manual_invoice_has_no_period() -> None:
    """Nor says it of which zone one would be."""
    sheet = sheet_of(kind="manual", period_start=None, period_end=None, payment_url="https://x")
    assert "Period" not in dict(sheet.facts)
    assert sheet.notes == ("Pay online: https://x", "IBAN DE00")


@pytest.mark.parametrize(
    ("currency", "amount", "price"), [("JPY", "12,000", "0.001"), ("KWD", "12.000", "0.001")]
)
def test_amounts_have_the_digits_of_the_currency(currency: str, amount: str, price: str) -> None:
    """Unit prices all of theirs."""
    one = {"kind": "usage", "description": "x", "amount": 12_000, "unit_price": Decimal("0.0010")}
    sheet = sheet_of(one, currency=currency)
    assert (sheet.lines[0].amount, sheet.lines[0].unit_price) == (amount, price)
    assert sheet.amount_title == f"Amount ({currency})"


def test_a_credit_note_names_its_invoice(database: Database, organization_id: str) -> None:
    """And what is given back, line by line."""
    with database.transaction() as tx:
        lines = '[{"description":"Outage","amount":1500},{"description":"Typo","amount":500}]'
        ours = {"organization_id": organization_id, "id": "cn_2", "number": "CN-2025-0002"}
        tx.session.add(credit_note(**ours, lines=lines))
        tx.session.flush()
        whole = documents.credit_note_sheet(tx, organization_id, "cn_1")
        parts = documents.credit_note_sheet(tx, organization_id, "cn_2")
        made = documents.credit_note_pdf(tx, organization_id, "cn_1")
    assert isinstance(whole, Sheet)
    assert isinstance(parts, Sheet)
    assert [(one.description, one.amount) for one in whole.lines] == [("agreed", "20.00")]
    assert [(one.description, one.amount) for one in parts.lines] == [
        ("Outage", "15.00"),
        ("Typo", "5.00"),
    ]
    assert dict(whole.facts)["For invoice"] == "INV-2025-0001"
    assert totals(whole) == [("Credited", "USD 20.00")]
    assert not isinstance(made, Refused)
    assert made[0] == "CN-2025-0001.pdf"
    assert made[1].startswith(b"%PDF")


def test_what_is_not_ours_is_not_there(database: Database, organization_id: str) -> None:
    """No other organization's document is told of."""
    with database.reading() as tx:
        for made in (
            documents.invoice_pdf(tx, "another", "inv_1"),
            documents.credit_note_pdf(tx, "another", "cn_1"),
            documents.credit_note_pdf(tx, organization_id, "cn_none"),
        ):
            assert isinstance(made, Refused)
            assert made.code == "not_found"
