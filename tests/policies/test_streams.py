"""Event streams: cut anywhere, read exactly, bounded whatever comes."""

import json
import re
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.facts import Facts
from usageflow.policies.quantity import compile_quantity
from usageflow.policies.reason import Reason
from usageflow.policies.routes import parse_template
from usageflow.policies.streams import (
    EVENT_LINES_MAX,
    LINES_PER_CHUNK_MAX,
    Splitter,
    Stream,
    open_splitter,
)
from usageflow.policies.tally import TOO_MUCH_AT_ONCE

SSE = b"text/event-stream"
NDJSON = b"application/x-ndjson"
SEQ = b"application/json-seq"
TOKENS = "response.body.usage.total_tokens"
EVENT_BYTES_MAX = 1_048_576
TOO_LARGE = Reason("an event of the stream is too large to be measured")
TOO_MUCH = Reason("more came at once than can be measured")
Mode: TypeAlias = Literal["last", "sum"]
MODES: tuple[Mode, Mode] = ("last", "sum")
NONE = Reason(f"{TOKENS} is in no event of the stream")


def split(
    chunks: Iterable[bytes], content_type: bytes = SSE, event_bytes_max: int = EVENT_BYTES_MAX
) -> tuple[list[bytes | None], Splitter]:
    """The events of a stream, and the splitter that has found them."""
    splitter = open_splitter(content_type, event_bytes_max)
    assert splitter is not None
    found: list[bytes | None] = []
    for chunk in chunks:
        found += splitter.events(splitter.complete(chunk))
    return found + splitter.events(splitter.rest()), splitter


