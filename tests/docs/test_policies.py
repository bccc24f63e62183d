"""The page about policies: every example is valid, every table is what the code does."""

import gzip
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.middleware.exchange import Exchange
from usageflow.middleware.limits import Limits
from usageflow.policies import Match, Policy, PolicySet, decoding, evaluate, parse_file

SPAN = re.compile(r"(`+)(.+?)\1(?!`)")
BODY_BYTES_MAX = 1_048_576
DECODED_BYTES_MAX = 8_388_608


def spans(cell: str) -> list[str]:
    """The pieces of code in a cell."""
    return [found[2] for found in SPAN.finditer(cell)]


def policies_of(toml: str) -> PolicySet:
    """The set of a valid example."""
    parsed = parse_file(toml, "policies.toml")
    assert parsed.problems == ()
    return PolicySet.build(parsed.policies)


def matched(policies: PolicySet, request: str) -> Match | None:
    """What a request matches, written as on the page."""
    method, path = request.split(" ")
    return policies.match(method, path)


def policy(**changes: str) -> PolicySet:
    """One policy with some values of its own."""
    values = {
        "name": "example",
        "match": "ANY /{rest:path}",
        "field": "account_id",
        "metric": "METRIC",
    } | changes
    lines = [f"{key} = '''{value}'''" for key, value in values.items()]
    source = 'identify = [{ from = "header", name = "x-account-id" }]'
    return policies_of("\n".join(["[[policy]]", source, *lines]))


def metered(  # every fact of an exchange that an example changes
    policies: PolicySet,
    request: str = "GET /",
    *,
    sent: str = "x-account-id: acct_42",
    answer: str | bytes = "{}",
    encoding: str = "",
    read: bool = True,
    cut: bool = False,
) -> UsageEvent:
    """What an exchange is recorded as. `sent` is a header or a JSON body."""
    method, target = request.split(" ")
    path, _, query = target.partition("?")
    name, _, value = ("" if sent.startswith("{") else sent).partition(": ")
    match = policies.match(method, path)
    assert match is not None
    scope: dict[str, Any] = {
        "method": method,
        "query_string": query.encode(),
        "headers": [(name.encode(), part.encode()) for part in value.split(", ") if part],
    }
    limits = Limits.of(Settings(decode_cpu_s_max=60))
    exchange = Exchange(match, scope, path, limits, started_at_s=0)
    if read:
        exchange.received({"type": "http.request", "body": sent.encode()})
    headers = [tuple(encoding.encode().split(b": "))] if encoding else []
    exchange.sends({"type": "http.response.start", "status": 200, "headers": headers})
    content = answer.encode() if isinstance(answer, str) else answer
    exchange.sends({"type": "http.response.body", "body": content, "more_body": cut})
    if cut:
        exchange.abandon()
    (event,) = evaluate(match, exchange, now=datetime.now(UTC), new_id=lambda: "1")
    return event


def test_every_policy_file_is_valid(toml: Any) -> None:
    """A user may copy any of them."""
    if "[[policy]]" in toml.text:
        assert parse_file(toml.text, str(toml)).problems == ()
        assert policies_of(toml.text).problems == ()


def test_the_mistake_that_is_shown_is_what_the_check_says(blocks: Any) -> None:
    """The example with one typo gives the message that the page has below it."""
    page = [block for block in blocks if block.page == "docs/policies.md"]
    example, shown = page[0], next(block for block in page if block.language == "text")
    broken = example.text.replace('"header"', '"hedaer"')
    assert parse_file(broken, "policies.toml").problems == (shown.text.rstrip("\n"),)


def test_the_keys_are_the_model_s(root: Any) -> None:
    """All of them, in order, with their defaults."""
    page = (root / "docs" / "policies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", page, re.MULTILINE)[
        : len(Policy.model_fields)
    ]
    expected = []
    for name, field in Policy.model_fields.items():
        default = field.default
        text = f'`"{default}"`' if isinstance(default, str) else f"`{default}`"
        required = field.is_required()
        expected.append((name, "required" if required else "absent" if default is None else text))
    assert rows == expected


