"""The option `include_usage`: the request asks for usage, the client does not see the answer."""

import json
import re
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow._types import Headers
from usageflow.middleware.include_usage import (
    EVENT_BYTES_MAX,
    PLACES_MAX,
    UsageFilter,
    filters,
    wants,
    with_length,
    with_usage,
    without_encodings,
    without_length,
)

USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
ROLE = {"id": "c1", "choices": [{"index": 0, "delta": {"role": "assistant"}}], "usage": None}
TOKEN = {"id": "c1", "choices": [{"index": 0, "delta": {"content": '"choices":[]'}}]}
LAST = {"id": "c1", "choices": [], "usage": USAGE}
OTHERS = [
    {"id": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
    {"id": "c1", "choices": [], "usage": None},
    {"id": "c1", "choices": None, "usage": USAGE},
    {"id": "c1", "choices": [{"index": 0}], "usage": USAGE},
    {"id": "c1", "usage": USAGE},
    {"usage": USAGE, "nested": {"choices": []}},
    [{"choices": [], "usage": USAGE}],
]


def event(document: Any, end: str = "\n\n") -> bytes:
    """An event with this JSON."""
    return f"data: {json.dumps(document)}{end}".encode()


DONE = b"data: [DONE]\n\n"


def filtered(*chunks: bytes) -> bytes:
    """All that the client gets for these chunks."""
    usage_filter = UsageFilter()
    return b"".join(map(usage_filter.feed, chunks)) + usage_filter.end()


def json_headers(content_type: bytes = b"application/json", *more: tuple[bytes, bytes]) -> Headers:
    """Headers with this Content-Type."""
    return [(b"content-type", content_type), *more]


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (json_headers(), True),
        (json_headers(b"Application/JSON; charset=utf-8"), True),
        (json_headers(b"application/vnd.api+json"), True),
        (json_headers(b"application/json", (b"content-encoding", b"identity")), True),
        (json_headers(b"application/json", (b"content-encoding", b"gzip")), False),
        (json_headers(b"application/json; charset=utf-16"), False),
        (json_headers(b"text/plain"), False),
        ([], False),
    ],
)
def test_requests_of_plain_json_may_ask(headers: Headers, wanted: bool) -> None:  # noqa: FBT001
    """Other bodies could not be edited."""
    assert wants(headers) is wanted


@pytest.mark.parametrize(
    ("headers", "filtered"),
    [
        (json_headers(b"text/event-stream; charset=utf-8"), True),
        (json_headers(b"text/event-stream", (b"Content-Encoding", b"br")), False),
        (json_headers(), False),
        ([], False),
    ],
)
def test_plain_event_streams_are_filtered(headers: Headers, filtered: bool) -> None:  # noqa: FBT001
    """An error, or a stream that is encoded all the same, passes as it is."""
    assert filters(headers) is filtered


