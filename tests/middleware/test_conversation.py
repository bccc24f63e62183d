"""The sans-I/O WebSocket: what is counted, and what each part of it is recorded as."""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow._types import Message
from usageflow.events import UsageEvent
from usageflow.middleware.conversation import METHOD, Conversation
from usageflow.policies import Match, PolicySet, evaluate_part, parse_file

LIVE = """
[[policy]]
name = "{name}"
match = "{match}"
identify = [ {{ from = "header", name = "x-account" }} ]
field = "account_id"
metric = "M_{name}"
quantity = {quantity}
"""
NOW = datetime(2026, 11, 1, tzinfo=UTC)
SCOPE = {
    "type": "websocket",
    "path": "/live",
    "headers": [(b"x-account", b"acct_1")],
    "query_string": b"",
}
ACCEPT: Message = {"type": "websocket.accept"}


def policies(**quantities: str) -> PolicySet:
    """One policy on the route for each quantity, under its name."""
    text = "".join(
        LIVE.format(name=name, match="WEBSOCKET /live", quantity=quantity)
        for name, quantity in quantities.items()
    )
    parsed = parse_file(text, "t")
    assert parsed.problems == ()
    return PolicySet.build(parsed.policies)


def found(subject: PolicySet) -> Match:
    """The match of the route."""
    match = subject.match(METHOD, "/live")
    assert match is not None
    return match


class Talk:
    """A conversation with the recording that the middleware does."""

    def __init__(self, **quantities: str) -> None:
        self.match = found(policies(**quantities))
        self.facts = Conversation(self.match, SCOPE, "/live", started_at_s=0, providers={})
        self._ids = count()

    def part(self, *, last: bool = False) -> dict[str, tuple[str, Any]]:
        """State and quantity of each policy that leaves an event."""
        return {event.policy: (event.state, event.quantity) for event in self.events(last=last)}

    def events(self, *, last: bool = False) -> list[UsageEvent]:
        """The events of this part."""
        return evaluate_part(
            self.match,
            self.facts,
            last=last,
            now=NOW,
            new_id=lambda: str(next(self._ids)),
        )

    def sent(self, *texts: str) -> None:
        """Messages of the app."""
        for text in texts:
            self.facts.sends({"type": "websocket.send", "text": text})

    def received(self, *texts: str) -> None:
        """Messages of the client."""
        for text in texts:
            self.facts.received({"type": "websocket.receive", "text": text})


def test_a_connection_is_counted_once() -> None:
    """With its first part; whatever follows adds nothing."""
    talk = Talk(connections="1")
    talk.facts.sends(ACCEPT)
    assert talk.part() == {"connections": ("counted", Decimal(1))}
    talk.sent("a")
    assert talk.part() == {}
    assert talk.part(last=True) == {}


def test_counters_are_what_passed_since_the_part_before() -> None:
    """Together the parts are the whole; a part without traffic leaves nothing."""
    talk = Talk(
        messages='"websocket.messages"',
        ins='"websocket.messages_in"',
        outs='"websocket.messages_out"',
        size='"websocket.bytes"',
        bytes_in='"websocket.bytes_in"',
        bytes_out='"websocket.bytes_out"',
        seconds='"websocket.seconds"',
    )
    talk.facts.sends(ACCEPT)
    assert talk.part() == {}
    talk.received("äb", "c")
    talk.sent("defg")
    talk.facts.duration_ms = 1_500
    first = talk.part()
    assert {name: str(value) for name, (_, value) in first.items()} == {
        "messages": "3",
        "ins": "2",
        "outs": "1",
        "size": "8",
        "bytes_in": "4",
        "bytes_out": "4",
        "seconds": "1.500",
    }
    talk.received("h")
    talk.facts.duration_ms = 1_700
    second = talk.part(last=True)
    assert {name: str(value) for name, (_, value) in second.items()} == {
        "messages": "1",
        "ins": "1",
        "size": "1",
        "bytes_in": "1",
        "seconds": "0.200",
    }


def test_a_quiet_connection_leaves_a_zero() -> None:
    """Nothing passes without a row: 0 messages are 0, not missing."""
    talk = Talk(messages='"websocket.messages"')
    talk.facts.sends(ACCEPT)
    assert talk.part() == {}
    assert talk.part(last=True) == {"messages": ("counted", Decimal(0))}


def test_json_messages_are_summed() -> None:
    """Of the direction the expression names; what is not JSON has no value."""
    talk = Talk(out='"websocket.sent.usage.tokens"', into='"websocket.received.n"')
    talk.facts.sends(ACCEPT)
    talk.sent('{"usage": {"tokens": 2}}', "hello", '{"usage": {"tokens": 0.5}}', '{"n": 100}')
    talk.received('{"n": 7}', '{"usage": {"tokens": 100}}')
    assert talk.part() == {"out": ("counted", Decimal("2.5")), "into": ("counted", Decimal(7))}
    assert talk.part() == {}
    talk.sent('{"usage": {"tokens": 1}}')
    assert talk.part(last=True) == {"out": ("counted", Decimal(1))}


def test_messages_without_usage_need_a_person() -> None:
    """A whole connection without a value is not 0: the event says that none was found."""
    talk = Talk(out='"websocket.sent.usage.tokens"')
    talk.facts.sends(ACCEPT)
    talk.sent('{"done": true}')
    assert talk.part() == {}
    (event,) = talk.events(last=True)
    assert (event.state, event.quantity) == ("inbox", None)
    assert "websocket.sent.usage.tokens" in str(event.reason)


