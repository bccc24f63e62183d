"""What comes from Stripe, read from its JSON."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.stripe.inbound import (
    AccountInfo,
    InboundEvent,
    Sample,
    account_info,
    error_report,
    inbound_event,
    meter,
    understood,
)
from usageflow.stripe.meter_events import Meter

AT = datetime(2026, 11, 2, 10, tzinfo=UTC)


def snapshot(**changes: Any) -> dict[str, Any]:
    """A snapshot event as it is posted."""
    return {
        "object": "event",
        "id": "evt_1",
        "type": "customer.updated",
        "created": int(AT.timestamp()),
        "livemode": False,
        "data": {"object": {"id": "cus_1"}, "previous_attributes": {"metadata": {"a": "b"}}},
        **changes,
    }


def thin(**changes: Any) -> dict[str, Any]:
    """A notification as it is posted."""
    return {
        "object": "v2.core.event",
        "id": "evt_2",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-11-02T10:00:00.000Z",
        "livemode": True,
        "related_object": {
            "id": "mtr_1",
            "type": "billing.meter",
            "url": "/v1/billing/meters/mtr_1",
        },
        **changes,
    }


def report(samples: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """An error report as it is fetched."""
    return thin(
        data={
            "developer_message_summary": "There are 7 invalid events",
            "reason": {
                "error_count": 7,
                "error_types": [
                    {"code": "no_meter", "error_count": 5, "sample_errors": []},
                    {
                        "code": "meter_event_customer_not_found",
                        "error_count": 2,
                        "sample_errors": samples,
                    },
                ],
            },
            "validation_start": "2026-11-02T09:59:50Z",
            "validation_end": "2026-11-02T10:00:00Z",
        },
        **changes,
    )


def test_a_snapshot_has_its_object() -> None:
    """With what changed, and the account it is about if that is not one's own."""
    expected = InboundEvent(
        event_id="evt_1",
        type="customer.updated",
        created=AT,
        livemode=False,
        account=None,
        object={"id": "cus_1"},
        previous={"metadata": {"a": "b"}},
        thin=False,
    )
    assert inbound_event(snapshot()) == expected
    created = inbound_event(snapshot(account="acct_1", data={"object": {}}))
    assert created is not None
    assert (created.account, created.previous) == ("acct_1", None)


@pytest.mark.parametrize(
    ("context", "account"),
    [(None, None), ("", None), ("acct_1", "acct_1"), ("org_1/acct_1", "acct_1")],
)
def test_a_notification_has_what_it_is_about(context: str | None, account: str | None) -> None:
    """Its context ends with the account."""
    event = inbound_event(thin(context=context))
    assert event is not None
    assert (event.account, event.thin, event.created) == (account, True, AT)
    assert event.object["id"] == "mtr_1"


@pytest.mark.parametrize("related", [None, {}])
def test_a_notification_may_be_about_nothing(related: Any) -> None:
    """`no_meter_found` names no meter, for there is none."""
    event = inbound_event(thin(related_object=related))
    assert event is not None
    assert event.object == {}


@given(
    st.dictionaries(
        st.sampled_from(["object", "id", "type", "created", "livemode", "data", "context"]),
        st.sampled_from(["event", "v2.core.event"])
        | st.integers()
        | st.none()
        | st.lists(st.none()),
    )
)
def test_what_is_no_event_is_none(raw: dict[str, Any]) -> None:
    """Whatever else was signed raises nothing."""
    assert inbound_event(raw) is None


@pytest.mark.parametrize("created", [10**12, 10**17, 10**30], ids=["year", "system", "size"])
def test_a_moment_that_is_none_is_no_event(created: int) -> None:
    """Each is refused in another way."""
    assert inbound_event(snapshot(created=created)) is None


def test_a_report_counts_by_reason() -> None:
    """All counts, the samples there are, and the window they fell into."""
    samples: list[dict[str, Any]] = [
        {"error_message": "gone", "request": {"identifier": "uf1_a"}},
        {"error_message": "gone", "request": {"id": "req_1", "idempotency_key": "uf1_b.1f2e"}},
        {"error_message": "gone", "request": {"id": "req_1", "idempotency_key": ""}},
        {"error_message": "gone", "request": None},
    ]
    found = error_report(report(samples))
    code = "meter_event_customer_not_found"
    assert found.codes == {"no_meter": 5, code: 2}
    assert (found.error_count, found.meter_id) == (7, "mtr_1")
    assert found.samples == tuple(
        Sample(code, "gone", identifier) for identifier in ("uf1_a", "uf1_b", None, None)
    )
    assert (found.window_end - found.window_start).total_seconds() == 10
    assert found.message == "There are 7 invalid events"


def test_a_report_may_say_little() -> None:
    """How many were dropped, and when, is what matters."""
    raw = report([{"request": {"identifier": "uf1_a"}}])
    del raw["data"]["developer_message_summary"]
    del raw["data"]["reason"]["error_types"][0]["sample_errors"]
    found = error_report(raw)
    assert (found.error_count, found.message) == (7, "")
    assert found.samples == (Sample("meter_event_customer_not_found", "", "uf1_a"),)


@pytest.mark.parametrize("related", [None, {}])
def test_a_report_without_a_meter_has_none(related: Any) -> None:
    """Both forms of nothing have been seen."""
    assert error_report(report([], related_object=related)).meter_id is None


@pytest.mark.parametrize(
    ("read", "good"),
    [(error_report, report([])), (inbound_event, snapshot())],
    ids=["report", "event"],
)
def test_one_of_no_known_form_keeps_no_other_back(
    read: Callable[[Mapping[str, Any]], Any], good: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of by its id, and left out."""
    found = list(understood([good, {"id": "evt_x", "object": "event"}, thin(data=[]), good], read))
    assert found[0] == found[-1] == read(good)
    assert caplog.records[0].getMessage() == "'evt_x' of Stripe is skipped: it has no form we know"


def test_a_meter_says_what_it_expects() -> None:
    """Its keys may be others than the usual ones."""
    raw = {
        "id": "mtr_1",
        "event_name": "tokens",
        "default_aggregation": {"formula": "count"},
        "status": "inactive",
        "event_time_window": "hour",
        "customer_mapping": {"type": "by_id", "event_payload_key": "who"},
        "value_settings": {"event_payload_key": "much"},
    }
    assert meter(raw) == Meter(
        event_name="tokens",
        meter_id="mtr_1",
        formula="count",
        status="inactive",
        time_window="hour",
        customer_key="who",
        value_key="much",
    )


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ({"settings": {"dashboard": {"display_name": "Acme"}}, "email": "a@b"}, "Acme"),
        ({"settings": None, "business_profile": {"name": "Acme Inc."}}, "Acme Inc."),
        ({"business_profile": None, "email": "a@b"}, "a@b"),
        ({}, "acct_1"),
    ],
)
def test_an_account_has_some_name(raw: dict[str, Any], name: str) -> None:
    """The one its owner sees first, else what there is."""
    info = account_info({"id": "acct_1", **raw}, livemode=True)
    assert info == AccountInfo("acct_1", name, livemode=True)
