"""The contract: which requests the API description allows, and how refusals are worded."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow.stripe.emulator import (
    adjustments,
    customers,
    forms,
    meter_event_stream,
    meter_events,
    meters,
    summaries,
    thin_events,
)
from usageflow.stripe.emulator.contract import (
    FORM,
    Call,
    Contract,
    Target,
    _fast,
    coerce,
    stripe_contract,
)
from usageflow.stripe.emulator.limits import STREAM
from usageflow.stripe.emulator.replies import Reply
from usageflow.stripe.emulator.world import World

CUSTOMER = "/v1/customers/cus_1"
METERS = "/v1/billing/meters"
SUMMARY = "/v1/billing/meters/mtr_1/event_summaries"
EVENTS = "/v1/billing/meter_events"
UNKNOWN, MISSING = "parameter_unknown", "parameter_missing"
NOT_INTEGER = "parameter_invalid_integer"

METER = {
    "display_name": "Calls",
    "event_name": "api_call",
    "default_aggregation[formula]": "sum",
}
EVENT = {"event_name": "api_call", "payload[stripe_customer_id]": "cus_1", "payload[value]": "2"}
ADJUSTMENTS = "/v1/billing/meter_event_adjustments"
CANCEL = {"event_name": "api_call", "type": "cancel"}
V2 = "/v2/billing/meter_event"
V2_EVENT = {"event_name": "api_call", "payload": {"value": "2"}}
V2_CANCEL = {**CANCEL, "cancel": {"identifier": "x"}}
SUMMARIES = {"customer": "cus_1", "start_time": "0", "end_time": "60"}

VALID = [
    ("POST", "/v1/customers", {}, "PostV1Customers"),
    ("POST", "/v1/customers", {"metadata[account_id]": "acct_42", "name": "A"}, "PostV1Customers"),
    ("POST", CUSTOMER, {"metadata": ""}, "PostV1CustomersCustomer"),
    (
        "POST",
        CUSTOMER,
        {"shipping[name]": "A", "shipping[address][city]": "B"},
        "PostV1CustomersCustomer",
    ),
    ("GET", "/v1/customers", {"limit": "100", "created[gte]": "5"}, "GetV1Customers"),
    ("GET", "/v1/customers", {"created": "5", "expand[0]": "data.sources"}, "GetV1Customers"),
    ("GET", "/v1/customers", {"expand[]": "data.sources"}, "GetV1Customers"),
    ("GET", "/v1/customers/search", {"query": 'metadata["a"]:"b"'}, "GetV1CustomersSearch"),
    ("GET", CUSTOMER, {}, "GetV1CustomersCustomer"),
    ("DELETE", CUSTOMER, {}, "DeleteV1CustomersCustomer"),
    ("POST", METERS, METER, "PostBillingMeters"),
    ("POST", METERS, {**METER, "event_time_window": "hour"}, "PostBillingMeters"),
    ("GET", METERS, {"status": "active"}, "GetBillingMeters"),
    ("GET", METERS + "/mtr_1", {}, "GetBillingMetersId"),
    ("POST", METERS + "/mtr_1", {"display_name": "B"}, "PostBillingMetersId"),
    ("POST", METERS + "/mtr_1/deactivate", {}, "PostBillingMetersIdDeactivate"),
    ("POST", METERS + "/mtr_1/reactivate", {}, "PostBillingMetersIdReactivate"),
    ("GET", SUMMARY, SUMMARIES, "GetBillingMetersIdEventSummaries"),
    ("POST", EVENTS, EVENT, "PostBillingMeterEvents"),
    (
        "POST",
        EVENTS,
        {**EVENT, "timestamp": "5", "identifier": "x" * 100},
        "PostBillingMeterEvents",
    ),
    (
        "POST",
        ADJUSTMENTS,
        {**CANCEL, "cancel[identifier]": "x"},
        "PostBillingMeterEventAdjustments",
    ),
    ("POST", f"{V2}s", {**V2_EVENT, "identifier": "x"}, "PostV2BillingMeterEvents"),
    ("POST", f"{V2}_session", {}, "PostV2BillingMeterEventSession"),
    ("POST", f"{V2}_stream", {"events": [V2_EVENT]}, "PostV2BillingMeterEventStream"),
    ("POST", f"{V2}_adjustments", V2_CANCEL, "PostV2BillingMeterEventAdjustments"),
    ("GET", "/v2/core/events", {"types[0]": "a", "created[gt]": "b"}, "GetV2CoreEvents"),
    ("GET", "/v2/core/events", {"limit": "5", "page": "5"}, "GetV2CoreEvents"),
    ("GET", "/v2/core/events/evt_1", {}, "GetV2CoreEventsId"),
]

INVALID = [
    ("POST", "/v1/customers", {"nmae": "A"}, "nmae", UNKNOWN),
    ("POST", "/v1/customers", {"metadata[a][b]": "A"}, "metadata[a]", None),
    ("POST", "/v1/customers", {"metadata": "A"}, "metadata", None),
    ("POST", "/v1/customers", {"a[b": "A"}, "a[b", UNKNOWN),
    ("POST", CUSTOMER, {"balance": "1.5"}, "balance", NOT_INTEGER),
    ("POST", CUSTOMER, {"balance": "9" * 30}, "balance", NOT_INTEGER),
    ("GET", "/v1/customers", {"limit": "ten"}, "limit", NOT_INTEGER),
    ("GET", "/v1/customers", {"limits": "10"}, "limits", UNKNOWN),
    ("GET", "/v1/customers", {"created[since]": "5"}, "created[since]", UNKNOWN),
    ("GET", "/v1/customers/search", {}, "query", MISSING),
    ("GET", CUSTOMER, {"limit": "1"}, "limit", UNKNOWN),
    ("DELETE", CUSTOMER, {"force": "true"}, "force", UNKNOWN),
    ("POST", METERS, {"event_name": "a"}, "default_aggregation", MISSING),
    (
        "POST",
        METERS,
        {**METER, "default_aggregation[formula]": "max"},
        "default_aggregation[formula]",
        None,
    ),
    ("POST", METERS, {**METER, "default_aggregation[x]": "1"}, "default_aggregation[x]", UNKNOWN),
    ("POST", METERS, {**METER, "event_name": "x" * 101}, "event_name", None),
    ("POST", METERS, {**METER, "metadata[a]": "b"}, "metadata", UNKNOWN),
    ("GET", METERS, {"status": "gone"}, "status", None),
    ("GET", METERS + "/mtr_1", {"x": "1"}, "x", UNKNOWN),
    ("POST", METERS + "/mtr_1", {"event_name": "b"}, "event_name", UNKNOWN),
    ("POST", METERS + "/mtr_1/deactivate", {"x": "b"}, "x", UNKNOWN),
    ("POST", METERS + "/mtr_1/reactivate", {"x": "b"}, "x", UNKNOWN),
    ("GET", SUMMARY, {"customer": "c", "start_time": "0"}, "end_time", MISSING),
    ("GET", SUMMARY, {**SUMMARIES, "value_grouping_window": "week"}, "value_grouping_window", None),
    ("POST", EVENTS, {"event_name": "api_call"}, "payload", MISSING),
    ("POST", EVENTS, {**EVENT, "payload": "x"}, "payload", None),
    ("POST", EVENTS, {**EVENT, "identifier": "x" * 101}, "identifier", None),
    ("POST", EVENTS, {**EVENT, "timestamp": "now"}, "timestamp", NOT_INTEGER),
    ("POST", EVENTS, {**EVENT, "value": "1"}, "value", UNKNOWN),
    ("POST", ADJUSTMENTS, {**CANCEL, "cancel[id]": "x"}, "cancel[id]", UNKNOWN),
    ("POST", f"{V2}s", {**V2_EVENT, "payload": {"value": 2}}, "payload[value]", None),
    ("POST", f"{V2}s", {**V2_EVENT, "timestamp": 5}, "timestamp", None),
    ("POST", f"{V2}_stream", {"events": [{"event_name": "a"}]}, "events[0][payload]", MISSING),
    ("POST", f"{V2}_stream", {"events": [{**V2_EVENT, "x": "1"}]}, "events[0][x]", UNKNOWN),
    ("POST", f"{V2}_adjustments", CANCEL, "cancel", MISSING),
    ("GET", "/v2/core/events", {"type": "a"}, "type", UNKNOWN),
    ("GET", "/v2/core/events/evt_1", {"page": "a"}, "page", UNKNOWN),
]


def check(method: str, path: str, fields: dict[str, Any]) -> Call | Reply:
    """A request with `fields` where its method carries them, and as its version writes them."""
    inside = method == "POST"
    text = json.dumps(fields) if inside and path.startswith("/v2/") else urlencode(fields)
    return stripe_contract().check(
        method, path, "" if inside else text, text.encode() if inside else b""
    )


@pytest.mark.parametrize(("method", "path", "fields", "operation"), VALID)
def test_valid_requests_become_calls(
    method: str, path: str, fields: dict[str, Any], operation: str
) -> None:
    """What Stripe allows is recognised as its operation; a literal path wins over a placeholder."""
    call = check(method, path, fields)
    assert isinstance(call, Call), call
    assert operation == call.operation


@pytest.mark.parametrize(("method", "path", "fields", "param", "code"), INVALID)
def test_invalid_requests_are_refused_with_their_parameter(
    method: str, path: str, fields: dict[str, Any], param: str, code: str | None
) -> None:
    """What Stripe does not allow is a 400 that names the parameter as Stripe writes it."""
    reply = check(method, path, fields)
    assert isinstance(reply, Reply), reply
    error = reply.body["error"]
    assert (400, "invalid_request_error", param) == (reply.status, error["type"], error["param"])
    assert code == error.get("code")


def test_every_emulated_operation_is_in_both_tables() -> None:
    """No emulated route is without a valid and an invalid case."""
    refused = {
        next(item.name for item in stripe_contract().operations if _matches(item, method, path))
        for method, path, *_ in INVALID
    }
    emulated = {
        *customers.HANDLERS,
        *meters.HANDLERS,
        *meter_events.HANDLERS,
        *meter_event_stream.handlers(World(lambda: datetime.now(UTC))),
        *adjustments.HANDLERS,
        *summaries.HANDLERS,
        *thin_events.HANDLERS,
    }
    assert emulated == {case[3] for case in VALID}
    assert emulated == refused | {"PostV2BillingMeterEventSession"}, "it has nothing to get wrong"


def _matches(operation: Any, method: str, path: str) -> bool:
    return operation.match(method, tuple(path.strip("/").split("/"))) is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/nothing"),
        ("DELETE", "/v1/billing/meters"),
        ("GET", "/v1/customers/"),
        ("GET", "/"),
    ],
)
def test_an_unknown_route_is_reported(method: str, path: str) -> None:
    """A path or method the description does not have is a 404 that repeats it."""
    reply = stripe_contract().check(method, path, "", b"")
    if path == "/v1/customers/":
        assert isinstance(reply, Call)
        return
    assert isinstance(reply, Reply)
    assert (404, f"Unrecognized request URL ({method}: {path}).") == (
        reply.status,
        reply.body["error"]["message"],
    )


def test_form_values_are_read_as_their_schema_says() -> None:
    """Integers, booleans, arrays and nested objects come out of form text in their own types."""
    body = {
        "auto_advance": "true",
        "days_until_due": "30",
        "default_tax_rates[1]": "b",
        "default_tax_rates[0]": "a",
        "metadata[n]": "5",
    }
    call = check("POST", "/v1/invoices", body)
    assert isinstance(call, Call), call
    expected = {
        "auto_advance": True,
        "days_until_due": 30,
        "default_tax_rates": ["a", "b"],
        "metadata": {"n": "5"},
    }
    assert expected == call.params


def test_numbers_stay_exact() -> None:
    """A schema's `number` is read as a decimal, never as a binary float."""
    assert str(coerce({"type": "number"}, "0.10")) == "0.10"
    assert coerce({"type": "number"}, "x") == "x"


