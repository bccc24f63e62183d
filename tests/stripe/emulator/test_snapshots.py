"""Snapshot events of the emulator: what changed, and the log, driven by the official SDK."""

import pytest
import stripe as stripe_sdk
from hypothesis import given
from hypothesis import strategies as st

from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.snapshots import previous_attributes

OBJECTS = st.dictionaries(
    st.sampled_from("abc"),
    st.none() | st.text(max_size=2) | st.dictionaries(st.sampled_from("xy"), st.text(max_size=1)),
)


def types(sdk: stripe_sdk.StripeClient) -> list[str]:
    """The types of every event, oldest first."""
    return [str(event.type) for event in sdk.v1.events.list({"limit": 100}).data][::-1]


@given(OBJECTS, OBJECTS)
def test_previous_attributes_are_what_differs(
    before: dict[str, object], after: dict[str, object]
) -> None:
    """Nothing that stayed is named, and the old object comes back from the new one."""
    changed = previous_attributes(before, after)
    assert all(before.get(key) != after.get(key) for key in changed)
    restored = {**after, **changed}
    for key, old in changed.items():
        new = after.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and isinstance(before.get(key), dict):
            kept = {**new, **old}
            restored[key] = {name: kept[name] for name in kept if kept[name] is not None}
    assert {k: v for k, v in restored.items() if v is not None} == {
        k: v for k, v in before.items() if v is not None
    }


def test_a_customers_life_is_logged(sdk: stripe_sdk.StripeClient) -> None:
    """Created, updated with the old values and deleted; an update without a change is no event."""
    made = sdk.v1.customers.create({"name": "Ada", "metadata": {"a": "1", "b": "2"}})
    sdk.v1.customers.update(made.id, {"metadata": {"a": "9", "c": "3"}, "name": "Bo"})
    sdk.v1.customers.update(made.id, {"name": "Bo"})
    sdk.v1.customers.delete(made.id)
    assert types(sdk) == ["customer.created", "customer.updated", "customer.deleted"]
    (updated,) = sdk.v1.events.list({"type": "customer.updated"}).data
    data = updated.to_dict()["data"]
    assert data["previous_attributes"] == {"name": "Ada", "metadata": {"a": "1", "c": None}}
    assert data["object"]["metadata"] == {"a": "9", "b": "2", "c": "3"}
    fetched = sdk.v1.events.retrieve(updated.id)
    assert (fetched.livemode, fetched.pending_webhooks) == (False, 0)
    assert fetched.api_version == stripe_sdk.api_version


def test_a_meters_life_is_logged(sdk: stripe_sdk.StripeClient) -> None:
    """Created, renamed, deactivated and reactivated, each with what was before."""
    meter = sdk.v1.billing.meters.create(
        {
            "display_name": "Calls",
            "event_name": "calls",
            "default_aggregation": {"formula": "sum"},
        }
    )
    sdk.v1.billing.meters.update(meter.id, {"display_name": "Requests"})
    sdk.v1.billing.meters.update(meter.id, {})
    sdk.v1.billing.meters.deactivate(meter.id)
    sdk.v1.billing.meters.reactivate(meter.id)
    events = sdk.v1.events.list({"type": "billing.meter.*"}).data[::-1]
    assert [event.type for event in events] == [
        "billing.meter.created",
        "billing.meter.updated",
        "billing.meter.deactivated",
        "billing.meter.reactivated",
    ]
    renamed = events[1].data.previous_attributes
    assert renamed is not None
    assert renamed["display_name"] == "Calls"
    assert [event.data.object["status"] for event in events[2:]] == ["inactive", "active"]


def test_events_are_filtered(sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> None:
    """By types, by a group, by time, and by whether every endpoint has them."""
    made = sdk.v1.customers.create()
    emulator.advance(60)
    sdk.v1.customers.delete(made.id)
    newest, oldest = sdk.v1.events.list({"type": "customer.*"}).data
    assert [newest.id] == [e.id for e in sdk.v1.events.list({"types": ["customer.deleted"]}).data]
    since = {"created": {"gt": oldest.created}}
    assert [newest.id] == [e.id for e in sdk.v1.events.list(since).data]  # type: ignore[arg-type]
    assert [oldest.id] == [e.id for e in sdk.v1.events.list({"created": oldest.created}).data]
    assert len(sdk.v1.events.list({"delivery_success": True}).data) == 2
    assert sdk.v1.events.list({"delivery_success": False}).data == []
    assert [newest.id] == [e.id for e in sdk.v1.events.list({"ending_before": oldest.id}).data]


def test_types_are_names(sdk: stripe_sdk.StripeClient) -> None:
    """`types` takes no groups and no more than twenty names."""
    for wrong in (["customer.*"], ["customer.created"] * 21):
        with pytest.raises(stripe_sdk.InvalidRequestError, match="up to 20 names") as caught:
            sdk.v1.events.list({"types": wrong})
        assert caught.value.param == "types"


def test_events_are_readable_for_thirty_days(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """After that they are gone, and an unknown one never was."""
    sdk.v1.customers.create()
    (event,) = sdk.v1.events.list().data
    emulator.advance(30 * 86_400 - 60)
    assert sdk.v1.events.retrieve(event.id).id == event.id
    emulator.advance(120)
    assert sdk.v1.events.list().data == []
    with pytest.raises(stripe_sdk.InvalidRequestError, match="No such event"):
        sdk.v1.events.retrieve(event.id)
