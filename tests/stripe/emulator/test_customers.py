"""Customers of the emulator, driven by the official SDK over TCP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator import customers
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.state import Account

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)


def account(lag_s: float = 0.0) -> Account:
    """An empty store."""
    return Account("acct_0123456789", False, timedelta(seconds=lag_s), [])


def create(store: Account, now: datetime = NOW, **metadata: str) -> str:
    """The id of a new customer."""
    reply = customers.create(store, Call("x", "x", {}, {"metadata": metadata}), now)
    customer_id: str = reply.body["id"]
    return customer_id


def found(store: Account, query: str, now: datetime = NOW, **params: Any) -> list[str]:
    """The ids a search finds, or its message."""
    reply = customers.search(store, Call("x", "x", {}, {"query": query, **params}), now)
    if reply.status != 200:
        return [reply.body["error"]["message"]]
    return [item["id"] for item in reply.body["data"]]


def test_metadata_is_merged(sdk: stripe_sdk.StripeClient) -> None:
    """Given keys are set, empty ones deleted, others kept; an empty metadata clears all."""
    made = sdk.v1.customers.create({"metadata": {"a": "1", "b": "2"}, "name": "Ada"})
    changed = sdk.v1.customers.update(made.id, {"metadata": {"b": "", "c": "3"}, "name": ""})
    assert changed.metadata is not None
    assert changed.metadata.to_dict() == {"a": "1", "c": "3"}
    assert changed.name is None
    cleared = sdk.v1.customers.update(made.id, {"metadata": ""})
    assert cleared.metadata is not None
    assert cleared.metadata.to_dict() == {}


def test_a_deleted_customer_is_a_tombstone(sdk: stripe_sdk.StripeClient) -> None:
    """Deleting hides a customer from lists, refuses changes and leaves `deleted: true` behind."""
    made = sdk.v1.customers.create({"email": "a@example.org"})
    assert sdk.v1.customers.delete(made.id).deleted
    assert sdk.v1.customers.retrieve(made.id).deleted
    assert sdk.v1.customers.list().data == []
    for act in (sdk.v1.customers.update, sdk.v1.customers.delete):
        with pytest.raises(stripe_sdk.InvalidRequestError, match="No such customer") as caught:
            act(made.id)
        assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    with pytest.raises(stripe_sdk.InvalidRequestError, match="No such customer"):
        sdk.v1.customers.retrieve("cus_unknown")


def test_lists_are_paged_newest_first(sdk: stripe_sdk.StripeClient) -> None:
    """Following the pages forward or backward gives every customer once."""
    made = [sdk.v1.customers.create({"metadata": {"n": str(n)}}).id for n in range(7)]
    forward = sdk.v1.customers.list({"limit": 3})
    assert made[::-1][:3] == [item.id for item in forward.data]
    assert made[::-1] == [item.id for item in forward.auto_paging_iter()]
    backward = sdk.v1.customers.list({"limit": 3, "ending_before": made[0]})
    assert made[1:] == [item.id for item in backward.auto_paging_iter()]
    assert made[1:4] == [item.id for item in reversed(backward.data)]


def test_lists_can_be_narrowed_to_an_email(sdk: stripe_sdk.StripeClient) -> None:
    """`email` is compared exactly."""
    sdk.v1.customers.create({"email": "a@example.org"})
    wanted = sdk.v1.customers.create({"email": "b@example.org"})
    assert [wanted.id] == [
        item.id for item in sdk.v1.customers.list({"email": "b@example.org"}).data
    ]


@pytest.mark.parametrize("limit", [0, 101])
def test_a_page_has_between_1_and_100_objects(sdk: stripe_sdk.StripeClient, limit: int) -> None:
    """A limit beyond Stripe's is refused by lists and by search."""
    with pytest.raises(stripe_sdk.InvalidRequestError, match="between 1 and 100"):
        sdk.v1.customers.list({"limit": limit})
    with pytest.raises(stripe_sdk.InvalidRequestError, match="between 1 and 100"):
        sdk.v1.customers.search({"query": 'metadata["a"]:"b"', "limit": limit})