def counted(
    facts: Facts,
    chunks: Iterable[bytes],
    quantity: str = TOKENS,
    content_type: bytes = SSE,
    *,
    mode: Mode = "last",
    event_bytes_max: int = EVENT_BYTES_MAX,
) -> Decimal | Reason:
    """What a stream in these chunks is worth."""
    begin = compile_quantity(quantity, parse_template("/v1/:id"), mode).tally
    assert begin is not None
    tally = begin(facts, ["", "v1", "7"])
    splitter = open_splitter(content_type, event_bytes_max)
    assert splitter is not None
    stream = Stream(splitter, [tally])
    for chunk in chunks:
        stream.feed(chunk)
    stream.end()
    return tally.result()


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` in chunks."""
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: 1\n\ndata: 2\n\n", [b"1", b"2"]),
        (b"data:1\r\n\r\ndata:2\r\r", [b"1", b"2"]),
        (b"data: 1\r\n\rdata: 2\n\r\n", [b"1", b"2"]),
        (b"data: 1\r\ndata: 2\r\n\r\n", [b"1\n2"]),
        (b"\xef\xbb\xbfdata: 1\n\n", [b"1"]),
        (b": ping\n\n: pong\ndata: 1\n: x\n\n", [b"1"]),
        (b"event: x\nid: 7\ndata: 1\nretry: 5\n\n", [b"1"]),
        (b"data: {\ndata:  1\ndata\ndata:}\n\n", [b"{\n 1\n\n}"]),
        (b"data\n\ndata:\n\n", []),
        (b"database: 1\n\ndat: 1\n\nDATA: 1\n\n data: 1\n\n", []),
        (b"\n\n\n\ndata: 1\n\n\n\n\n", [b"1"]),
        (b"data: 1\n\ndata: 2", [b"1", b"2"]),
        (b"data: 1\n\ndata: 2\n", [b"1", b"2"]),
        (b"", []),
        ("data: ü\n\n".encode(), ["ü".encode()]),
    ],
)
def test_server_sent_events_are_what_the_standard_says(stream: bytes, events: list[bytes]) -> None:
    """In one piece, byte by byte, and cut at every place, inside a CR LF or a letter too."""
    expected = [event for event in events if event]
    assert split([stream])[0] == expected
    assert split(stream[at : at + 1] for at in range(len(stream)))[0] == expected
    for at in range(len(stream)):
        assert split([stream[:at], b"", stream[at:]])[0] == expected


@pytest.mark.parametrize(
    ("content_type", "stream", "events"),
    [
        (NDJSON, b'{"a":1}\n{"a":2}\r\n\n3', [b'{"a":1}', b'{"a":2}\r', b"3"]),
        (b"application/jsonl; charset=utf-8", b"1\n2\n", [b"1", b"2"]),
        (b"application/x-jsonlines", b"1", [b"1"]),
        (b"Application/NDJSON", b"1\n", [b"1"]),
        (b"application/stream+json", b"1\n2", [b"1", b"2"]),
        (SEQ, b"\x1e1\n\x1e{\n}\n\x1e", [b"1\n", b"{\n}\n"]),
        (SEQ, b"\x1e1\n\x1e2", [b"1\n", b"2"]),
    ],
)
def test_json_in_sequence(content_type: bytes, stream: bytes, events: list[bytes]) -> None:
    """One value to a line, or to a record separator; the last one may lack its end."""
    assert split([stream], content_type)[0] == events
    assert split((stream[at : at + 1] for at in range(len(stream))), content_type)[0] == events


@pytest.mark.parametrize(
    "content_type", [b"", b"application/json", b"text/plain", b"text/event-stream2", b";"]
)
def test_other_bodies_are_no_streams(content_type: bytes) -> None:
    """They are measured as one document."""
    assert open_splitter(content_type, EVENT_BYTES_MAX) is None


@pytest.mark.parametrize(
    ("quantity", "events", "last", "total"),
    [
        (TOKENS, ["{}", '{"usage": {"total_tokens": 7}}', "[DONE]"], "7", "7"),
        (TOKENS, ['{"usage": {"total_tokens": 1}}'] * 3, "1", "3"),
        (TOKENS, ['{"usage": {"total_tokens": 1}}', '{"usage": null}'], "1", "1"),
        (TOKENS, ['{"usage": {"total_tokens": null}}', '{"usage": {"total_tokens": 2}}'], "2", "2"),
        (TOKENS, ['{"usage": {"\\u0074otal_tokens": 2}}'], "2", "2"),
        (TOKENS, ['{"usage": {"total_tokens": 0}}', "{}"], "0", "0"),
        (
            TOKENS,
            ['{"usage": {"total_tokens": 0.1}}', '{"usage": {"total_tokens": 0.2}}'],
            "0.2",
            "0.3",
        ),
        (TOKENS, ["{}"], NONE, NONE),
        (TOKENS, ["[DONE]", "total_tokens", '"total_tokens"', '{"total_tokens'], NONE, NONE),
        (
            TOKENS,
            ['{"usage": {"total_tokens": "5"}}', '{"usage": {"total_tokens": 5}}'],
            "5",
            Reason(f"{TOKENS} is text, not a number"),
        ),
        (
            "response.body.n",
            ['{"n": 1}', '{"n": -1}'],
            Reason("response.body.n: negative"),
            Reason("response.body.n: negative"),
        ),
        ("response.body", ["1", "2", "x", "null"], "2", "3"),
        (
            "add(response.body.u.in, response.body.u.out)",
            ["{}", '{"u": {"in": 1, "out": 2}}', '{"u": null}', "[DONE]"],
            "3",
            "3",
        ),
        (
            "add(response.body.u.in, response.body.u.out)",
            ['{"u": {"in": 1}}'],
            *[Reason("add(response.body.u.in, response.body.u.out): add() got null, not number")]
            * 2,
        ),
        ("response.body.n || `9`", ["{}", '{"n": 4}', "{}"], "4", "4"),
        ("response.body.n || `9`", ["{}", "{}"], "9", "9"),
        ("response.body.n || `9`", ['{"n": 4}', '{"m": {"n": 1}}', '{"n": null}'], "4", "4"),
        ("response.body.n || request.body.n", ["{}"], "8", "8"),
        ("mul(response.body.n, request.body.n)", ['{"n": 2}', '{"n": 3}'], "24", "40"),
        ("response.body.choices[0].n", ['{"choices": [{"n": 3}]}', '{"choices": []}'], "3", "3"),
        ("sum(response.body[].n)", ['[{"n": 1}, {"n": 2}]', "[]"], "0", "3"),
        ("mul(response.body.n, to_number(request.params.id))", ['{"n": 2}'], "14", "14"),
        (
            'response.body."naïve/name"',
            ['{"naïve/name": 1}', '{"na\\u00efve\\/name": 2}'],
            "2",
            "3",
        ),
    ],
)
def test_the_last_event_with_a_value_counts_or_their_sum(
    facts: Callable[..., Facts],
    quantity: str,
    events: list[str],
    last: str | Reason,
    total: str | Reason,
) -> None:
    """An event without the members that are asked for has no value; nothing is guessed."""
    seen = facts(request=b'{"n": 8}')
    streams = {
        SSE: "".join(f"data: {event}\n\n" for event in events),
        NDJSON: "\n".join(events),
        SEQ: "".join(f"\x1e{event}\n" for event in events),
    }
    for content_type, stream in streams.items():
        for mode, expected in zip(MODES, (last, total), strict=True):
            data = stream.encode()
            for chunks in ([data], cut(data, range(0, len(data), 5))):
                found = counted(seen, chunks, quantity, content_type, mode=mode)
                assert (found if isinstance(expected, Reason) else str(found)) == expected


def test_a_body_that_cannot_be_read_is_the_reason(facts: Callable[..., Facts]) -> None:
    """What an expression takes beside the stream must be there."""
    found = counted(facts(), [b'data: {"n": 1}\n\n'], "mul(response.body.n, request.body.n)")
    assert found == Reason("mul(response.body.n, request.body.n): request body is empty")
    found = counted(facts(), [b"data: {}\n\n"], "response.body.n || request.body.n")
    assert found == Reason("response.body.n || request.body.n is in no event of the stream")


def test_a_part_of_the_stream_counts_as_far_as_it_came(facts: Callable[..., Facts]) -> None:
    """What the app has said is said, with or without the empty line after it."""
    whole = b'data: {"usage": {"total_tokens": 5}}\n\ndata: {"usage": {"total_tokens": 9}}'
    assert counted(facts(), [whole]) == 9
    assert counted(facts(), [whole[:-1]]) == 5
    assert counted(facts(), [whole[:20]]) == NONE


@pytest.mark.parametrize("content_type", [SSE, NDJSON])
@pytest.mark.parametrize("name", [b"n", b"other"])
def test_an_event_that_is_too_large_is_passed_over(
    facts: Callable[..., Facts], name: bytes, content_type: bytes
) -> None:
    """Its value is unknown: the sum is none, and the last value only if it comes later."""
    ahead, after = (b"data: ", b"\n\n") if content_type == SSE else (b"", b"\n")
    value = ahead + b'{"n": 5}' + after
    large = ahead + b'{"%b": "%b"}' % (name, b"x" * 100) + after
    for first, second, last in ((value, large, TOO_LARGE), (large, value, Decimal(5))):
        data = first + second
        for chunks in (cut(data, range(len(data))), cut(data, [7, 30]), [data], [first, second]):
            for mode, expected in zip(MODES, (last, TOO_LARGE), strict=True):
                found = counted(
                    facts(),
                    chunks,
                    "response.body.n",
                    content_type,
                    mode=mode,
                    event_bytes_max=60,
                )
                assert found == expected
            events, splitter = split(chunks, content_type, 60)
            assert splitter.too_large == 1
            assert [event for event in events if event] == [b'{"n": 5}']


def reference(stream: bytes) -> list[bytes]:
    """The events of a stream, read whole and line by line as the standard tells it."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    events: list[bytes] = []
    data: list[bytes] = []
    for line in [*re.split(b"\r\n|\r|\n", stream), b""]:
        name, _, value = line.partition(b":")
        if not line:
            events.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return [event for event in events if event]


LINES = [b"data: 1", b"data:x", b"data", b"data:", b": c", b"id: 1", b"x", b" data: 1", b"\xc3\xbc"]


@given(
    st.lists(
        st.sampled_from([*LINES, b"", b"", b""]).flatmap(
            lambda line: st.sampled_from([line + end for end in (b"\n", b"\r\n", b"\r")])
        ),
        max_size=25,
    ).map(b"".join),
    st.lists(st.integers(0, 1_000), max_size=8),
)
def test_chunk_boundaries_change_nothing(stream: bytes, places: list[int]) -> None:
    """Any stream in any chunks is what it is in one piece, as the standard reads it."""
    assert split(cut(stream, places))[0] == reference(stream)


@given(
    st.lists(st.sampled_from([5, 19, 20, 21, 22, 60]), max_size=6),
    st.sampled_from([(SSE, b"\n\n"), (SSE, b"\r\n\r\n"), (NDJSON, b"\n")]),
    st.lists(st.integers(0, 1_000), max_size=8),
)
def test_what_is_too_large_does_not_depend_on_chunks(
    sizes: list[int], form: tuple[bytes, bytes], places: list[int]
) -> None:
    """The limit is the event's, wherever it is cut."""
    content_type, end = form
    stream = b"".join(b"data: " + b"x" * (size - 6) + end for size in sizes if size > 6)
    events, splitter = split(cut(stream, places), content_type, 20)
    assert splitter.too_large == sum(size > 20 for size in sizes)
    assert len([event for event in events if event]) == sum(6 < size <= 20 for size in sizes)


values = st.sampled_from(
    [
        "{}",
        "[DONE]",
        '{"n": 1}',
        '{"n": null}',
        '{"\\u006e": 2}',
        '{"n": "x"}',
        '{"m": "\\u00fc"}',
        '{"n": 0.5, "m": 1}',
        "n",
        '{"n": 3',
    ]
)


@given(st.lists(values, max_size=8), st.lists(st.integers(0, 1_000), max_size=8), st.booleans())
def test_skipping_what_has_no_value_changes_nothing(
    facts: Callable[..., Facts],
    events: list[str],
    places: list[int],
    summed: bool,  # noqa: FBT001 - drawn
) -> None:
    """A quantity that looks at every event finds the same as one that skips most of them."""
    data = "".join(f"data: {event}\n\n" for event in events).encode()
    mode: Mode = "sum" if summed else "last"
    fast = counted(facts(), cut(data, places), "response.body.n", mode=mode)
    slow = counted(facts(), cut(data, places), "response.body | n", mode=mode)
    if isinstance(slow, Decimal):
        assert fast == slow
    else:
        assert isinstance(fast, Reason)


CHUNK = 65_536
GENERAL = "sum([response.body.n, response.body.n])"


def filled(piece: bytes, size: int = CHUNK) -> bytes:
    """A chunk of nothing but this."""
    return (piece * (size // len(piece) + 1))[:size]


@pytest.mark.parametrize(
    ("quantity", "content_type", "chunks", "found"),
    [
        (TOKENS, SSE, [filled(b"\n")] * 4, NONE),
        (TOKENS, SSE, [filled(b"\r\n")] * 4, NONE),
        ("length(response.body)", SSE, [filled(b"\n"), b"data: [1]\n\n"], Decimal(1)),
        (TOKENS, SSE, [filled(b"data:\n")] * 16, TOO_LARGE),
        (TOKENS, SSE, [filled(b"data:\n\n")] * 4, NONE),
        (TOKENS, SSE, [filled(b'data:"total_tokens"\n\n')] * 4, NONE),
        (TOKENS, SSE, [filled(b'data:"total_tokens"\n')] * 4, TOO_LARGE),
        (TOKENS, SSE, [b'data:{"usage":{"total_tokens":1}}\n\n' * 1_900] * 4, Decimal(7_600)),
        (GENERAL, SSE, [filled(b'data:{"n":1}\n\n')] * 4, TOO_MUCH),
        ("length(response.body)", NDJSON, [filled(b"[]\n")] * 4, TOO_MUCH),
        ("response.body.n", NDJSON, [filled(b'{"n":1}\n', 16 * CHUNK)], TOO_MUCH),
        (
            "length(response.body)",
            NDJSON,
            [(b"[%b[]]\n" % filled(b"[[[]]],", 65_520)) * 16],
            TOO_MUCH,
        ),
        (TOKENS, SSE, [filled(b'data:"total_tokens"')] * 64, TOO_LARGE),
        (TOKENS, SSE, [filled(b"\\u0041")] * 4, NONE),
    ],
)
def test_hostile_chunks_are_measured_or_refused(
    facts: Callable[..., Facts],
    quantity: str,
    content_type: bytes,
    chunks: list[bytes],
    found: Decimal | Reason,
) -> None:
    """Empty lines are passed over; events that are too many or have no end are a reason."""
    assert counted(facts(), chunks, quantity, content_type, mode="sum") == found


def test_more_events_at_once_than_can_be_measured_say_so(facts: Callable[..., Facts]) -> None:
    """Part of them would be a wrong number; in several chunks all of them are counted."""
    row = b'{"n":1}\n'
    for quantity in ("response.body.n", "add(response.body.n, `1`)"):
        assert counted(facts(), [row * 20_000], quantity, NDJSON, mode="sum") == TOO_MUCH
        found = counted(facts(), [row * 200] * 100, quantity, NDJSON, mode="sum")
        assert found == (20_000 if quantity == "response.body.n" else 40_000)


def test_an_event_of_too_many_lines_is_too_large(facts: Callable[..., Facts]) -> None:
    """Line by line they would keep the processor busy."""
    event = b'data: {"n": 1\n' + b"data: \n" * EVENT_LINES_MAX + b"data: }\n\n"
    assert counted(facts(), [event], "response.body.n") == TOO_LARGE


def test_only_events_with_the_last_name_are_read(facts: Callable[..., Facts]) -> None:
    """A chat API that is asked for usage says `"usage": null` in every chunk."""
    begin = compile_quantity(TOKENS, parse_template("/")).tally
    assert begin is not None
    assert begin(facts(), [""]).needles == frozenset({b'"total_tokens"'})


def test_a_stream_is_never_kept(facts: Callable[..., Facts]) -> None:
    """One unfinished event is, up to its limit, in whatever chunks it comes."""
    tracemalloc.start()
    try:
        counted(facts(), (b'data:"total_tokens' for _ in range(200_000)), event_bytes_max=100_000)
        counted(facts(), (b"x" for _ in range(200_000)), event_bytes_max=100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_several_policies_share_a_stream(facts: Callable[..., Facts]) -> None:
    """Each finds its own number in it, and an event for one is no event for the other."""
    template = parse_template("/")
    quantities = [TOKENS, "response.body.cost", "length(response.body)"]
    tallies = []
    for quantity in quantities:
        begin = compile_quantity(quantity, template, "sum").tally
        assert begin is not None
        tallies.append(begin(facts(), [""]))
    for some in (tallies[:2], tallies):
        splitter = open_splitter(SSE, EVENT_BYTES_MAX)
        assert splitter is not None
        stream = Stream(splitter, some)
        for event in ({"cost": 0.5}, {}, {"usage": {"total_tokens": 3}}):
            stream.feed(b"data: %b\n\n" % json.dumps(event).encode())
        stream.end()
    assert [tally.result() for tally in tallies] == [6, 1, 2]


@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from([b'data: {"n": ', b"}\n\n", b"1", b"\r", b'"n"'])
    ),
    st.sampled_from([SSE, NDJSON, SEQ]),
    st.sampled_from(["response.body.n", "add(response.body.n, `1`)", "response.body | @"]),
)
def test_nothing_makes_a_stream_raise(
    facts: Callable[..., Facts], chunks: list[bytes], content_type: bytes, quantity: str
) -> None:
    """Any bytes in any chunks are a number or a reason."""
    for mode in MODES:
        found = counted(facts(), chunks, quantity, content_type, mode=mode, event_bytes_max=50)
        assert isinstance(found, Decimal | Reason)


@pytest.mark.parametrize("line", [b":\n\n", b"data:\n\n", b"1\n", b"\r", b"\x1e"])
@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/x-ndjson"])
def test_a_chunk_of_too_many_lines_is_not_cut(
    facts: Callable[..., Facts], line: bytes, kind: bytes
) -> None:
    """A small encoded chunk may decode to millions of them; it says so, and the next one counts."""
    template = parse_template("/v1/chat")
    tally = compile_quantity("response.body.n", template).tally
    assert tally is not None
    subject = tally(facts(), ["", "v1", "chat"])
    splitter = open_splitter(kind, 1_048_576)
    assert splitter is not None
    stream = Stream(splitter, [subject])
    stream.feed(line * (LINES_PER_CHUNK_MAX + 1))
    assert subject.result() == TOO_MUCH_AT_ONCE
    stream.feed(b'data: {"n": 1}\n\n' if b"event" in kind else b'{"n": 1}\n')
    assert subject.result() == Decimal(1)