@pytest.mark.parametrize(
    "edited",
    [
        '{<"stream_options":{ADDED},>"stream":true}',
        ' \n{<"stream_options":{ADDED},> "n":1.0, "n": 1e2, "stream" :true, "ä":"\\u00e4"}',
        '{<"stream_options":{ADDED},>"t": "\\"stream_options\\": {}", "stream": true}',
        '{<"stream_options":{ADDED},>"stre\\u0061m": true}',
        '{"stream_options" : {<ADDED>}, "stream": true}',
        '{"stream_options": {<ADDED> }, "stream": true}',
        '{"stream_options": {<ADDED,>"x": [1]}, "stream": true}',
        '{"m": {"stream_options": {}}, "stream_options": {<ADDED>}, "stream": true}',
        '{"stream_options": [null]<{ADDED}>, "stream": true}',
        '{"m": {"stream_options": {}}, "stream_options":[null]<{ADDED}>, "stream":true}',
    ],
)
def test_the_option_is_written_into_the_text(edited: str) -> None:
    """Where `<...>` is, or instead of `[...]`; all else stays as the client wrote it."""
    edited = edited.replace("ADDED", '"include_usage":true')
    body = re.sub(r"\[(null)\]|<.*?>", r"\1", edited)
    changed = re.sub(r"\[null\]|[<>]", "", edited)
    assert with_usage(body.encode()) == changed.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"stream": false}',
        b'{"stream": 1}',
        b'{"stream": "true"}',
        b'{"stream": true, "stream": false}',
        b'{"stream": true, "stream_options": []}',
        b'{"stream": true, "stream_options": {"include_usage": true}}',
        b'{"stream": true, "stream_options": {"include_usage": false}}',
        b'{"stream": true, "stream_options": {"include_usage": null}}',
        b'{"stream": true, "stream\\u005foptions": {}}',
        b'{"stream": true, "user": "\xff"',
        b'{"stream": true, "m": ' + b"[" * 100_000,
        b'{"stream": true, "m": [%b {}], "stream_options": {}}'
        % (b'{"stream_options": {}},' * PLACES_MAX),
    ],
)
def test_other_requests_are_left_as_they_are(body: bytes) -> None:
    """No stream, an answer of the client's own, or nothing that can be read with certainty."""
    assert with_usage(body) is None


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("stream_options"), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(), JSONS, max_size=4),
    st.sampled_from([{}, {"stream_options": None}, {"stream_options": {"x": {}}}]),
    st.sampled_from([None, 1]),
)
def test_only_the_option_is_added(
    rest: dict[str, Any], options: dict[str, Any], indent: int | None
) -> None:
    """Whatever else a request holds, the changed one means the same with the option."""
    request = rest | {"stream": True} | options
    changed = with_usage(json.dumps(request, indent=indent).encode())
    if json.dumps(rest).count('"stream_options"') < PLACES_MAX:
        assert changed is not None
        added = (request.get("stream_options") or {}) | {"include_usage": True}
        assert json.loads(changed) == request | {"stream_options": added}


def test_headers_follow_the_body() -> None:
    """The length is the new one or unknown, and the response is asked for without encoding."""
    headers = [(b"Content-Length", b"15"), (b"accept-encoding", b"gzip, br"), (b"x", b"y")]
    assert with_length(headers, 54) == [(b"Content-Length", b"54"), *headers[1:]]
    assert without_length(headers) == headers[1:]
    assert without_encodings(headers) == [
        (b"Content-Length", b"15"),
        (b"x", b"y"),
        (b"accept-encoding", b"identity"),
    ]


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_the_event_with_the_usage_is_left_out(end: str) -> None:
    """Just that one, with each of the three line ends, wherever chunks are cut."""
    head = event(ROLE, end) + event(TOKEN, end)
    done = b"data: [DONE]" + end.encode()
    stream = head + event(LAST, end) + done
    assert filtered(stream) == head + done
    for cut in range(len(stream)):
        assert filtered(stream[:cut], stream[cut:]) == head + done
    assert filtered(*(bytes([byte]) for byte in stream)) == head + done


def test_a_line_end_of_the_next_event_stays() -> None:
    """Only a line feed that follows at once belongs to a carriage return."""
    assert filtered(event(LAST, "\r\r") + b"data: x", b"\n\n") == b"data: x\n\n"
    assert filtered(event(LAST, "\r\r"), b"", b"\n", b"\n") == b"\n"


@pytest.mark.parametrize(
    "usage",
    [
        b'data:{"choices":[],"usage":{}}\n\n',
        b'id: 7\nevent: x\n: note\ndata: {"usage": 1, "choices" : [ ] }\nretry: 1\n\n',
        b'data: {"usage":{"n":1},\ndata: "choices":[]}\n\n',
        b'data: {"choices":[],"usage":{}}',
        b'data: {"choices":[],"usage":{}}\r\n',
    ],
)
def test_the_event_may_be_written_otherwise(usage: bytes) -> None:
    """With other fields, over several lines, or without its end at the end of the stream."""
    assert filtered(event(ROLE) + usage) == event(ROLE)


