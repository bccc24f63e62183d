"""The policy set and what an exchange is worth under it: conversations become events."""

import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.events import Identity, UsageEvent, decode, encode
from usageflow.policies import Facts, Policy, PolicySet, evaluate
from usageflow.policies import engine as engine_module
from usageflow.policies.quantity import Quantity
from usageflow.policies.reason import Reason

MakePolicy = Callable[..., Policy]
MakeFacts = Callable[..., Facts]

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
KNOWN = [(b"x-account", b"acct_42")]
TOKENS = "response.body.usage.total_tokens"


def policies(*made: Policy) -> PolicySet:
    """A set of these, in version 1 each."""
    return PolicySet.build((policy, "1") for policy in made)


def events_of(found: PolicySet, seen: Facts) -> list[UsageEvent]:
    """The events of one exchange, with ids in order."""
    numbers = itertools.count(1)
    match = found.match(seen.method, seen.path)
    assert match is not None
    return evaluate(match, seen, now=NOW, new_id=lambda: f"id-{next(numbers)}")


def outcome(made: Policy, seen: Facts) -> tuple[str, Decimal | None, str | None, str | None]:
    """State, quantity, identity and reason of the one event."""
    (event,) = events_of(policies(made), seen)
    return event.state, event.quantity, event.identity.value, event.reason


def test_a_request_becomes_a_whole_event(policy: MakePolicy, facts: MakeFacts) -> None:
    """Who, what, how much, when, from which request, under which policy and version."""
    made = policy(match="POST /v1/:kind", quantity=TOKENS, event_name="token_used")
    seen = facts(request_headers=KNOWN, response=b'{"usage": {"total_tokens": 42}}')
    assert events_of(policies(made), seen) == [
        UsageEvent(
            id="id-1",
            policy="chat",
            policy_version="1",
            metric="CALL",
            identity=Identity("account_id", "acct_42"),
            quantity=Decimal(42),
            occurred_at=NOW,
            state="counted",
            event_name="token_used",
            request_method="POST",
            request_route="/v1/:kind",
            request_status=200,
        )
    ]


@pytest.mark.parametrize(
    ("when", "status", "fires"),
    [
        ("success", 200, True),
        ("success", 399, True),
        ("success", 400, False),
        ("success", 199, False),
        ("success", None, False),
        ("response", 500, True),
        ("response", None, False),
        ("request", 500, True),
        ("request", None, True),
        ([200, 404], 404, True),
        ([200, 404], 201, False),
        ([200, 404], None, False),
    ],
)
def test_when_decides_whether_there_is_an_event(
    policy: MakePolicy, facts: MakeFacts, when: str | list[int], status: int | None, *, fires: bool
) -> None:
    """Where `when` is not met nothing happened that could be billed, so nothing is written."""
    found = events_of(policies(policy(when=when)), facts(status=status, request_headers=KNOWN))
    assert bool(found) is fires


@pytest.mark.parametrize(
    ("on_missing", "wanted"),
    [
        ("inbox", ("inbox", None, "acct_42", f"{TOKENS} is missing")),
        ("skip", ("skipped", None, "acct_42", f"{TOKENS} is missing")),
        (
            Decimal("0.5"),
            (
                "counted",
                Decimal("0.5"),
                "acct_42",
                f"{TOKENS} is missing; counted as 0.5, as on_missing says",
            ),
        ),
    ],
)
def test_a_missing_quantity_follows_its_rule(
    policy: MakePolicy, facts: MakeFacts, on_missing: object, wanted: tuple[object, ...]
) -> None:
    """Inbox, a fixed number or nothing, and always with the reason."""
    made = policy(quantity=TOKENS, on_missing=on_missing)
    assert outcome(made, facts(request_headers=KNOWN, response=b"{}")) == wanted


def test_a_reported_zero_is_not_missing(policy: MakePolicy, facts: MakeFacts) -> None:
    """0 was measured: it is counted as 0, whatever on_missing says."""
    made = policy(quantity=TOKENS, on_missing=7)
    seen = facts(request_headers=KNOWN, response=b'{"usage": {"total_tokens": 0}}')
    assert outcome(made, seen) == ("counted", Decimal(0), "acct_42", None)