def test_a_value_that_is_no_number_goes_to_the_inbox() -> None:
    """The part says why; the next part is counted."""
    talk = Talk(out='"websocket.sent.tokens"')
    talk.facts.sends(ACCEPT)
    talk.sent('{"tokens": "many"}')
    assert talk.part() == {"out": ("inbox", None)}
    talk.sent('{"tokens": 3}')
    assert talk.part(last=True) == {"out": ("counted", Decimal(3))}


@pytest.mark.parametrize(
    "refusal",
    [
        [{"type": "websocket.close"}],
        [
            {"type": "websocket.http.response.start", "status": 401, "headers": iter([])},
            {"type": "websocket.http.response.body", "body": b"no"},
        ],
    ],
)
def test_a_refused_handshake_is_no_usage(refusal: list[Message]) -> None:
    """`when` asks the status of the handshake: 101 is success, a refusal is not."""
    talk = Talk(connections="1")
    for message in refusal:
        talk.facts.sends(message)
    assert talk.facts.ended
    assert talk.facts.status in (401, 403)
    assert talk.part(last=True) == {}


def test_events_name_the_route_and_the_handshake() -> None:
    """What a person reads in the ledger."""
    talk = Talk(connections="1")
    talk.facts.sends(ACCEPT)
    (event,) = talk.events()
    assert (event.request_method, event.request_route) == ("WEBSOCKET", "/live")
    assert (event.request_status, event.identity.value) == (101, "acct_1")


def test_binary_and_odd_messages_are_counted() -> None:
    """`bytes` and `text` may be absent or None; lone surrogates have a size too."""
    talk = Talk(size='"websocket.bytes"', messages='"websocket.messages"')
    talk.facts.sends(ACCEPT)
    talk.facts.received({"type": "websocket.receive", "bytes": b"\xff\x00", "text": None})
    talk.facts.received({"type": "websocket.receive", "bytes": None, "text": "\ud800"})
    talk.facts.sends({"type": "websocket.send"})
    assert talk.part() == {"size": ("counted", Decimal(3)), "messages": ("counted", Decimal(3))}


@pytest.mark.parametrize(
    ("quantity", "total"),
    [
        ("ceil(div(websocket.seconds, `60`))", 2),
        ("add(websocket.messages, `5`)", 14),
        ("floor(div(websocket.messages, `2`))", 4),
        ("div(websocket.bytes, websocket.messages)", 3),
    ],
)
def test_parts_of_any_expression_add_up_to_the_whole(quantity: str, total: int) -> None:
    """A part is what the quantity is by now, less what was recorded: rounding happens once."""
    talk = Talk(one=f'"{quantity}"')
    talk.facts.sends(ACCEPT)
    counted = Decimal()
    for number in range(9):
        talk.sent("abc")
        talk.facts.duration_ms = (number + 1) * 10_000
        part = talk.part(last=number == 8)
        counted += part["one"][1] if part else 0
    assert counted == total


def test_what_cannot_be_measured_is_told_once() -> None:
    """An expression that fails leaves one row at the end, not one at each tick."""
    talk = Talk(one='"div(`1`, websocket.messages_in)"')
    talk.facts.sends(ACCEPT)
    assert [talk.part() for _ in range(5)] == [{}] * 5
    (event,) = talk.events(last=True)
    assert (event.state, event.reason) == (
        "inbox",
        "div(`1`, websocket.messages_in): division by zero",
    )


def test_on_missing_counts_once() -> None:
    """However many parts had nothing to read."""
    talk = Talk(one='"websocket.sent.n"\non_missing = 100')
    talk.facts.sends(ACCEPT)
    seen = []
    for number in range(4):
        talk.sent('{"n": "many"}')
        seen.append(talk.part(last=number == 3))
    assert seen == [{"one": ("counted", Decimal(100))}, {}, {}, {}]


MESSAGES = st.sampled_from([b"", b"{", b'{"n": 1}', b'{"n": null}', b'{"n": 0.25}', b"[[1]]"])
STEPS = st.lists(st.tuples(st.sampled_from(["in", "out", "part"]), MESSAGES), max_size=30)


@given(STEPS)
def test_parts_add_up_whenever_they_are_cut(steps: Iterable[tuple[str, bytes]]) -> None:
    """However often usage is recorded, the sum is the same as if it were recorded once."""
    whole, cut = (Talk(n='"websocket.sent.n"', size='"websocket.bytes"') for _ in range(2))
    total: dict[str, Decimal] = {}

    def add(part: dict[str, tuple[str, Any]]) -> None:
        for name, (_, quantity) in part.items():
            total[name] = total.get(name, Decimal()) + (quantity or 0)

    for kind, data in steps:
        for talk in (whole, cut):
            if kind == "in":
                talk.facts.received({"type": "websocket.receive", "bytes": data})
            elif kind == "out":
                talk.facts.sends({"type": "websocket.send", "bytes": data})
        if kind == "part":
            cut.facts.status = 101
            add(cut.part())
    whole.facts.status = cut.facts.status = 101
    add(cut.part(last=True))
    once = {name: quantity or Decimal() for name, (_, quantity) in whole.part(last=True).items()}
    assert total == once
