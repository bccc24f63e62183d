"""Random requests and answers, legal or not: nothing changes but that usage is recorded, once."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from functools import cache, partial
from itertools import accumulate, count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow._types import Message
from usageflow.middleware.exchange import Exchange
from usageflow.middleware.limits import Limits
from usageflow.policies import evaluate

Step = tuple[str, Any]


@st.composite
def uploads(draw: st.DrawFn, theatre: Any) -> list[Message]:
    """What the server gives the app."""
    chunks, _ = draw(theatre.bodies())
    more = draw(st.sampled_from([True, True, True, False]))
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    if not more:
        messages.append({"type": "http.request"})
    elif draw(st.booleans()):
        messages[-1] = {"type": "http.request", "body": chunks[-1], "more_body": False}
    at = draw(st.integers(0, len(messages)))
    return draw(
        st.sampled_from([messages, [*messages[:at], {"type": "http.disconnect"}, *messages[at:]]])
    )


@st.composite
def orderly(draw: st.DrawFn, theatre: Any) -> list[Step]:
    """What a good app does, up to some point."""
    chunks, headers = draw(theatre.bodies())
    shape = draw(st.sampled_from([list, tuple, iter]))
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 304, 404, 500]))
    begin = {"type": "http.response.start", "status": status, "headers": (shape, headers)}
    sends: list[Step] = [("send", begin)]
    sends += [
        ("send", {"type": "http.response.body", "body": chunk, "more_body": True})
        for chunk in chunks
    ]
    if draw(st.booleans()):
        sends[-1] = ("send", {**sends[-1][1], "more_body": False})
    else:
        sends.append(("send", {"type": "http.response.body"}))
    if draw(st.integers(0, 5)) == 0:
        begin["trailers"] = True
        sends.append(("send", {"type": "http.response.trailers"}))
    steps: list[Step] = [("receive", None)] * draw(st.integers(0, 6)) + sends
    cut = draw(st.just(len(steps)) | st.integers(0, len(steps)))
    return steps[:cut] + draw(st.sampled_from([[], [], [("raise", None)], [("cancelled", None)]]))


KINDS = [
    "http.response.start",
    "http.response.body",
    "http.response.body",
    "http.response.trailers",
    "http.response.pathsend",
    "http.response.zerocopysend",
    "http.response.push",
    "http.response.debug",
    "made.up",
]


@cache
def chaos(theatre: Any) -> st.SearchStrategy[list[Step]]:
    """What no app should do."""
    headers = theatre.bodies().map(lambda drawn: drawn[1]) | st.just([])
    message = st.fixed_dictionaries(
        {
            "type": st.sampled_from(KINDS),
            "status": st.sampled_from([200, 101, 204, 304, 404, 999]),
        },
        optional={
            "headers": st.tuples(st.sampled_from([list, tuple, iter]), headers),
            "body": theatre.contents,
            "more_body": st.booleans(),
            "trailers": st.booleans(),
            "more_trailers": st.booleans(),
            "path": st.just("/tmp/x"),
        },
    )
    others = [("receive", None), ("yield", None), ("raise", None), ("cancelled", None)]
    return st.lists(st.tuples(st.just("send"), message) | st.sampled_from(others), max_size=10)


class Drawn:
    """A request, what the server gives the app for it, and what the app does."""

    def __init__(self, theatre: Any, data: st.DataObject, *, in_order: bool = False) -> None:
        scripts = orderly(theatre)
        self.template = data.draw(theatre.scopes(), "scope")
        self.incoming = data.draw(uploads(theatre), "incoming")
        self.script = data.draw(scripts if in_order else scripts | chaos(theatre), "script")
        self.both = partial(theatre.both, self.template, self.incoming, self.script)


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(), slow=st.booleans(), breaks_at=st.none() | st.integers(0, 3), small=st.booleans()
)
def test_any_exchange_under_every_kind_of_policy(
    theatre: Any, data: st.DataObject, *, slow: bool, breaks_at: int | None, small: bool
) -> None:
    """It passes untouched, and leaves exactly one event for each policy that counts requests."""
    limits = theatre.small if small else theatre.usual
    alone, with_it, ledger = Drawn(theatre, data).both(
        "all", slow=slow, breaks_at=breaks_at, limits=limits
    )
    theatre.assert_untouched(alone, with_it)
    assert (ledger.calls, ledger.early) == (1, 0)
    left = Counter(event.policy for event in ledger.events)
    assert max(left.values()) == 1
    assert left.keys() >= theatre.count_all
    theatre.assert_told(ledger.events)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), name=st.sampled_from(["calls", "closed"]), slow=st.booleans())
def test_a_policy_that_needs_no_body_counts_the_same(
    theatre: Any, data: st.DataObject, *, name: str, slow: bool
) -> None:
    """One event for one request, also where nothing of it is kept."""
    alone, with_it, ledger = Drawn(theatre, data).both(name, slow=slow)
    theatre.assert_untouched(alone, with_it)
    assert (ledger.calls, ledger.early) == (1, 0)
    (event,) = ledger.events
    if name == "calls":
        assert event.quantity == 1
    else:  # what the app read after its answer was complete is not in it
        assert event.quantity in list(accumulate(lengths(with_it.app.got), initial=0))
    theatre.assert_told([event])


def lengths(messages: list[Message]) -> list[int]:
    """How much of a body each message has."""
    return [len(message.get("body", b"")) for message in messages]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), small=st.booleans())
def test_asking_for_usage_changes_what_it_says_and_nothing_else(
    theatre: Any, data: st.DataObject, *, small: bool
) -> None:
    """Requests that ask for no stream, and what answers them, pass as they are."""
    limits = theatre.small if small else theatre.usual
    alone, with_it, ledger = Drawn(theatre, data, in_order=True).both("asked", limits=limits)
    assert type(with_it.error) is type(alone.error)
    assert len(ledger.events) == 1
    theatre.assert_told(ledger.events)
    if with_it.app.headers == alone.app.headers:
        assert with_it.app.got == alone.app.got
        assert with_it.peer.said() == alone.peer.said()
    else:
        assert b"stream" in b"".join(message.get("body", b"") for message in with_it.app.got)
        assert sum(lengths(with_it.peer.outgoing)) <= sum(lengths(alone.peer.outgoing))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_an_exchange_keeps_little_and_completes_once(theatre: Any, data: st.DataObject) -> None:
    """Whatever passes, in whatever order: bounded memory, one completion, and facts to evaluate."""
    drawn, bounds = Drawn(theatre, data), theatre.small
    scope = theatre.given_scope(drawn.template)
    scope["headers"] = list(scope["headers"])
    match = theatre.policies("all").match("POST", scope["path"], scope["headers"])
    subject = Exchange(match, scope, scope["path"], Limits.of(bounds), started_at_s=1_800_000_000)
    completed = 0
    for message in drawn.incoming:
        subject.received(message)
    for kind, what in drawn.script:
        if kind == "send":
            completed += subject.sends(theatre.made(what))
        elif kind != "yield":
            subject.received({"type": "http.disconnect"})
        for body in (subject.request_body, subject.response_body):
            bound = bounds.decoded_bytes_max if body._decoder else bounds.body_bytes_max
            assert sum(map(len, body._chunks)) <= bound
            held = getattr(getattr(body._stream, "_splitter", None), "_held", b"")
            assert len(held) <= bounds.stream_event_bytes_max + 2
    assert completed == subject.complete
    if not subject.complete:
        subject.abandon()
    ids = count()
    events = evaluate(match, subject, now=datetime.now(UTC), new_id=lambda: str(next(ids)))
    assert {event.policy for event in events} >= theatre.count_all
    theatre.assert_told(events)


def test_who_is_cancelled_while_the_disk_writes_is_counted_once(theatre: Any) -> None:
    """The client does not get the end, the usage is there, and the cancellation passes."""
    template = {"type": "http", "method": "GET", "path": "/metered/1", "headers": list}
    script: list[Step] = [
        ("send", {"type": "http.response.start", "status": 200, "headers": (list, [])}),
        ("send", {"type": "http.response.body", "body": b"{}"}),
    ]

    async def play() -> None:
        run, ledger, app = theatre.staged("all", [], script, slow=True)
        peer = run.peer
        serving = asyncio.ensure_future(app(theatre.given_scope(template), peer.receive, peer.send))
        while not ledger.calls:  # noqa: ASYNC110 - it is the loop's own work
            await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert ledger.calls == 1
        assert [message["type"] for message in peer.outgoing] == ["http.response.start"]

    asyncio.run(play())
