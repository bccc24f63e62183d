"""Invoices that a person writes: what is refused; the rest is in the tests of their addresses."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from usageflow.billing import invoices, manual
from usageflow.billing.manual import ITEMS_MAX, Draft, Item
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceRow

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_ITEM = Item("Help", Decimal(1), Decimal(100))


def draft(items: Sequence[Item] = (_ITEM,), **values: Any) -> Draft:
    """An invoice of acme's."""
    given: dict[str, Any] = {"customer": "acme", "currency": "USD", "items": items}
    return Draft(**given | values)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (draft(customer="nobody"), "customer_id"),
        (draft(currency="usd"), "currency"),
        (draft([]), "line_items"),
        (draft([_ITEM] * (ITEMS_MAX + 1)), "line_items"),
        (draft([Item("x", Decimal(-1), Decimal(1))]), "line_items[0].quantity"),
        (draft([_ITEM, Item("x", Decimal(1), Decimal(-1))]), "line_items[1].unit_amount"),
        (draft([Item("x", Decimal(10**12), Decimal(10**11))]), "line_items"),
        (draft(tax_percent=Decimal("100.1")), "tax_percent"),
    ],
    ids=lambda value: value if isinstance(value, str) else "draft",
)
def test_what_cannot_be_an_invoice_is_refused(till: "Books", wrong: Draft, field: str) -> None:
    """With the field that is wrong; nothing is kept, neither of a new one nor of a draft."""
    till.customer()
    with till.database.transaction() as tx:
        made = manual.create(tx, till.organization_id, draft(), actor=till.actor)
        assert isinstance(made, InvoiceRow)
        refused = manual.create(tx, till.organization_id, wrong, actor=till.actor)
        unchanged = manual.change(tx, till.organization_id, made.id, wrong, actor=till.actor)
        assert isinstance(refused, Refused)
        assert isinstance(unchanged, Refused)
        assert (refused.field, unchanged.field) == (field, field)
    assert [one.total for one in till.invoices()] == [10_000]


def test_the_draft_of_a_subscription_is_not_written_by_hand(till: "Books") -> None:
    """It is computed; nor is one that is not there."""
    till.start(base_price=Decimal(10))
    till.work(datetime(2026, 4, 1, tzinfo=UTC))
    (computed,) = till.invoices()
    with till.database.transaction() as tx:
        for name, code in ((computed.id, "conflict"), ("inv_none", "not_found")):
            changed = manual.change(tx, till.organization_id, name, draft(), actor=till.actor)
            deleted = manual.delete(tx, till.organization_id, name, actor=till.actor)
            assert isinstance(changed, Refused)
            assert deleted is not None
            assert (changed.code, deleted.code) == (code, code)


def test_a_draft_keeps_its_own_tax_and_day(till: "Books") -> None:
    """What a person wrote is not computed anew when it is issued."""
    till.customer(tax_percent=Decimal(7))
    due = datetime(2026, 12, 24, tzinfo=UTC)
    with till.database.transaction() as tx:
        for percent in (Decimal(0), None):
            manual.create(
                tx,
                till.organization_id,
                draft(tax_percent=percent, due_at=due, memo="Merry"),
                actor=till.actor,
            )
    with till.database.transaction() as tx:
        for one in till.invoices():
            invoices.issue(tx, till.organization_id, one.id, actor=till.actor)
    assert [one.total for one in till.invoices()] == [10_000, 10_700]
    assert {one.due_at for one in till.invoices()} == {due}