def test_an_unknown_caller_goes_to_the_inbox(policy: MakePolicy, facts: MakeFacts) -> None:
    """What was measured is kept, so that a human only has to say whose it is."""
    nobody = "no identity: header x-account is absent"
    assert outcome(policy(quantity=3), facts()) == ("inbox", Decimal(3), None, nobody)
    both = f"{nobody}; response body is empty"
    assert outcome(policy(quantity=TOKENS), facts(response=b"")) == ("inbox", None, None, both)
    skipped = policy(quantity=TOKENS, on_missing="skip")
    assert outcome(skipped, facts(response=b"")) == ("skipped", None, None, both)
    fixed = policy(quantity=TOKENS, on_missing=2)
    assert outcome(fixed, facts(response=b""))[:3] == ("inbox", Decimal(2), None)


def test_a_shadow_policy_records_and_never_bills(policy: MakePolicy, facts: MakeFacts) -> None:
    """All it sees is shadow, also what would need a human; what it would skip stays skipped."""
    seen = facts(request_headers=KNOWN, response=b"{}")
    assert outcome(policy(mode="shadow"), seen) == ("shadow", Decimal(1), "acct_42", None)
    missing = policy(mode="shadow", quantity=TOKENS)
    assert outcome(missing, seen) == ("shadow", None, "acct_42", f"{TOKENS} is missing")
    assert outcome(policy(mode="shadow"), facts())[0] == "shadow"
    assert outcome(policy(mode="shadow", quantity=TOKENS, on_missing="skip"), seen)[0] == "skipped"


def test_an_aborted_exchange_follows_its_rule(policy: MakePolicy, facts: MakeFacts) -> None:
    """What was seen is measured, constants count, `none` skips; the reason carries the abort."""
    cut: dict[str, Any] = {"request_headers": KNOWN, "aborted": "the client disconnected"}
    said = "aborted: the client disconnected"
    assert outcome(policy(), facts(**cut)) == ("counted", Decimal(1), "acct_42", said)
    assert outcome(policy(on_abort="none"), facts(**cut)) == ("skipped", None, "acct_42", said)
    nobody = {**cut, "request_headers": []}
    assert outcome(policy(on_abort="none"), facts(**nobody)) == ("skipped", None, None, said)
    unfinished = facts(response=b'{"usage": {"total_to', **cut)
    state, quantity, _, reason = outcome(policy(quantity=TOKENS), unfinished)
    assert (state, quantity) == ("inbox", None)
    assert reason == f"response body is not JSON: Input data was truncated; {said}"


def test_full_counts_an_aborted_exchange_as_a_completed_one(
    policy: MakePolicy, facts: MakeFacts
) -> None:
    """No trace of the abort where the quantity is known; a cut body follows on_missing."""
    cut: dict[str, Any] = {"request_headers": KNOWN, "aborted": "the client disconnected"}
    whole = policy(on_abort="full")
    assert outcome(whole, facts(**cut)) == ("counted", Decimal(1), "acct_42", None)
    seen = facts(response=b"12345", **cut)
    by_size = policy(on_abort="full", quantity="response.bytes")
    assert outcome(by_size, seen) == ("counted", Decimal(5), "acct_42", None)
    seen.response_body.problem = problem = "the response is incomplete: the client disconnected"
    by_body = policy(on_abort="full", quantity=TOKENS)
    assert outcome(by_body, seen) == ("inbox", None, "acct_42", f"response body: {problem}")
    fixed = policy(on_abort="full", quantity=TOKENS, on_missing=7)
    assert outcome(fixed, seen)[:2] == ("counted", Decimal(7))
    nobody = {**cut, "request_headers": []}
    assert outcome(whole, facts(**nobody))[3] == "no identity: header x-account is absent"


def test_the_reason_of_an_abort_is_told_once(policy: MakePolicy, facts: MakeFacts) -> None:
    """Where the body's problem already names the abort it is not repeated."""
    seen = facts(request_headers=KNOWN, response=b"{", aborted="the app raised ValueError")
    seen.response_body.problem = "the response is incomplete: the app raised ValueError"
    assert (
        outcome(policy(quantity=TOKENS), seen)[3] == f"response body: {seen.response_body.problem}"
    )


