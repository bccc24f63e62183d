"""Customers: create, update with metadata merge, retrieve, list, delete and search.

Search sees metadata only after the index lag; the list is immediately consistent. What changes is
told as a snapshot event.
"""

from datetime import datetime
from typing import Any, Final

from usageflow.stripe.emulator import search as searching
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.metadata import merged
from usageflow.stripe.emulator.paging import page
from usageflow.stripe.emulator.replies import Reply, missing, ok
from usageflow.stripe.emulator.snapshots import previous_attributes
from usageflow.stripe.emulator.state import Account, Customer

KEPT_FIELDS: Final = ("name", "email", "description", "phone")
SEARCH_FIELDS: Final = ("name", "email", "phone")


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/customers`."""
    metadata = merged({}, call.params)
    if isinstance(metadata, Reply):
        return metadata
    customer = Customer(
        object_id=account.new_id("cus"),
        created=int(now.timestamp()),
        fields={name: call.params.get(name) for name in KEPT_FIELDS},
        metadata=metadata,
        indexed=None,
        changed_at=now,
    )
    account.customers[customer.object_id] = customer
    shown = _shown(account, customer)
    account.emit("customer.created", shown, now)
    return ok(shown)


def update(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/customers/{customer}`: given metadata keys are set, empty ones deleted."""
    customer = _present(account, call)
    if customer is None:
        return missing("customer", call.path["customer"])
    metadata = merged(customer.metadata, call.params)
    if isinstance(metadata, Reply):
        return metadata
    before = _shown(account, customer)
    customer.indexed = customer.searchable(now, account.search_lag)
    customer.metadata, customer.changed_at = metadata, now
    customer.fields.update(
        {name: call.params[name] or None for name in KEPT_FIELDS if name in call.params}
    )
    shown = _shown(account, customer)
    if changed := previous_attributes(before, shown):
        account.emit("customer.updated", shown, now, changed)
    return ok(shown)


def retrieve(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/customers/{customer}`; a deleted one is shown as deleted."""
    customer = account.customers.get(call.path["customer"])
    if customer is None:
        return missing("customer", call.path["customer"])
    return ok(_tombstone(customer) if customer.deleted else _shown(account, customer))


def delete(account: Account, call: Call, now: datetime) -> Reply:
    """`DELETE /v1/customers/{customer}`."""
    customer = _present(account, call)
    if customer is None:
        return missing("customer", call.path["customer"])
    customer.deleted = True
    account.emit("customer.deleted", _shown(account, customer), now)
    return ok(_tombstone(customer))


def list_all(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/customers`, optionally of one email."""
    email = call.params.get("email")
    shown = [
        _shown(account, customer)
        for customer in reversed(account.customers.values())
        if not customer.deleted and email in (None, customer.fields["email"])
    ]
    return page(shown, call.params, "/v1/customers")


def search(account: Account, call: Call, now: datetime) -> Reply:
    """`GET /v1/customers/search`."""
    query = searching.parsed(call.params["query"], SEARCH_FIELDS)
    if isinstance(query, Reply):
        return query
    hits = [
        _shown(account, customer)
        for customer in reversed(account.customers.values())
        if not customer.deleted
        and (indexed := customer.searchable(now, account.search_lag)) is not None
        and query.matches(customer.fields, indexed)
    ]
    return searching.result(hits, call.params, "/v1/customers/search")


def _present(account: Account, call: Call) -> Customer | None:
    customer = account.customers.get(call.path["customer"])
    return None if customer is None or customer.deleted else customer


def _tombstone(customer: Customer) -> dict[str, Any]:
    return {"id": customer.object_id, "object": "customer", "deleted": True}


def _shown(account: Account, customer: Customer) -> dict[str, Any]:
    return {
        "id": customer.object_id,
        "object": "customer",
        "created": customer.created,
        "livemode": account.livemode,
        "metadata": dict(customer.metadata),
        **customer.fields,
    }


HANDLERS: Final = {
    "PostV1Customers": create,
    "GetV1Customers": list_all,
    "GetV1CustomersSearch": search,
    "GetV1CustomersCustomer": retrieve,
    "PostV1CustomersCustomer": update,
    "DeleteV1CustomersCustomer": delete,
}