def test_an_unknown_place_in_a_list_is_refused(sdk: stripe_sdk.StripeClient) -> None:
    """`starting_after` must name an object of the list."""
    with pytest.raises(stripe_sdk.InvalidRequestError) as caught:
        sdk.v1.customers.list({"starting_after": "cus_unknown"})
    assert (caught.value.param, caught.value.code) == ("starting_after", "resource_missing")


def test_search_is_paged(sdk: stripe_sdk.StripeClient) -> None:
    """Following `next_page` gives every hit once."""
    made = {sdk.v1.customers.create({"metadata": {"plan": "gold"}}).id for _ in range(5)}
    result = sdk.v1.customers.search({"query": 'metadata["plan"]:"gold"', "limit": 2})
    assert len(result.data) == 2
    assert made == {item.id for item in result.auto_paging_iter()}


def test_search_compares_whole_values_without_case() -> None:
    """A token field matches the whole value whatever its case: more than an exact comparison."""
    store = account()
    upper, lower = create(store, id="ACCT_1"), create(store, id="acct_1")
    create(store, id="acct_10")
    assert [lower, upper] == found(store, 'metadata["id"]:"acct_1"')
    assert found(store, 'metadata["id"]:"acct"') == []


def test_search_understands_its_language() -> None:
    """Escapes, negation, null, AND and OR mean what Stripe's documentation says."""
    store = account()
    odd = create(store, id='a"b\\c')
    two = create(store, id="2", plan="gold")
    three = create(store, id="3", plan="gold")
    assert [odd] == found(store, 'metadata["id"]:"a\\"b\\\\c"')
    assert [three, two] == found(store, '-metadata["plan"]:null')
    assert [odd] == found(store, 'metadata["plan"]:null')
    assert [two] == found(store, 'metadata["plan"]:"gold" AND -metadata["id"]:"3"')
    assert [two, odd] == found(store, 'metadata["id"]:"2" or -metadata["plan"]:"gold"')
    assert [three, two, odd] == found(store, "email:null")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "unable to parse"),
        ("nonsense", "unable to parse"),
        ('metadata["a"]:"b" AND ', "unable to parse"),
        ('metadata["a"]:"b" metadata["a"]:"c"', "unable to parse"),
        ('metadata["a"]:"1" AND metadata["a"]:"2" OR metadata["a"]:"3"', "either AND or OR"),
        (" OR ".join(['metadata["a"]:"b"'] * 11), "At most 10 clauses"),
    ],
)
def test_search_refuses_what_stripe_refuses(query: str, message: str) -> None:
    """A query outside the language is a 400 that says where or why."""
    assert message in found(account(), query)[0]


def test_search_is_behind_by_its_lag() -> None:
    """New and changed metadata is found only after the lag; meanwhile the old value still is."""
    store = account(lag_s=60)
    made = create(store, id="old")
    assert found(store, 'metadata["id"]:"old"', NOW) == []
    later = NOW + timedelta(seconds=60)
    assert [made] == found(store, 'metadata["id"]:"old"', later)
    change = Call("x", "x", {"customer": made}, {"metadata": {"id": "new"}})
    customers.update(store, change, later)
    soon = later + timedelta(seconds=59)
    assert [made] == found(store, 'metadata["id"]:"old"', soon)
    assert found(store, 'metadata["id"]:"new"', soon) == []
    assert [made] == found(store, 'metadata["id"]:"new"', later + timedelta(seconds=60))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"k" * 41: "v"}, "up to 40 characters"),
        ({"k": "v" * 501}, "up to 500 characters"),
        ({str(n): "v" for n in range(51)}, "up to 50 keys"),
    ],
)
def test_metadata_has_limits(
    sdk: stripe_sdk.StripeClient, metadata: dict[str, str], message: str
) -> None:
    """Metadata beyond Stripe's limits is refused at creation and at update."""
    made = sdk.v1.customers.create()
    with pytest.raises(stripe_sdk.InvalidRequestError, match=message):
        sdk.v1.customers.create({"metadata": metadata})
    with pytest.raises(stripe_sdk.InvalidRequestError, match=message):
        sdk.v1.customers.update(made.id, {"metadata": metadata})
