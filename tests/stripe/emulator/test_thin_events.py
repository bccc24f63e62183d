"""Events of v2: how reports of rejected meter events are found and read, with the official SDK."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator import thin_events
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.state import Account

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
REPORT = "v1.billing.meter.error_report_triggered"


def account(events: int = 0) -> Account:
    """An account with events a minute apart, of two types, each of its own object."""
    made = Account("acct_0123456789", False, timedelta(0), [])
    for number in range(events):
        moment = NOW + timedelta(minutes=number)
        made.emit_thin(f"type.{number % 2}", {"id": f"mtr_{number}"}, {}, moment)
    return made


def listed(store: Account, now: datetime = NOW, **params: Any) -> list[str]:
    """The related objects of the listed events, or what is wrong with the question."""
    reply = thin_events.list_all(store, Call("x", "x", {}, params), now)
    if reply.status != 200:
        return [reply.body["error"]["param"]]
    return [event["related_object"]["id"] for event in reply.body["data"]]


def test_a_report_is_found_and_read(sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> None:
    """Usage of an unknown customer is accepted; the event that tells of it has data."""
    emulator.seed(meters=["tokens"])
    payload = {"stripe_customer_id": "cus_unknown", "value": "5"}
    event: Any = {"event_name": "tokens", "payload": payload, "identifier": "one"}
    sdk.v1.billing.meter_events.create(event)
    (found,) = sdk.v2.core.events.list({"types": [REPORT]}).auto_paging_iter()
    read: Any = sdk.v2.core.events.retrieve(found.id)
    assert read.type == REPORT
    assert read.related_object.id == emulator.state()["accounts"][0]["meters"][0]["id"]
    assert read.data.reason.error_count == 1
    (kind,) = read.data.reason.error_types
    assert kind.code == "meter_event_customer_not_found"
    assert kind.sample_errors[0].request.identifier == "one"


def test_a_delayed_report_comes_when_time_has_passed(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """The delay and the number of samples can be set; the emulated clock decides."""
    emulator.set(rejection_delay_s=60, rejection_samples=1)
    emulator.seed(meters=["tokens"])
    payload = {"stripe_customer_id": "cus_unknown", "value": "5"}
    params: Any = {"event_name": "tokens", "payload": payload}
    for _ in range(3):
        sdk.v1.billing.meter_events.create(params)
    assert sdk.v2.core.events.list().data == []
    emulator.advance(70)
    reports: Any = sdk.v2.core.events.list().data
    kinds = [kind for report in reports for kind in report.data.reason.error_types]
    assert sum(kind.error_count for kind in kinds) == 3
    assert {len(kind.sample_errors) for kind in kinds} == {1}


def test_pages_follow_one_another(
    sdk: stripe_sdk.StripeClient,
    emulator: RemoteEmulator,
    connect: Callable[..., stripe_sdk.StripeClient],
) -> None:
    """The SDK walks every page, with the same filters on each."""
    emulator.set(rejection_samples=0)
    emulator.seed(meters=["tokens"])
    payload = {"stripe_customer_id": "cus_unknown", "value": "5"}
    params: Any = {"event_name": "tokens", "payload": payload}
    for _ in range(5):
        sdk.v1.billing.meter_events.create(params)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    meter = emulator.state()["accounts"][0]["meters"][0]["id"]
    asked: Any = {
        "limit": 2,
        "types": [REPORT],
        "created": {"gte": yesterday},
        "object_id": meter,
    }
    found = [event.id for event in sdk.v2.core.events.list(asked).auto_paging_iter()]
    assert len(set(found)) == 5


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [3, 2, 1, 0]),
        ({"types": ["type.1"]}, [3, 1]),
        ({"object_id": "mtr_2"}, [2]),
        ({"created": {"gt": "2026-11-21T09:01:00Z"}}, [3, 2]),
        ({"created": {"gte": "2026-11-21T10:01:00+01:00", "lt": "2026-11-21T09:03:00Z"}}, [2, 1]),
        ({"created": {"lte": "2026-11-21T09:00:00Z"}}, [0]),
        ({"limit": 1, "page": "2"}, [1]),
    ],
)
def test_filters(params: dict[str, Any], expected: list[int]) -> None:
    """By type, by related object, by time; newest first."""
    assert listed(account(4), NOW + timedelta(hours=1), **params) == [
        f"mtr_{number}" for number in expected
    ]


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"types": ["a"] * 21}, "types"),
        ({"page": "x"}, "page"),
        ({"created": {"gt": "yesterday"}}, "created[gt]"),
        ({"created": {"gt": "2026-11-21T09:00:00"}}, "created[gt]"),
    ],
)
def test_a_wrong_question_is_refused(params: dict[str, Any], param: str) -> None:
    """Limits of the list, and times that are none."""
    assert listed(account(1), **params) == [param]


def test_the_first_page_of_several_names_its_neighbours() -> None:
    """Addresses of the next and the previous page, where there is one."""
    store, now = account(3), NOW + timedelta(hours=1)
    first = thin_events.list_all(store, Call("x", "x", {}, {"limit": 2}), now).body
    assert first["next_page_url"] == "/v2/core/events?limit=2&page=2"
    assert first["previous_page_url"] is None
    last = thin_events.list_all(store, Call("x", "x", {}, {"limit": 2, "page": "2"}), now).body
    assert last["next_page_url"] is None
    assert last["previous_page_url"] == "/v2/core/events?limit=2&page=0"


def test_events_are_kept_for_30_days() -> None:
    """Older ones are neither listed nor found."""
    store = account(1)
    assert listed(store, NOW + timedelta(days=30)) == ["mtr_0"]
    later = NOW + timedelta(days=30, seconds=1)
    assert listed(store, later) == []
    event = store.thin_events[0]["id"]
    assert thin_events.retrieve(store, Call("x", "x", {"id": event}, {}), later).status == 404
    assert thin_events.retrieve(store, Call("x", "x", {"id": event}, {}), NOW).body["id"] == event