@pytest.mark.parametrize("document", OTHERS)
def test_other_events_pass(document: Any) -> None:
    """Events that have no choices or that have usage, but not both."""
    stream = event(ROLE) + event(document) + DONE
    assert filtered(stream) == stream
    assert filtered(*(bytes([byte]) for byte in stream)) == stream


def test_an_event_beyond_the_bound_passes() -> None:
    """What is held back is bounded, and an event that is larger is not the one."""
    large = event({"choices": [], "usage": USAGE, "pad": "." * EVENT_BYTES_MAX})
    usage_filter = UsageFilter()
    held = 0
    for byte in large:
        usage_filter.feed(bytes([byte]))
        held = max(held, len(usage_filter._held))
    assert held <= EVENT_BYTES_MAX
    assert filtered(large) == large
    assert filtered(large[:50], large[50:]) == large


@pytest.mark.parametrize(
    ("beginning", "passes"),
    [
        (b'data: {"id":"c1","choices":[{', True),
        (b"data: [D", True),
        (b"data: x", True),
        (b"\n\n\n", True),
        (b'data: {"id":"c1","choices":[', False),
        (b'data: {"id":"c1"', False),
        (b"data", False),
        (b"event: x\n", False),
    ],
)
def test_what_cannot_become_the_usage_passes_at_once(
    beginning: bytes,
    passes: bool,  # noqa: FBT001
) -> None:
    """A token must not wait for the end of its event, and only a beginning in doubt waits."""
    usage_filter = UsageFilter()
    assert usage_filter.feed(event(ROLE)) == event(ROLE)
    assert usage_filter.feed(beginning) == (beginning if passes else b"")
    assert usage_filter.end() == (b"" if passes else beginning)


def test_an_event_that_passes_passes_to_its_end() -> None:
    """What looks like the usage in the middle of another event stays, the next event does not."""
    first, second = b'data: {"choices":[{\n', b'data: {"choices":[],"usage":{}}\n\n'
    usage_filter = UsageFilter()
    assert usage_filter.feed(first) == first
    assert usage_filter.feed(second[:-1]) == second[:-1]
    assert usage_filter.feed(b"\n" + second + DONE) == b"\n" + DONE


PIECES = st.sampled_from(
    [
        *(event(document, end) for document in (ROLE, TOKEN, LAST) for end in ("\n\n", "\r\n\r\n")),
        *map(event, OTHERS),
        event(LAST, "\r\r"),
        event(LAST, ""),
        DONE,
        b": comment\n\n",
        b'data: {"choices":[{',
        b'data: {"choices":[],',
        b'"usage":{}}',
        b"data: x",
        b"event: x",
        b"\xef\xbb\xbf",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
    ]
)
STREAMS = st.lists(PIECES).map(b"".join)


@given(STREAMS, st.data())
def test_the_output_does_not_depend_on_the_chunks(stream: bytes, data: st.DataObject) -> None:
    """Any stream, in any chunks, gives the same bytes; none are made up."""
    cuts = data.draw(st.lists(st.integers(0, len(stream))).map(sorted))
    chunks = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    assert filtered(*chunks) == filtered(stream)


@given(st.lists(st.sampled_from([*map(event, [ROLE, TOKEN, *OTHERS]), DONE, b": ping\n\n", b"\n"])))
def test_a_stream_without_the_event_is_not_changed(events: list[bytes]) -> None:
    """Byte for byte; and with it, exactly this event is missing."""
    stream = b"".join(events)
    assert filtered(stream) == stream
    for at in range(len(events) + 1):
        assert filtered(*events[:at], event(LAST), *events[at:]) == stream


@given(st.binary() | st.lists(PIECES | st.binary(max_size=4)).map(b"".join))
def test_nothing_raises_and_nothing_is_added(stream: bytes) -> None:
    """Any bytes pass through both directions."""
    assert len(filtered(stream)) <= len(stream)
    changed = with_usage(stream)
    assert changed is None or msgspec.json.decode(changed)["stream"] is True