def test_nothing_is_measured_without_a_response(policy: MakePolicy, facts: MakeFacts) -> None:
    """`request` fires even then; a constant counts, a response's field is missing."""
    seen = facts(status=None, request_headers=KNOWN, aborted="the client disconnected")
    assert outcome(policy(when="request"), seen)[:2] == ("counted", Decimal(1))
    made = policy(when="request", quantity="response.status")
    assert outcome(made, seen)[:2] == ("inbox", None)


def test_several_metrics_of_one_request(policy: MakePolicy, facts: MakeFacts) -> None:
    """Each metric has its own event, under the most specific template that has this metric."""
    found = policies(
        policy(name="all", match="ANY /*", metric="CALL"),
        policy(name="v1", match="POST /v1/:x", metric="CALL", quantity=2),
        policy(name="bytes", match="ANY /{rest:path}", metric="BYTES", quantity="request.bytes"),
        policy(name="chat", match="POST /v1/chat", metric="TOKENS", quantity=5),
        policy(name="off", match="POST /v1/chat", metric="CALL", mode="off"),
    )
    events = events_of(found, facts(request_headers=KNOWN))
    assert {(event.policy, event.metric, event.quantity) for event in events} == {
        ("v1", "CALL", Decimal(2)),
        ("chat", "TOKENS", Decimal(5)),
        ("bytes", "BYTES", Decimal(0)),
    }
    assert [event.id for event in events] == ["id-1", "id-2", "id-3"]


def test_a_path_parameter_means_its_own_template(policy: MakePolicy, facts: MakeFacts) -> None:
    """Two policies may call different segments by the same name."""
    path = [{"from": "path", "name": "id"}]
    found = policies(
        policy(name="one", match=["ANY /:id/:x", "ANY /c/:id"], metric="A", identify=path),
        policy(name="two", match="ANY /:y/:id", metric="B", identify=path),
    )
    events = events_of(found, facts(path="/a/b"))
    assert {event.policy: event.identity.value for event in events} == {"one": "a", "two": "b"}
    (event, _) = events_of(found, facts(path="/c/d"))
    assert (event.identity.value, event.request_route) == ("d", "/c/:id")


def test_no_policy_no_match(policy: MakePolicy) -> None:
    """Unmatched requests cost a look-up and nothing else; an empty set matches nothing."""
    found = policies(policy(), policy(name="off", match="GET /off", mode="off"))
    assert found.match("POST", "/v1/other") is None
    assert found.match("GET", "/v1/chat") is None
    assert found.match("GET", "/off") is None
    assert PolicySet.EMPTY.match("POST", "/v1/chat") is None


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, (False, False, False)),
        ({"quantity": TOKENS}, (False, True, False)),
        ({"quantity": "length(response)"}, (False, True, False)),
        ({"quantity": "request.body.n"}, (True, False, False)),
        ({"quantity": "response.bytes"}, (False, False, False)),
        ({"identify": [{"from": "body", "path": "id"}]}, (True, False, False)),
        ({"on_ledger_failure": "closed"}, (False, False, True)),
    ],
)
def test_a_match_tells_what_the_edge_must_keep(
    policy: MakePolicy, changes: dict[str, Any], needs: tuple[bool, bool, bool]
) -> None:
    """Bodies are kept only where a policy looks at them, also in a match of several policies."""
    plain = policy(name="plain", match="ANY /*", metric="OTHER")
    for found in (policies(policy(**changes)), policies(policy(**changes), plain)):
        match = found.match("POST", "/v1/chat")
        assert match is not None
        assert (
            match.needs_request_body,
            match.needs_response_body,
            match.fail_closed,
        ) == needs


def test_of_two_that_conflict_the_first_stays(policy: MakePolicy, facts: MakeFacts) -> None:
    """One bad policy is reported and takes nobody with it."""
    found = policies(
        policy(name="one"), policy(name="two", quantity=2), policy(name="three", metric="B")
    )
    assert found.problems == (
        (
            'policy "two": match: "POST /v1/chat" and "POST /v1/chat" of policy "one" both count '
            "CALL for the same requests"
        ),
    )
    events = events_of(found, facts(request_headers=KNOWN))
    assert [event.policy for event in events] == ["one", "three"]


