"""Invoices of the emulator, driven by the official SDK over TCP."""

import json
from importlib import resources
from typing import Any

import pytest
import stripe as stripe_sdk
from jsonschema import Draft202012Validator

from usageflow.stripe.emulator.remote import RemoteEmulator


@pytest.fixture
def ada(sdk: stripe_sdk.StripeClient) -> str:
    """A customer's id."""
    return sdk.v1.customers.create({"name": "Ada", "email": "ada@example.org"}).id


def draft(sdk: stripe_sdk.StripeClient, customer: str, **more: Any) -> stripe_sdk.Invoice:
    """A draft that is to be sent."""
    params: Any = {"collection_method": "send_invoice", "days_until_due": 14, **more}
    params["customer"] = customer
    return sdk.v1.invoices.create(params)


def bill(
    sdk: stripe_sdk.StripeClient, customer: str, *amounts: int, **more: Any
) -> stripe_sdk.Invoice:
    """A draft with items of these amounts."""
    invoice = draft(sdk, customer, **more)
    for amount in amounts:
        sdk.v1.invoice_items.create(
            {"customer": customer, "invoice": invoice.id, "amount": amount, "currency": "usd"}
        )
    return invoice


def kinds(sdk: stripe_sdk.StripeClient) -> list[str]:
    """What has happened to invoices, oldest first, but for updates and items."""
    events = sdk.v1.events.list({"type": "invoice.*", "limit": 100}).data[::-1]
    return [event.type[8:] for event in events if event.type != "invoice.updated"]


def amounts(invoice: stripe_sdk.Invoice) -> tuple[int, ...]:
    """Total, due, paid and remaining."""
    return invoice.total, invoice.amount_due, invoice.amount_paid, invoice.amount_remaining


