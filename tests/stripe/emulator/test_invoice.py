"""An invoice by itself: totals, due dates, what search sees."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from usageflow.stripe.emulator.invoice import Invoice, Item, telling
from usageflow.stripe.emulator.replies import Reply
from usageflow.stripe.emulator.state import Account, Customer

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
LAG = timedelta(seconds=60)


def invoice() -> Invoice:
    """A draft."""
    return Invoice("in_1", "cus_1", "usd", {"local_invoice": "inv_1"}, NOW, NOW)


def item(amount: int) -> Item:
    """An item of that amount."""
    return Item("ii_1", 0, "cus_1", amount, "usd", {"start": 0, "end": 0}, {})


def account() -> Account:
    """An account with the customer of the invoice; its search is a minute behind."""
    made = Account("acct_0123456789", False, LAG, [])
    fields = {"name": None, "email": None}
    made.customers["cus_1"] = Customer("cus_1", 0, fields, {}, None, NOW)
    return made


@given(st.lists(st.integers(-(10**17), 10**17)))
def test_totals_are_exact(amounts: list[int]) -> None:
    """Whatever their size; a negative total is a balance, and nothing is due."""
    made = invoice()
    for amount in amounts:
        made.add(item(amount))
    shown = made.shown(account())
    assert shown["total"] == shown["subtotal"] == sum(amounts)
    assert shown["amount_due"] == shown["amount_remaining"] == max(sum(amounts), 0)


def test_search_is_behind_by_its_lag() -> None:
    """A new invoice is found only after the lag; after a change its old self still is."""
    owner, made = account(), invoice()
    assert made.searchable(NOW, LAG) is None
    later = NOW + LAG
    with telling(owner, made, later):
        made.pass_to("finalized", later)
        made.metadata = {}
    old, new = made.searchable(later, LAG), made.searchable(later + LAG, LAG)
    assert old is not None
    assert new is not None
    assert (old[0]["status"], old[1]) == ("draft", {"local_invoice": "inv_1"})
    assert (new[0]["status"], new[1]) == ("open", {})
    assert [event["type"] for event in owner.events_log] == ["invoice.updated"]


def test_days_count_from_the_moment_it_is_final() -> None:
    """A date that was given stays, and the last word of the two counts."""
    made = invoice()
    assert made.agree({"collection_method": "send_invoice", "days_until_due": 1}, NOW) is None
    made.fall_due(NOW + timedelta(days=9))
    assert made.due_date == int((NOW + timedelta(days=10)).timestamp())
    assert made.agree({"due_date": 5}, NOW) is None
    made.fall_due(NOW)
    assert (made.due_date, made.days_until_due) == (5, None)
    assert isinstance(made.agree({"collection_method": "charge_automatically"}, NOW), Reply)
    assert made.collection_method == "send_invoice"
