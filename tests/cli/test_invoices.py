"""`usageflow invoices`: listed, shown, explained, computed again, and what is due closed."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from usageflow.billing import invoices, manual
from usageflow.billing.manual import Draft, Item
from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import default_organization
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.session import Database
from usageflow.db.tables import CustomerRow

Run = Callable[..., Any]

ACTOR = Actor("ann@example.com")


@pytest.fixture
def url(sqlite_template: bytes, tmp_path: Path) -> str:
    """A database in which Acme has an issued invoice and a draft."""
    path = tmp_path / "usageflow.db"
    path.write_bytes(sqlite_template)
    with closing(Database.open(f"sqlite:///{path}")) as db, db.transaction() as tx:
        organization = default_organization(tx)
        tx.session.add(
            CustomerRow(
                id="c1", organization_id=organization, external_id="acme", created_at=tx.now
            )
        )
        tx.session.flush()
        items = [Item("Setup", Decimal(1), Decimal(500)), Item("Help", Decimal(8), Decimal(150))]
        for percent in (18, 0):
            draft = Draft("acme", "USD", items, tax_percent=Decimal(percent))
            made = manual.create(tx, organization, draft, actor=ACTOR)
            assert isinstance(made, InvoiceRow)
            if percent:
                invoices.issue(tx, organization, made.id, actor=ACTOR)
            else:
                made.hold_reason = "look at it"
    return f"sqlite:///{path}"


def number() -> str:
    """The number of the first invoice of this year."""
    return f"INV-{datetime.now(UTC).year}-0001"


def test_invoices_are_listed(run: Run, url: str) -> None:
    """The latest first, one in each line; narrowed by status and customer."""
    listed = run("invoices", "list", "--database", url).out.splitlines()
    assert [line.split()[:2] for line in listed[2:]] == [["-", "HELD"], [number(), "OPEN"]]
    assert "USD 2,006.00" in listed[3]
    options = ("--status", "OPEN", "--customer", "acme", "--database", url)
    assert len(run("invoices", "list", *options).out.splitlines()) == 3
    first = run("invoices", "list", "--limit", "1", "--database", url)
    assert first.out.splitlines()[-1] == "1 more: --limit 2 shows all"
    lower = run("invoices", "list", "--status", "open", "--customer", "acme", "--database", url)
    assert lower.out == run("invoices", "list", *options).out
    assert run("invoices", "list", "--customer", "nobody", "--database", url).status == 1
    unknown = run("invoices", "list", "--status", "HELD", "--database", url)
    assert (unknown.status, unknown.out) == (1, "")
    assert "write DRAFT or OPEN or PAID or UNCOLLECTIBLE or VOID" in unknown.err


def test_an_invoice_is_shown(run: Run, url: str) -> None:
    """Its lines and its sums; why a draft is held."""
    shown = run("invoices", "show", number(), "--database", url).out
    assert "Setup" in shown
    assert shown.endswith("subtotal 1,700.00\ntax 306.00\ntotal 2,006.00\n")
    held = run("invoices", "list", "--status", "DRAFT", "--database", url).out.split()[-1]
    assert "held: look at it\n" in run("invoices", "show", held, "--database", url).out
    assert run("invoices", "show", "inv_none", "--database", url).status == 1


def test_an_invoice_is_explained_and_computed_again(run: Run, url: str) -> None:
    """Every step is there; computing it again gives the same bytes; a draft has no such thing."""
    explained = run("invoices", "explain", number(), "--database", url).out
    assert "8 x 150 = 1,200" in explained
    assert "1,700.00 x 18 / 100, rounded = 306.00" in explained
    again = run("invoices", "recompute", number(), "--database", url)
    assert (again.status, again.out) == (0, "the same, byte for byte\n")
    held = run("invoices", "list", "--status", "DRAFT", "--database", url).out.split()[-1]
    assert run("invoices", "recompute", held, "--database", url).status == 1


def test_a_difference_ends_with_1(run: Run, url: str) -> None:
    """An invoice that was changed behind our back is told of."""
    with closing(Database.open(url)) as db, db.transaction() as tx:
        tx.session.execute(text("DROP TRIGGER invoice_no_update"))
        tx.session.execute(text("UPDATE invoice SET total = total + 1 WHERE number IS NOT NULL"))
    again = run("invoices", "recompute", number(), "--database", url)
    expected = "the total is 2,006.01 on the invoice, and would be 2,006.00\n"
    assert (again.status, again.out) == (1, expected)


def test_what_is_due_is_closed(run: Run, url: str) -> None:
    """As the worker does; nothing is due here."""
    closed = run("invoices", "close", "--database", url)
    assert closed.out == "subscriptions taken up: 0\ndrafts taken up: 0\n"