def test_a_template_matches_as_the_table_says(template_row: list[str]) -> None:
    """Each request of the second column, none of the third."""
    (template,), yes, no = map(spans, template_row)
    policies = policy(match=template)
    assert [request for request in yes if matched(policies, request) is None] == []
    assert [request for request in no if matched(policies, request)] == []


def test_the_most_specific_template_counts(precedence_row: list[str], blocks: Any) -> None:
    """Once for each metric, as the table below the example says."""
    example = next(block.text for block in blocks if 'name     = "price-list"' in block.text)
    (request,), names = map(spans, precedence_row)
    match = matched(policies_of(example), request)
    assert match is not None
    assert sorted(compiled.policy.name for compiled in match.policies) == sorted(names)


def test_the_first_source_that_yields_wins(identity_row: list[str], blocks: Any) -> None:
    """A source without a value, or with two, is passed over."""
    example = next(block.text for block in blocks if 'name     = "reports"' in block.text)
    (request, *sent), (identity,) = map(spans, identity_row)
    event = metered(policies_of(example), request, sent="".join(sent))
    assert event.identity.value == identity


def test_a_quantity_counts_as_the_table_says(quantity_row: list[str]) -> None:
    """The number, exactly, or the inbox with exactly this reason."""
    (quantity,), answer, _ = map(spans, quantity_row)
    event = metered(policy(quantity=quantity), answer="".join(answer))
    if quantity_row[2].startswith("inbox"):
        assert (event.state, [event.reason]) == ("inbox", spans(quantity_row[2]))
    else:
        assert (event.state, str(event.quantity)) == ("counted", quantity_row[2])


READS = {"quantity": "response.body.usage.total_tokens"}
TO_THE_INBOX: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "no identity: header x-account-id is absent": ({}, {"sent": ""}),
    "no identity: header x-account-id occurs with different values": (
        {},
        {"sent": "x-account-id: a, b"},
    ),
    "response.body.usage.total_tokens is missing": (READS, {}),
    "response body: larger than body_bytes_max": (READS, {"answer": " " * (BODY_BYTES_MAX + 1)}),
    "response body: decodes to more than decoded_bytes_max": (
        READS,
        {
            "answer": gzip.compress(b" " * (DECODED_BYTES_MAX + 1)),
            "encoding": "content-encoding: gzip",
        },
    ),
    "response.body.usage.total_tokens is in no event of the stream": (
        READS,
        {"answer": "data: {}\n\n", "encoding": "content-type: text/event-stream"},
    ),
    "request body: the app did not read the request body": (
        {"quantity": "request.body.n"},
        {"read": False},
    ),
    "response body: the response is incomplete": (READS, {"cut": True}),
}
"""Reason -> the policy and the exchange that lead to it."""


@pytest.mark.parametrize("reason", TO_THE_INBOX)
def test_reasons_begin_as_the_inbox_table_says(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person finds in the inbox can be found on the page."""
    monkeypatch.setattr(decoding, "FEED_CPU_S_MAX", 60)  # the machine may be busy
    changes, exchange = TO_THE_INBOX[reason]
    event = metered(policy(**changes), **exchange)
    assert event.state == "inbox"
    assert str(event.reason).startswith(reason)


def test_the_inbox_table_has_these_reasons(inbox_table: list[list[str]]) -> None:
    """And one more, of the ledger, which only the server can find."""
    assert [spans(row[0])[0] for row in inbox_table] == [
        *TO_THE_INBOX,
        'metric "X" is not defined',
    ]


def test_head_goes_to_the_inbox_where_the_body_is_read() -> None:
    """As the page warns, with its remedy."""
    states = [
        metered(policies, "HEAD /", answer="").state
        for policies in (policy(**READS), policy(**READS, on_missing="skip"))
    ]
    assert states == ["inbox", "skipped"]


def test_a_cut_response_counts_a_constant() -> None:
    """Under both rules, but not under the third; all but `full` say that it was cut."""
    events = [metered(policy(on_abort=rule), cut=True) for rule in ("measured", "full", "none")]
    assert [event.state for event in events] == ["counted", "counted", "skipped"]
    assert [event.quantity for event in events] == [Decimal(1), Decimal(1), None]
    said = "aborted: the app ended without completing its response"
    assert [event.reason for event in events] == [said, None, said]