def test_an_invoice_is_sent_and_paid_out_of_band(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """Draft, open, paid; totals are exact; every step is an event."""
    made = bill(sdk, ada, 12_000, -333, metadata={"local_invoice": "inv_1"})
    assert (made.status, made.number, made.hosted_invoice_url) == ("draft", None, None)
    final = sdk.v1.invoices.finalize_invoice(made.id)
    assert (final.status, amounts(final)) == ("open", (11_667, 11_667, 0, 11_667))
    assert final.number == "EMULATED-0001"
    assert final.due_date == final.created + 14 * 86_400
    assert final.next_payment_attempt is None
    assert sdk.v1.invoices.send_invoice(made.id).status == "open"
    paid = sdk.v1.invoices.pay(made.id, {"paid_out_of_band": True})
    assert (paid.status, amounts(paid)) == ("paid", (11_667, 11_667, 11_667, 0))
    assert paid.status_transitions.paid_at is not None
    assert kinds(sdk) == ["created", "finalized", "sent", "paid"]


def test_an_invoice_keeps_stripes_schema(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """Draft and final, with lines, as the published description has it."""
    text = resources.files("usageflow.stripe.emulator").joinpath("openapi-slice.json").read_text()
    schemas = json.loads(text)["components"]["schemas"]
    schema = {"components": {"schemas": schemas}, **schemas["invoice"]}
    made = bill(sdk, ada, 5)
    for shown in (made, sdk.v1.invoices.finalize_invoice(made.id)):
        found = Draft202012Validator(schema).iter_errors(shown.to_dict())
        # The description says `nullable` where JSON Schema has no such word.
        assert [problem.message for problem in found if problem.instance is not None] == []


def test_a_declined_payment_leaves_the_invoice_open(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, ada: str
) -> None:
    """Each attempt is counted; one that collects by itself says when it is tried again."""
    automatic = {"collection_method": "charge_automatically", "days_until_due": None}
    made = bill(sdk, ada, 100, auto_advance=True, **automatic)
    emulator.decline_payments(4)
    for attempt in range(1, 5):
        with pytest.raises(stripe_sdk.CardError, match="declined") as caught:
            sdk.v1.invoices.pay(made.id)
        assert caught.value.code == "card_declined"
        tried = sdk.v1.invoices.retrieve(made.id)
        assert (tried.status, tried.attempt_count) == ("open", attempt)
        assert (tried.next_payment_attempt is None) == (attempt == 4)
    paid = sdk.v1.invoices.pay(made.id)
    assert (paid.status, paid.attempt_count, paid.next_payment_attempt) == ("paid", 5, None)
    assert kinds(sdk) == [
        "created",
        "finalized",
        *["payment_failed"] * 4,
        "paid",
        "payment_succeeded",
    ]


def test_a_sent_invoice_is_never_tried_by_itself(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, ada: str
) -> None:
    """Its next payment attempt is null even after a failure; sending made it final."""
    made = bill(sdk, ada, 100, auto_advance=True)
    assert sdk.v1.invoices.send_invoice(made.id).status == "open"
    emulator.decline_payments()
    with pytest.raises(stripe_sdk.CardError):
        sdk.v1.invoices.pay(made.id)
    assert sdk.v1.invoices.retrieve(made.id).next_payment_attempt is None
    assert kinds(sdk) == ["created", "finalized", "sent", "payment_failed"]


@pytest.mark.parametrize(("amount", "balance"), [(0, 0), (-50, -50)])
def test_nothing_due_is_paid_at_once(
    sdk: stripe_sdk.StripeClient, ada: str, amount: int, balance: int
) -> None:
    """By finalizing, and by paying a draft."""
    for act in (sdk.v1.invoices.finalize_invoice, sdk.v1.invoices.pay):
        made = bill(sdk, ada, amount)
        paid = act(made.id)
        assert (paid.status, amounts(paid), paid.ending_balance) == (
            "paid",
            (amount, 0, 0, 0),
            balance,
        )
    assert kinds(sdk) == ["created", "finalized", "paid", "payment_succeeded"] * 2


def test_states_follow_stripes_table(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """What cannot happen in a status is refused, and changes nothing."""
    invoices = sdk.v1.invoices
    acts: dict[str, Any] = {
        "finalize": invoices.finalize_invoice,
        "send": invoices.send_invoice,
        "void": invoices.void_invoice,
        "write off": invoices.mark_uncollectible,
        "pay": invoices.pay,
        "delete": invoices.delete,
    }
    allowed = {
        "draft": {"finalize", "send", "pay", "delete"},
        "open": {"send", "void", "write off", "pay"},
        "uncollectible": {"void", "pay"},
        "void": set(),
        "paid": set(),
    }
    reached: dict[str, Any] = {
        "draft": [],
        "open": ["finalize"],
        "uncollectible": ["finalize", "write off"],
        "void": ["finalize", "void"],
        "paid": ["pay"],
    }
    for status, steps in reached.items():
        for name, act in acts.items():
            made = bill(sdk, ada, 7)
            for step in steps:
                acts[step](made.id)
            assert invoices.retrieve(made.id).status == status
            if name in allowed[status]:
                act(made.id)
                continue
            before = len(sdk.v1.events.list({"limit": 100}).data), invoices.retrieve(made.id)
            with pytest.raises(stripe_sdk.InvalidRequestError) as caught:
                act(made.id)
            assert caught.value.http_status == 400
            after = len(sdk.v1.events.list({"limit": 100}).data), invoices.retrieve(made.id)
            assert before[0] == after[0]
            assert before[1].to_dict() == after[1].to_dict()


def test_only_some_things_change_when_it_is_final(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """Texts and terms of a draft; afterwards metadata alone, and the due date stays."""
    made = draft(sdk, ada, footer="Thanks")
    changed = sdk.v1.invoices.update(
        made.id, {"description": "October", "footer": "", "due_date": 1_900_000_000}
    )
    assert (changed.description, changed.footer, changed.due_date) == (
        "October",
        None,
        1_900_000_000,
    )
    sdk.v1.invoices.update(made.id, {"days_until_due": 3})
    final = sdk.v1.invoices.finalize_invoice(made.id)
    updated = sdk.v1.invoices.update(made.id, {"metadata": {"a": "1"}})
    assert updated.due_date == final.due_date
    assert updated.metadata is not None
    assert updated.metadata.to_dict() == {"a": "1"}
    with pytest.raises(stripe_sdk.InvalidRequestError, match="Finalized invoices"):
        sdk.v1.invoices.update(made.id, {"description": "November"})
    with pytest.raises(stripe_sdk.InvalidRequestError, match="40 characters"):
        sdk.v1.invoices.update(made.id, {"metadata": {"k" * 41: "v"}})


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({}, 400, "customer"),
        ({"customer": "cus_unknown"}, 400, "No such customer"),
        ({"currency": "dollars"}, 400, "Invalid currency"),
        ({"metadata": {"k" * 41: "v"}}, 400, "40 characters"),
        ({"collection_method": "send_invoice"}, 400, "days_until_due"),
        ({"days_until_due": 3}, 400, "is sent"),
        ({"discounts": [{"coupon": "x"}]}, 501, "discounts"),
        ({"expand": ["payments"]}, 501, "expand"),
    ],
)
def test_what_cannot_be_billed_is_refused(
    sdk: stripe_sdk.StripeClient, ada: str, params: Any, status: int, message: str
) -> None:
    """A wrong parameter is a 400; one that is not emulated is never ignored."""
    given: Any = {"customer": ada, **params} if params else {}
    with pytest.raises(stripe_sdk.StripeError, match=message) as caught:
        sdk.v1.invoices.create(given)
    assert caught.value.http_status == status


def test_not_emulated_parameters_are_refused_everywhere(
    sdk: stripe_sdk.StripeClient, ada: str
) -> None:
    """Also by every other operation."""
    made, invoices = draft(sdk, ada), sdk.v1.invoices
    expand: Any = {"expand": ["customer"]}
    acts: list[Any] = [
        invoices.update,
        invoices.finalize_invoice,
        invoices.send_invoice,
        invoices.pay,
        invoices.void_invoice,
        invoices.mark_uncollectible,
    ]
    for act in acts:
        with pytest.raises(stripe_sdk.APIError, match="`expand`"):
            act(made.id, expand)
    with pytest.raises(stripe_sdk.APIError, match="`subscription`"):
        invoices.list({"subscription": "sub_1"})
    with pytest.raises(stripe_sdk.InvalidRequestError, match="is sent"):
        invoices.update(made.id, {"collection_method": "charge_automatically"})


def test_only_what_is_to_be_sent_is_sent(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """One that collects by itself is not."""
    made = sdk.v1.invoices.create({"customer": ada})
    with pytest.raises(stripe_sdk.InvalidRequestError, match="send_invoice"):
        sdk.v1.invoices.send_invoice(made.id)


def test_waiting_items_are_included_on_request(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """Those of the customer and the currency, once."""
    for currency in ("usd", "eur"):
        sdk.v1.invoice_items.create({"customer": ada, "amount": 5, "currency": currency})
    assert draft(sdk, ada).total == 0
    first = draft(sdk, ada, pending_invoice_items_behavior="include")
    assert (first.total, first.lines.data[0].amount) == (5, 5)
    assert draft(sdk, ada, pending_invoice_items_behavior="include").total == 0
    assert draft(sdk, ada, currency="EUR", pending_invoice_items_behavior="include").total == 5


def test_invoices_are_listed_and_found(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """By customer, status, way to collect, time and metadata."""
    first = bill(sdk, ada, 1, metadata={"local_invoice": "inv_1"})
    other = sdk.v1.customers.create().id
    second = sdk.v1.invoices.create({"customer": other})
    sdk.v1.invoices.finalize_invoice(first.id)
    queries: list[tuple[Any, list[str]]] = [
        ({}, [second.id, first.id]),
        ({"customer": ada}, [first.id]),
        ({"status": "draft"}, [second.id]),
        ({"collection_method": "send_invoice"}, [first.id]),
        ({"created": {"gt": first.created + 60}}, []),
        ({"due_date": {"gt": first.created}}, [first.id]),
    ]
    for query, expected in queries:
        assert expected == [one.id for one in sdk.v1.invoices.list(query).data]
    for query in (
        'metadata["local_invoice"]:"inv_1"',
        'number:"emulated-0001"',
        f'customer:"{ada}"',
    ):
        assert [first.id] == [one.id for one in sdk.v1.invoices.search({"query": query}).data]
    with pytest.raises(stripe_sdk.InvalidRequestError, match="unsupported search field"):
        sdk.v1.invoices.search({"query": 'footer:"x"'})


def test_a_deleted_draft_is_gone_with_its_items(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """And only a draft can be deleted."""
    made = bill(sdk, ada, 5)
    assert sdk.v1.invoices.delete(made.id).deleted
    assert sdk.v1.invoice_items.list().data == []
    invoices: Any = sdk.v1.invoices
    for act in (invoices.retrieve, invoices.update, invoices.delete, invoices.pay):
        with pytest.raises(stripe_sdk.InvalidRequestError, match="No such invoice"):
            act(made.id)
    assert kinds(sdk) == ["created", "deleted"]


def test_ten_lines_are_shown(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """Of more the items can be listed."""
    made = bill(sdk, ada, *range(11))
    lines = sdk.v1.invoices.retrieve(made.id).lines
    assert (len(lines.data), lines.has_more) == (10, True)
    assert len(sdk.v1.invoice_items.list({"invoice": made.id, "limit": 100}).data) == 11


def test_an_idempotency_key_makes_one_invoice(sdk: stripe_sdk.StripeClient, ada: str) -> None:
    """As everywhere in v1, a declined payment included."""
    options: Any = {"idempotency_key": "inv_1"}
    first, second = (sdk.v1.invoices.create({"customer": ada}, options) for _ in range(2))
    assert first.id == second.id
    assert len(sdk.v1.invoices.list().data) == 1
