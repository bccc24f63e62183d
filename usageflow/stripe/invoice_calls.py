"""What UsageFlow asks of Stripe's invoices, in UsageFlow's words; reached through `client`.

Nothing is made twice, whoever is interrupted and however many do it: what is there is looked for
first, and each call that makes something has an idempotency key derived from our invoice. As Stripe
keeps a 500 under its key for a day, a replayed one ends that key, for all who use it: then what is
there is looked for again, and the next key is taken. What is made, and when, is `invoices`'s.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from usageflow.errors import DeliveryError

OURS: Final = "usageflow_invoice_id"
"""The metadata field of a Stripe invoice that names our invoice."""
ITEM: Final = "usageflow_item"
"""The metadata field of its items that tells them apart."""
DESCRIPTION_CHARS_MAX: Final = 500
"""Of an item; what is longer is cut, the PDF has all of it."""
PAGE_MAX: Final = 100
"""Objects in one page of a list, Stripe's limit."""
KEYS_MAX: Final = 5
"""Keys tried for one thing; Stripe failed as often, each time in another way of its own."""
_REJECTED: Final = (400, 402, 404)
_THEIR_FAULT: Final = 500
_REPLAYED: Final = "idempotent-replayed"
"""A header of Stripe's: this is the answer that an earlier call got."""


class Item(NamedTuple):
    """An amount of an invoice, in minor units; `name` tells it from the invoice's others."""

    name: str
    description: str
    amount: int
    period: tuple[datetime, datetime] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An invoice as Stripe is asked for it: sent to be paid within `days_until_due`."""

    invoice_id: str
    """Ours."""
    customer: str
    """Stripe's."""
    currency: str
    description: str
    days_until_due: int
    items: tuple[Item, ...]


class StripeInvoice(NamedTuple):
    """An invoice as Stripe has it; `url` is where its customer can pay it, once it is open."""

    stripe_id: str
    status: str
    total: int
    url: str | None


def rejected(error: DeliveryError) -> bool:
    """Whether Stripe understood and refused the request itself: asking again will not help."""
    return getattr(error.__cause__, "http_status", None) in _REJECTED


class InvoiceCalls:
    """The calls. `v1` is the SDK's, `explained` turns what it raises into DeliveryError."""

    def __init__(self, v1: Any, explained: Callable[[], AbstractContextManager[None]]) -> None:
        self._invoices, self._items = v1.invoices, v1.invoice_items
        self._explained = explained

    def get(self, stripe_id: str) -> StripeInvoice:
        """An invoice as it is now."""
        with self._explained():
            return _invoice(self._invoices.retrieve(stripe_id))

    def draft(self, wish: Wish, since: datetime) -> StripeInvoice:
        """The invoice of the wish, if it was made `since`, in whichever status; else a new draft.

        Without items: neither those of the wish, nor what waits for the customer.
        """
        params = {
            "customer": wish.customer,
            "currency": wish.currency.lower(),
            "collection_method": "send_invoice",
            "days_until_due": wish.days_until_due,
            "auto_advance": False,
            "pending_invoice_items_behavior": "exclude",
            "description": wish.description,
            "metadata": {OURS: wish.invoice_id},
        }
        for number in range(1, KEYS_MAX + 1):
            with self._explained(), _next_key(number):
                found = self._found(wish, since)
                if found is None:
                    found = self._invoices.create(params, _key(wish, "create", number))
                return _invoice(found)
        raise AssertionError("the last key ends in an answer or an error")

    def match_items(self, stripe_id: str, wish: Wish) -> None:
        """Give the draft the items of the wish, and no others, be it half done already."""
        wanted = {item.name for item in wish.items}
        for number in range(1, KEYS_MAX + 1):
            with self._explained(), _next_key(number):
                listed = self._items.list({"invoice": stripe_id, "limit": PAGE_MAX})
                there = {_metadata(one).get(ITEM): one.id for one in listed.auto_paging_iter()}
                for name in there.keys() - wanted:
                    self._items.delete(there[name])
                for item in wish.items:
                    if item.name not in there:
                        key = _key(wish, f"item-{item.name}", number)
                        self._items.create(_item(stripe_id, wish, item), key)
                return

    def finalize(self, stripe_id: str) -> StripeInvoice:
        """Open, and to be paid from now on; Stripe refuses to do that twice."""
        with self._explained():
            return _invoice(self._invoices.finalize_invoice(stripe_id))

    def void(self, stripe_id: str) -> None:
        """Nobody pays it any more."""
        with self._explained():
            self._invoices.void_invoice(stripe_id)

    def paid_elsewhere(self, stripe_id: str) -> None:
        """It was paid in another way."""
        with self._explained():
            self._invoices.pay(stripe_id, {"paid_out_of_band": True})

    def _found(self, wish: Wish, since: datetime) -> Any:
        """Immediately consistent, as a search would not be."""
        made = {"gte": int(since.timestamp())}
        listed = self._invoices.list(
            {"customer": wish.customer, "created": made, "limit": PAGE_MAX}
        )
        for one in listed.auto_paging_iter():
            if _metadata(one).get(OURS) == wish.invoice_id:
                return one
        return None


def _item(stripe_id: str, wish: Wish, item: Item) -> dict[str, Any]:
    params: dict[str, Any] = {
        "customer": wish.customer,
        "invoice": stripe_id,
        "amount": item.amount,
        "currency": wish.currency.lower(),
        "description": item.description[:DESCRIPTION_CHARS_MAX],
        "metadata": {ITEM: item.name},
    }
    if item.period is not None:
        start, end = (int(moment.timestamp()) for moment in item.period)
        params["period"] = {"start": start, "end": end}
    return params


def _key(wish: Wish, what: str, number: int) -> dict[str, str]:
    return {"idempotency_key": f"usageflow-{wish.invoice_id}-{what}-{number}"}


@contextmanager
def _next_key(number: int) -> Iterator[None]:
    """Go on with the next key, unless this was the last, if this one ended in a kept failure."""
    try:
        yield
    except Exception as error:
        headers = getattr(error, "headers", None) or {}
        names = {name.lower() for name in headers}
        kept = _REPLAYED in names and getattr(error, "http_status", 0) >= _THEIR_FAULT
        if number == KEYS_MAX or not kept:
            raise


def _metadata(found: Any) -> Mapping[str, str]:
    return {} if found.metadata is None else found.metadata.to_dict()


def _invoice(found: Any) -> StripeInvoice:
    return StripeInvoice(
        str(found.id),
        str(found.status),
        int(found.total),
        getattr(found, "hosted_invoice_url", None),
    )