def test_v2_bodies_are_json() -> None:
    """A v2 operation takes JSON with its own types and refuses a form."""
    body = {"event_name": "a", "payload": {"value": "1"}, "timestamp": "2026-11-21T09:00:00Z"}
    path = "/v2/billing/meter_events"
    call = stripe_contract().check("POST", path, "", json.dumps(body).encode())
    assert isinstance(call, Call)
    assert body == call.params
    for bad in (b"event_name=a", b"[]", json.dumps({**body, "payload": {"value": 1}}).encode()):
        reply = stripe_contract().check("POST", path, "", bad)
        assert isinstance(reply, Reply)
        assert reply.status == 400


def test_a_body_the_description_does_not_have_is_ignored() -> None:
    """The SDK sends `{}` to the session endpoint, which has no body in the description."""
    call = stripe_contract().check("POST", "/v2/billing/meter_event_session", "", b"{}")
    assert isinstance(call, Call)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (f"{V2}s", {"stripe-version": "x", "content-type": "application/json"}, None),
        (f"{V2}s", {"stripe-version": "x", "content-type": "application/json; charset=x"}, None),
        (f"{V2}s", {"content-type": "application/json"}, 400),
        (f"{V2}s", {"stripe-version": "x", "content-type": FORM}, 415),
        (f"{V2}s", {"stripe-version": "x"}, 415),
        (f"{V2}_session", {"stripe-version": "x"}, None),
        (f"{V2}_session", {}, 400),
        (EVENTS, {"content-type": FORM}, None),
        (EVENTS, {}, None),
        (EVENTS, {"content-type": "application/json"}, 400),
    ],
)
def test_each_version_has_its_headers(
    path: str, headers: dict[str, str], status: int | None
) -> None:
    """v2 needs a version and takes JSON; v1 takes forms, also from who does not say so."""
    target = stripe_contract().find("POST", path)
    assert isinstance(target, Target)
    refusal = target.refused(headers)
    assert status == (None if refusal is None else refusal.status)


