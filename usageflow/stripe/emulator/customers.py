"""Customers: create, update with metadata merge, retrieve, list, delete and search.

Search sees metadata only after the index lag and compares without case, as Stripe's token fields
do; the list is immediately consistent. Clauses on `email` and `metadata` are understood.
"""

import re
from datetime import datetime
from typing import Any, Final

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.paging import LIMIT_DEFAULT, limit_refusal, page
from usageflow.stripe.emulator.replies import Reply, invalid, missing, ok
from usageflow.stripe.emulator.state import Account, Customer

METADATA_PAIRS_MAX: Final = 50
METADATA_KEY_CHARS_MAX: Final = 40
METADATA_VALUE_CHARS_MAX: Final = 500
SEARCH_CLAUSES_MAX: Final = 10
KEPT_FIELDS: Final = ("name", "email", "description", "phone")

_TEXT: Final = r'"((?:[^"\\]|\\.)*)"'
_CLAUSE: Final = re.compile(rf"\s*(-?)(?:metadata\[{_TEXT}\]|(email))\s*:\s*(?:{_TEXT}|(null))\s*")
_JOINT: Final = re.compile(r"(AND|OR)\s", re.IGNORECASE)


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/customers`."""
    metadata = _merged({}, call.params.get("metadata") or {})
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
    return ok(_shown(account, customer))


def update(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/customers/{customer}`: given metadata keys are set, empty ones deleted."""
    customer = _present(account, call)
    if customer is None:
        return missing("customer", call.path["customer"])
    given = call.params.get("metadata", {})
    metadata = {} if given == "" else _merged(customer.metadata, given)
    if isinstance(metadata, Reply):
        return metadata
    customer.indexed = customer.searchable(now, account.search_lag)
    customer.metadata, customer.changed_at = metadata, now
    customer.fields.update(
        {name: call.params[name] or None for name in KEPT_FIELDS if name in call.params}
    )
    return ok(_shown(account, customer))


def retrieve(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/customers/{customer}`; a deleted one is shown as deleted."""
    customer = account.customers.get(call.path["customer"])
    if customer is None:
        return missing("customer", call.path["customer"])
    return ok(_tombstone(customer) if customer.deleted else _shown(account, customer))


def delete(account: Account, call: Call, _now: datetime) -> Reply:
    """`DELETE /v1/customers/{customer}`."""
    customer = _present(account, call)
    if customer is None:
        return missing("customer", call.path["customer"])
    customer.deleted = True
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
    refusal = limit_refusal(call.params)
    if refusal is not None:
        return refusal
    query = _parsed(call.params["query"])
    if isinstance(query, Reply):
        return query
    every, clauses = query
    hits = [
        _shown(account, customer)
        for customer in reversed(account.customers.values())
        if not customer.deleted and _matches(account, customer, now, clauses, every=every)
    ]
    start = int(call.params.get("page", "0"))
    end = start + call.params.get("limit", LIMIT_DEFAULT)
    more = len(hits) > end
    return ok(
        {
            "object": "search_result",
            "url": "/v1/customers/search",
            "has_more": more,
            "next_page": str(end) if more else None,
            "data": hits[start:end],
        }
    )


Clause = tuple[bool, str | None, str | None]
"""(negated, metadata key or None for email, wanted text or None for null)."""


def _parsed(text: str) -> tuple[bool, list[Clause]] | Reply:
    """(whether every clause must hold, the clauses), or the refusal of a query we cannot read."""
    clauses: list[Clause] = []
    joints: set[str] = set()
    place, unfinished = 0, True
    while unfinished and (match := _CLAUSE.match(text, place)):
        key = None if match[3] else _unescaped(match[2])
        clauses.append((match[1] == "-", key, None if match[5] else _unescaped(match[4])))
        joint = _JOINT.match(text, match.end())
        unfinished = joint is not None
        joints.update([joint[1].upper()] if joint else [])
        place = joint.end() if joint else match.end()
    if unfinished or place != len(text):
        return invalid(f"We were unable to parse your search query near: {text[place:]!r}")
    if len(joints) > 1 or len(clauses) > SEARCH_CLAUSES_MAX:
        return invalid(f"At most {SEARCH_CLAUSES_MAX} clauses, joined by either AND or OR.")
    return "OR" not in joints, clauses


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _matches(
    account: Account, customer: Customer, now: datetime, clauses: list[Clause], *, every: bool
) -> bool:
    metadata = customer.searchable(now, account.search_lag)
    if metadata is None:
        return False
    found = [
        _holds(customer.fields["email"] if key is None else metadata.get(key), wanted) != negated
        for negated, key, wanted in clauses
    ]
    return all(found) if every else any(found)


def _holds(value: str | None, wanted: str | None) -> bool:
    if value is None or wanted is None:
        return value is None and wanted is None
    return value.casefold() == wanted.casefold()


def _merged(old: dict[str, str], given: dict[str, str]) -> dict[str, str] | Reply:
    """The metadata after a change, or the refusal of one beyond Stripe's limits."""
    merged = {key: value for key, value in {**old, **given}.items() if value != ""}
    for key, value in merged.items():
        name = f"metadata[{key}]"
        if len(key) > METADATA_KEY_CHARS_MAX:
            return invalid(
                f"Metadata keys can have up to {METADATA_KEY_CHARS_MAX} characters.", param=name
            )
        if len(value) > METADATA_VALUE_CHARS_MAX:
            return invalid(
                f"Metadata values can have up to {METADATA_VALUE_CHARS_MAX} characters.", param=name
            )
    if len(merged) > METADATA_PAIRS_MAX:
        return invalid(f"Metadata can have up to {METADATA_PAIRS_MAX} keys.", param="metadata")
    return merged


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