def test_the_version_of_a_set_names_its_content(policy: MakePolicy) -> None:
    """Equal content has an equal version in any order; each change of a policy changes it."""
    one, two = policy(name="one"), policy(name="two", match="GET /b")
    version = PolicySet.build([(one, "1"), (two, "1")]).version
    assert PolicySet.build([(two, "1"), (one, "1")]).version == version
    assert PolicySet.build([(one, "2"), (two, "1")]).version != version
    assert PolicySet.build([(one, "1")]).version != version
    changed = policy(name="one", quantity=2)
    assert PolicySet.build([(changed, "1"), (two, "1")]).version != version
    assert re.fullmatch("[0-9a-f]{12}", version)


def test_a_mistake_of_ours_becomes_an_inbox_event(
    policy: MakePolicy, facts: MakeFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong inside is neither raised into the app nor silent, nor tells content."""

    def broken(*_: object) -> Reason:
        raise KeyError("secret")

    made = Quantity(frozenset(), None, broken, None)
    monkeypatch.setattr(engine_module, "compile_quantity", lambda *_: made)
    found = policies(policy(name="one"))
    monkeypatch.undo()
    (event,) = events_of(found, facts(request_headers=KNOWN))
    assert (event.state, event.quantity, event.identity.value) == ("inbox", None, None)
    assert event.reason == "internal error: KeyError"


def test_reasons_and_methods_are_bounded(policy: MakePolicy, facts: MakeFacts) -> None:
    """No client makes an event that the spool refuses."""
    sources = [{"from": "query", "name": f"{number}" * 90} for number in range(10)]
    (event,) = events_of(
        policies(policy(match="ANY /v1/chat", identify=sources)), facts(method="X" * 60_000)
    )
    assert event.reason is not None
    assert len(event.reason) == len(event.request_method) == 500


quantities = st.sampled_from(
    [
        1,
        TOKENS,
        "sum(response.body)",
        "to_number(request.headers.a)",
        "length(@)",
        "request.body.a || response.body.a",
        "avg([request.bytes, response.bytes])",
    ]
)
identities = st.sampled_from(
    [
        [{"from": "header", "name": "a"}],
        [{"from": "query", "name": "a"}],
        [{"from": "body", "path": "a"}],
        [{"from": "path", "name": "p"}],
    ]
)
bodies = st.binary(max_size=40) | st.text(alphabet='{}[]"a:,0123456789.eE+- ').map(str.encode)
headers = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"content-type", b"content-encoding"]), st.binary(max_size=30)
    ),
    max_size=3,
)


@given(
    quantity=quantities,
    identify=identities,
    when=st.sampled_from(["success", "response", "request", [200]]),
    on_missing=st.sampled_from(["inbox", "skip", 3]),
    mode=st.sampled_from(["live", "shadow"]),
    said=st.fixed_dictionaries(
        {
            "path": st.text(st.characters(exclude_characters="\n")).map(lambda text: "/" + text),
            "query_string": st.binary(max_size=30),
            "request": bodies,
            "response": bodies,
            "request_headers": headers,
            "response_headers": headers,
            "status": st.none() | st.integers(100, 599),
            "aborted": st.none() | st.just("the client disconnected"),
        }
    ),
)
def test_every_exchange_becomes_valid_events(
    policy: MakePolicy, facts: MakeFacts, said: dict[str, Any], **changes: Any
) -> None:
    """Whatever was sent, evaluation does not raise, and the event survives its wire form."""
    found = policies(policy(match="ANY /{p:path}", **changes))
    for event in events_of(found, facts(**said)):
        assert decode(encode(event)) == event
        assert (event.state == "counted") <= (event.quantity is not None)
        assert event.reason or event.state in ("counted", "shadow")


def test_an_unclear_condition_is_no_way_into_a_cheaper_policy(policy: MakePolicy) -> None:
    """The sure policy counts; without one, the unclear policy does: nothing goes unmetered."""
    full, dry = policy(name="full", quantity=10), policy(name="dry", query={"dry": "1"})
    found = policies(full, dry)
    for query, name in ((b"dry=1", "dry"), (b"dry=0", "full"), (b"dry=1&dry=0", "full")):
        match = found.match("POST", "/v1/chat", [], query)
        assert match is not None
        assert [each.policy.name for each in match.policies] == [name]
    alone = policies(dry).match("POST", "/v1/chat", [], b"dry=1&dry=0")
    assert alone is not None
    assert policies(dry).match("POST", "/v1/chat", [], b"dry=0") is None