event_fields = st.fixed_dictionaries(
    {},
    optional={
        "event_name": st.text(max_size=3) | st.integers(),
        "payload": st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers())
        | st.none(),
        "identifier": st.text(max_size=3) | st.none(),
        "timestamp": st.text(max_size=3) | st.integers(),
        "other": st.text(max_size=3),
    },
)
right_events = st.fixed_dictionaries(
    {
        "event_name": st.text(max_size=3),
        "payload": st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
    },
    optional={"identifier": st.text(max_size=3), "timestamp": st.text(max_size=3)},
)


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(right_events, max_size=3),
    st.lists(event_fields, max_size=1),
    st.sampled_from([{}, {"other": 1}]),
)
def test_the_fast_way_of_the_stream_allows_what_the_description_does(
    right: list[dict[str, Any]], random: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    """The type that reads streams and the schema agree, and give the same events."""
    (target,) = [one for one in stripe_contract().operations if one.name == STREAM]
    body = json.dumps({"events": [*right, *random], **more}).encode()
    schema = target.body
    assert schema is not None
    document = json.loads(body)
    fast = _fast(target, body)
    assert fast == (document if schema.refusal(document) is None else None)


def test_a_contract_is_made_of_any_description() -> None:
    """The checker knows nothing of Stripe's operations; they all come from the document."""
    operation = {"operationId": "Ping", "parameters": [{"name": "id", "in": "path"}]}
    contract = Contract({"paths": {"/v1/ping/{id}": {"get": operation, "summary": "text"}}})
    assert Call("Ping", "GET /v1/ping/{id}", {"id": "7"}, {}) == contract.check(
        "GET", "/v1/ping/7", "", b""
    )


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=200), st.text(max_size=100))
def test_no_input_breaks_the_checker(body: bytes, query: str) -> None:
    """Whatever arrives, the answer is a call or a refusal, never an exception."""
    for method, path in (("POST", "/v1/billing/meter_events"), ("GET", "/v1/customers")):
        assert isinstance(stripe_contract().check(method, path, query, body), Call | Reply)


names = st.text("abc", min_size=1, max_size=3)
trees = st.recursive(
    st.text(max_size=5),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(names, trees, max_size=4))
def test_forms_survive_the_round_trip(tree: dict[str, Any]) -> None:
    """Flattening as the SDK does and parsing gives the same nested object."""
    pairs = list(_flattened(tree, []))
    assert tree == forms.parse(urlencode(pairs))


def _flattened(node: Any, path: list[str]) -> Any:
    if isinstance(node, str):
        yield forms.parameter(path), node
        return
    for key, value in node.items():
        yield from _flattened(value, [*path, key])


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a=1&a=2", {"a": "2"}),
        ("a=1&a[b]=2", {"a": {"b": "2"}}),
        ("a[b]=2&a=1", {"a": "1"}),
        ("a[]=x&a[]=y", {"a": {"0": "x", "1": "y"}}),
        ("a[b]c=1&[x]=2", {"a[b]c": "1", "[x]": "2"}),
    ],
)
def test_odd_forms_are_read_predictably(text: str, tree: dict[str, Any]) -> None:
    """Repeats, contradictions and malformed names have one documented reading."""
    assert tree == forms.parse(text)
