"""Invoice items of the emulator, driven by the official SDK over TCP."""

from typing import Any

import pytest
import stripe as stripe_sdk


@pytest.fixture
def ada(sdk: stripe_sdk.StripeClient) -> str:
    """A customer's id."""
    return sdk.v1.customers.create().id


def item(sdk: stripe_sdk.StripeClient, customer: str, **more: Any) -> stripe_sdk.InvoiceItem:
    """A new item of 5 cents."""
    params: Any = {"customer": customer, "amount": 5, "currency": "usd", **more}
    given: Any = {name: value for name, value in params.items() if value is not None}
    return sdk.v1.invoice_items.create(given)


def test_an_item_waits_and_can_be_changed(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """Amount, description, period and metadata; then it is deleted."""
    made = item(sdk, ada, description="Calls", period={"start": 1, "end": 2}, metadata={"a": "1"})
    assert (made.amount, made.description, made.invoice) == (5, "Calls", None)
    assert made.period.to_dict() == {"start": 1, "end": 2}
    changed = sdk.v1.invoice_items.update(
        made.id, {"amount": 7, "description": "", "discountable": False, "metadata": {"b": "2"}}
    )
    assert (changed.amount, changed.description, changed.discountable) == (7, None, False)
    assert changed.metadata is not None
    assert changed.metadata.to_dict() == {"a": "1", "b": "2"}
    assert sdk.v1.invoice_items.retrieve(made.id).amount == 7
    assert sdk.v1.invoice_items.delete(made.id).deleted
    items: Any = sdk.v1.invoice_items
    for act in (items.retrieve, items.update, items.delete):
        with pytest.raises(stripe_sdk.InvalidRequestError, match="No such invoiceitem"):
            act(made.id)
    events = [event.type for event in sdk.v1.events.list({"type": "invoiceitem.*"}).data]
    assert events == ["invoiceitem.deleted", "invoiceitem.created"]


def test_an_item_of_a_draft_changes_its_total(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """Added, changed and deleted; each is an update of the invoice."""
    invoice = sdk.v1.invoices.create({"customer": ada})
    made = item(sdk, ada, invoice=invoice.id, currency=None)
    sdk.v1.invoice_items.update(made.id, {"amount": 9})
    assert sdk.v1.invoices.retrieve(invoice.id).total == 9
    sdk.v1.invoice_items.delete(made.id)
    assert sdk.v1.invoices.retrieve(invoice.id).total == 0
    updates = sdk.v1.events.list({"type": "invoice.updated"}).data[::-1]
    assert [event.data.object["total"] for event in updates] == [5, 9, 0]


def test_what_is_billed_stays(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """An item of a final invoice is neither changed nor deleted, and none is added."""
    invoice = sdk.v1.invoices.create({"customer": ada})
    made = item(sdk, ada, invoice=invoice.id)
    sdk.v1.invoices.finalize_invoice(invoice.id)
    with pytest.raises(stripe_sdk.InvalidRequestError, match="finalized"):
        sdk.v1.invoice_items.update(made.id, {"amount": 9})
    with pytest.raises(stripe_sdk.InvalidRequestError, match="finalized"):
        sdk.v1.invoice_items.delete(made.id)
    with pytest.raises(stripe_sdk.InvalidRequestError, match="no draft"):
        item(sdk, ada, invoice=invoice.id)


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({"amount": None}, 400, "amount"),
        ({"customer": "cus_unknown"}, 400, "No such customer"),
        ({"currency": "$"}, 400, "Invalid currency"),
        ({"invoice": "in_unknown"}, 404, "No such invoice"),
        ({"period": {"start": 2, "end": 1}}, 400, "period"),
        ({"quantity": 2}, 501, "quantity"),
    ],
)
def test_a_wrong_item_is_refused(
    sdk: stripe_sdk.StripeClient, ada: str, params: dict[str, Any], status: int, message: str
) -> None:
    """A wrong parameter is refused; one that is not emulated is never ignored."""
    customer = params.pop("customer", ada)
    with pytest.raises(stripe_sdk.StripeError, match=message) as caught:
        item(sdk, customer, **params)
    assert caught.value.http_status == status


def test_an_item_fits_its_invoice(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """Same customer, same currency, and sound metadata."""
    invoice = sdk.v1.invoices.create({"customer": ada, "currency": "eur"})
    with pytest.raises(stripe_sdk.InvalidRequestError, match="currency"):
        item(sdk, ada, invoice=invoice.id)
    other = sdk.v1.customers.create().id
    with pytest.raises(stripe_sdk.InvalidRequestError, match="customer"):
        item(sdk, other, invoice=invoice.id, currency="eur")
    made = item(sdk, ada, invoice=invoice.id, currency="eur")
    with pytest.raises(stripe_sdk.InvalidRequestError, match="40 characters"):
        sdk.v1.invoice_items.update(made.id, {"metadata": {"k" * 41: "v"}})


def test_items_are_listed(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """By customer, by invoice, waiting or not, by time."""
    invoice = sdk.v1.invoices.create({"customer": ada})
    waiting, billed = item(sdk, ada), item(sdk, ada, invoice=invoice.id)
    queries: list[tuple[Any, list[str]]] = [
        ({}, [billed.id, waiting.id]),
        ({"customer": ada}, [billed.id, waiting.id]),
        ({"customer": "cus_other"}, []),
        ({"invoice": invoice.id}, [billed.id]),
        ({"pending": True}, [waiting.id]),
        ({"pending": False}, [billed.id]),
        ({"created": {"gt": waiting.date + 60}}, []),
    ]
    for query, expected in queries:
        assert expected == [one.id for one in sdk.v1.invoice_items.list(query).data]
    with pytest.raises(stripe_sdk.APIError, match="`expand`"):
        sdk.v1.invoice_items.list({"expand": ["data.customer"]})
