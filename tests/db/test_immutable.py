"""What billing has fixed, the database itself keeps from being changed."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.exc import IntegrityError

from usageflow.db.billing_tables import (
    CreditNoteRow,
    InvoiceLineRow,
    InvoiceRow,
    PlanRow,
    PlanVersionRow,
)
from usageflow.db.columns import Row, table
from usageflow.db.session import Database, Tx
from usageflow.db.tables import CustomerRow, OrganizationRow

NOW = datetime(2025, 4, 1, tzinfo=UTC)


def rows(state: str) -> list[Row]:
    """A plan, and an invoice in this state with a line and a credit note."""
    ours: dict[str, Any] = {"organization_id": "o"}
    return [
        OrganizationRow(id="o", name="o", created_at=NOW),
        CustomerRow(id="c", external_id="c", created_at=NOW, **ours),
        PlanRow(
            id="p",
            lookup_id="pro",
            name="Pro",
            is_active=True,
            version=1,
            created_at=NOW,
            updated_at=NOW,
            **ours,
        ),
        PlanVersionRow(plan_id="p", version=1, document="{}", created_at=NOW, **ours),
        InvoiceRow(
            id="i",
            customer_id="c",
            kind="manual",
            state="DRAFT",
            collect="local",
            payment_method="manual",
            currency="USD",
            subtotal=12_000,
            total=12_000,
            created_at=NOW,
            updated_at=NOW,
            **ours,
        ),
        InvoiceLineRow(
            invoice_id="i", position=1, kind="manual", description="d", amount=12_000, **ours
        ),
        CreditNoteRow(
            id="n",
            invoice_id="i",
            number="CN-2025-0001",
            currency="USD",
            amount=1,
            reason="r",
            created_by="t",
            created_at=NOW,
            **ours,
        ),
    ]


@pytest.fixture
def filled(database: Database) -> Callable[[str], Database]:
    """`filled("OPEN")`: a database with an invoice in this state."""

    def fill(state: str) -> Database:
        with database.transaction() as tx:
            for row in rows(state):
                tx.session.add(row)
                tx.session.flush()
            if state != "DRAFT":
                _set(tx, InvoiceRow, state=state)
        return database

    return fill


def _set(tx: Tx, row: type[Row], **values: Any) -> None:
    tx.session.execute(update(table(row)).values(**values))


@pytest.mark.parametrize(
    "change",
    [
        lambda tx: _set(tx, InvoiceRow, total=1),
        lambda tx: _set(tx, InvoiceRow, customer_id="other"),
        lambda tx: _set(tx, InvoiceRow, number="INV-1"),
        lambda tx: _set(tx, InvoiceRow, state="DRAFT"),
        lambda tx: tx.session.execute(delete(table(InvoiceRow))),
        lambda tx: _set(tx, InvoiceLineRow, amount=1),
        lambda tx: tx.session.execute(delete(table(InvoiceLineRow))),
        lambda tx: tx.session.add(
            InvoiceLineRow(
                organization_id="o",
                invoice_id="i",
                position=2,
                kind="manual",
                description="d",
                amount=1,
            )
        ),
        lambda tx: _set(tx, PlanVersionRow, document="[]"),
        lambda tx: _set(tx, CreditNoteRow, amount=2),
        lambda tx: tx.session.execute(delete(table(CreditNoteRow))),
    ],
    ids=[
        *("total", "customer", "number", "state", "deleted", "line", "line-deleted", "line-added"),
        *("plan", "credit", "credit-deleted"),
    ],
)
def test_what_is_issued_stays(
    filled: Callable[[str], Database], change: Callable[[Tx], object]
) -> None:
    """Neither an issued invoice, its lines, a plan's version nor a credit note can be changed."""
    database = filled("OPEN")
    with pytest.raises(IntegrityError, match="never change"), database.transaction() as tx:
        change(tx)
        tx.session.flush()


@pytest.mark.parametrize("state", ["PAID", "UNCOLLECTIBLE", "VOID"])
def test_what_happens_to_an_invoice_is_noted(filled: Callable[[str], Database], state: str) -> None:
    """From OPEN on its state and its payment go on changing."""
    database = filled("OPEN")
    with database.transaction() as tx:
        _set(tx, InvoiceRow, state=state, amount_paid=12_000, paid_at=NOW, payment_failures=1)
    with database.reading() as tx:
        assert tx.session.execute(text("SELECT state FROM invoice")).scalar_one() == state


def test_a_draft_can_be_changed(filled: Callable[[str], Database]) -> None:
    """A draft's amounts and lines are still open, and it can be deleted."""
    database = filled("DRAFT")
    with database.transaction() as tx:
        _set(tx, InvoiceRow, total=1)
        _set(tx, InvoiceLineRow, amount=1)
        tx.session.execute(delete(table(InvoiceLineRow)))
