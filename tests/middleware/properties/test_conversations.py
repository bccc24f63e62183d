"""Random WebSockets, legal or not: nothing changes but that usage is recorded, and adds up."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow._types import Message

Step = tuple[str, Any]


messages_in = st.sampled_from(
    [
        {"type": "websocket.receive", "text": '{"n": 2}'},
        {"type": "websocket.receive", "bytes": b'{"n": 0.5}', "text": None},
        {"type": "websocket.receive", "text": "\ud800", "bytes": None},
        {"type": "websocket.receive", "bytes": b"\xff" * 50},
        {"type": "websocket.receive", "text": '{"n": "x"}'},
        {"type": "websocket.receive"},
    ]
)
messages_out = st.sampled_from(
    [
        {"type": "websocket.send", "text": '{"n": 3}'},
        {"type": "websocket.send", "bytes": b"[" * 2_000},
        {"type": "websocket.send", "text": '{"n": -1}'},
        {"type": "websocket.send", "bytes": None, "text": ""},
    ]
)
CLOSES: list[list[dict[str, Any]]] = [
    [{"type": "websocket.close", "code": 4000}],
    [{"type": "websocket.close"}, {"type": "websocket.close"}],
    [],
]
REFUSALS: list[list[dict[str, Any]]] = [
    [
        {"type": "websocket.http.response.start", "status": 402, "headers": (iter, [])},
        {"type": "websocket.http.response.body", "body": b"pay", "more_body": True},
        {"type": "websocket.http.response.body"},
    ],
    [{"type": "websocket.http.response.body"}],
]


@st.composite
def talks(draw: st.DrawFn) -> list[Step]:
    """What an app does with a WebSocket, in order or not."""
    accept = {"type": "websocket.accept", "headers": (iter, [(b"a", b"b")])}
    steps: list[Step] = [("receive", None)] * draw(st.integers(0, 2))
    steps += [("send", accept)] * draw(st.booleans())
    steps += draw(
        st.lists(
            st.tuples(st.just("send"), messages_out) | st.sampled_from([("receive", None)]),
            max_size=12,
        )
    )
    ends = draw(st.sampled_from(CLOSES + REFUSALS))
    steps += [("send", message) for message in ends]
    cut = draw(st.just(len(steps)) | st.integers(0, len(steps)))
    return steps[:cut] + draw(st.sampled_from([[], [], [("raise", None)], [("cancelled", None)]]))


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    incoming=st.lists(messages_in, max_size=8),
    script=talks(),
    breaks_at=st.none() | st.integers(0, 4),
)
def test_any_conversation_under_every_kind_of_policy(
    theatre: Any,
    data: st.DataObject,
    incoming: list[Message],
    script: list[Step],
    breaks_at: int | None,
) -> None:
    """It passes untouched, one connection is one, and the parts add up to what passed."""
    template = data.draw(theatre.scopes("websocket"))
    connect: Message = {"type": "websocket.connect"}
    alone, with_it, ledger = theatre.both(
        template, [connect, *incoming], script, "sockets", breaks_at=breaks_at
    )
    theatre.assert_untouched(alone, with_it)
    theatre.assert_told(ledger.events)
    total: Counter[str] = Counter()
    for event in ledger.events:
        total[event.policy] += int(event.quantity or 0)
    got, sent = passed(with_it.app)
    assert (total["into"], total["out"]) == (len(got), len(sent))
    assert total["size"] == sum(map(size, got + sent))
    assert total["connections"] == 1
    told = Counter(event.policy for event in ledger.events)
    assert told["connections"] == 1
    assert told.keys() - {"accepted"} == theatre.count_sockets


def passed(app: Any) -> tuple[list[Message], list[Message]]:
    """The messages in and out before the conversation had ended."""
    got, sent = iter(app.got), iter(app.sent)
    found: tuple[list[Message], list[Message]] = ([], [])
    for kind, _ in app.script:
        message = next(got if kind == "receive" else sent, None)
        if message is None or message["type"] in ("websocket.disconnect", "websocket.close"):
            break
        if message["type"] in ("websocket.receive", "websocket.send"):
            found[kind == "send"].append(message)
        if message["type"].endswith("response.body") and not message.get("more_body"):
            break
    return found


def size(message: Message) -> int:
    """Bytes of a message's content."""
    data = message.get("bytes")
    return len(data if data is not None else (message.get("text") or "").encode(errors="replace"))


def test_a_conversation_that_has_ended_stays_ended(theatre: Any) -> None:
    """What an app sends to a client that has left reaches nobody and is not counted."""
    template = {"type": "websocket", "path": "/metered/1", "headers": list}
    message = {"type": "websocket.send", "text": "{}"}
    going_on = {"type": "websocket.http.response.body", "more_body": True}
    script: list[Step] = [
        ("send", {"type": "websocket.accept"}),
        ("receive", None),
        *[("send", message)] * theatre.small.part_messages,
        ("send", going_on),
    ]
    _, _, ledger = theatre.both(template, [], script, "sockets")
    quantities = {event.policy: event.quantity for event in ledger.events}
    assert quantities["out"] == 0
