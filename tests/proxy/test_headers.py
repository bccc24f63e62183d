"""Header rules: values in, values out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.proxy.headers import (
    FORWARDED,
    HOP_BY_HOP,
    answer_bytes,
    answer_fields,
    asks_websocket,
    connection_fields,
    expects_continue,
    persists,
    request_bytes,
    request_fields,
    seen_fields,
    tokens,
    values,
    wants_trailers,
)
from usageflow.proxy.heads import Fields, RequestHead, ResponseHead, parse_request, parse_response

HOST = (b"Host", b"api.example.com")
NAMES = st.sampled_from([b"X-A", b"x-b", b"Cookie", b"Accept", b"X-C-D", b"Via"])


def asked(*fields: tuple[bytes, bytes], line: bytes = b"GET / HTTP/1.1") -> RequestHead:
    """A request with these fields, after its Host."""
    lines = [line, *(b"%b: %b" % field for field in (HOST, *fields)), b"", b""]
    head = parse_request(b"\r\n".join(lines), line_bytes_max=1_000, fields_max=100)
    assert isinstance(head, RequestHead), head
    return head


def answer(*fields: tuple[bytes, bytes], status: int = 200) -> ResponseHead:
    """An answer with these fields."""
    lines = [b"HTTP/1.1 %d OK" % status, *(b"%b: %b" % field for field in fields), b"", b""]
    head = parse_response(b"\r\n".join(lines))
    assert isinstance(head, ResponseHead), head
    return head


@given(st.lists(st.tuples(NAMES, st.sampled_from([b"", b"1", b"a, b", b"\xff"])), max_size=8))
def test_what_is_not_about_the_connection_crosses_untouched(fields: Fields) -> None:
    """Order, duplicates, names as written and values, both ways."""
    assert request_fields(asked(*fields), trusted=False) == [HOST, *fields]
    assert answer_fields(answer(*fields)) == (fields, [(n.lower(), v) for n, v in fields])


@pytest.mark.parametrize(
    "name",
    sorted(
        (HOP_BY_HOP - {b"transfer-encoding"})
        | FORWARDED
        | {b"usageflow-hop", b"Usageflow_Hop", b"X-Named"}
    ),
)
def test_fields_that_stay_on_the_clients_side(name: bytes) -> None:
    """Those of one connection, those that say who called, an edge's own, and what is named."""
    fields = [(name, b"x"), (b"Connection", b"x-named, close"), (b"X-A", b"1")]
    assert request_fields(asked(*fields), trusted=False) == [HOST, (b"X-A", b"1")]


@pytest.mark.parametrize("name", [b"X-Forwarded-Port", b"X-Real-IP", b"X-Original-URL"])
def test_hearsay_is_passed_on_from_trusted_peers_alone(name: bytes) -> None:
    """What frameworks believe of whoever sends it."""
    head = asked((name, b"x"), (b"X-A", b"1"))
    assert request_fields(head, trusted=True) == [HOST, (name, b"x"), (b"X-A", b"1")]
    assert request_fields(head, trusted=False) == [HOST, (b"X-A", b"1")]


def test_policies_see_what_the_upstream_sees() -> None:
    """Neither what is named in Connection nor what a client says of itself; but an edge's word."""
    fields = [
        (b"Connection", b"X-Account"),
        (b"X-Account", b"acme"),
        (b"X-Forwarded-For", b"9.9.9.9"),
        (b"Usageflow-Hop", b"1"),
        (b"X-B", b"2"),
    ]
    told = [(b"x-forwarded-for", b"127.0.0.1")]
    seen = [(b"host", HOST[1]), (b"usageflow-hop", b"1"), (b"x-b", b"2"), *told]
    assert seen_fields(asked(*fields), told, trusted=False) == seen
    assert seen_fields(asked((b"X-B", b"2")), [], trusted=True) == [
        (b"host", HOST[1]),
        (b"x-b", b"2"),
    ]


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Expect"])
def test_what_a_client_may_not_remove(name: bytes) -> None:
    """Naming the host or the length in Connection does not take them away."""
    fields = [(b"Content-Length", b"0"), (b"Expect", b"100-continue"), (b"Connection", name)]
    assert request_fields(asked(*fields), trusted=False) == [HOST, *fields[:2]]


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"transfer-encoding"}))
def test_fields_that_stay_on_the_upstreams_side(name: bytes) -> None:
    """The connection to the upstream is its own affair, and so is what it names."""
    fields = [(name, b"x-named"), (b"Connection", b"X-Named"), (b"X-Named", b"1"), (b"Via", b"2")]
    assert answer_fields(answer(*fields)) == ([(b"Via", b"2")], [(b"via", b"2")])


def test_lengths_of_answers() -> None:
    """A 304 keeps the length of what it stands for; a 204 must not have one."""
    length = (b"Content-Length", b"9")
    assert answer_fields(answer(length, status=304))[0] == [length]
    assert answer_fields(answer(length, (b"Connection", b"content-length")))[0] == [length]
    assert answer_fields(answer(length, status=204)) == ([], [])


def test_the_request_as_it_is_sent() -> None:
    """The target byte for byte, then the fields, then what is added."""
    head = asked((b"X-A", b"1"), line=b"GET //a/../%2F?%zz HTTP/1.0")
    data = request_bytes(head, request_fields(head, trusted=False), [(b"X-B", b"2")], host=None)
    assert data == (
        b"GET //a/../%2F?%zz HTTP/1.1\r\nHost: api.example.com\r\nX-A: 1\r\nX-B: 2\r\n\r\n"
    )


def test_another_host() -> None:
    """It takes the place of the client's, or comes first."""
    head = asked((b"X-A", b"1"))
    data = request_bytes(head, [(b"X-A", b"1"), HOST], [], host=b"other")
    assert data == b"GET / HTTP/1.1\r\nX-A: 1\r\nHost: other\r\n\r\n"
    assert request_bytes(head, [], [], host=b"other") == b"GET / HTTP/1.1\r\nHost: other\r\n\r\n"


def test_a_chunked_body_is_announced() -> None:
    """The client's own words about it were about its connection."""
    head = asked((b"Transfer-Encoding", b"chunked"))
    data = request_bytes(head, request_fields(head, trusted=False), [], host=None)
    assert data.endswith(b"Host: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_the_answer_as_it_is_sent() -> None:
    """The reason as it came, the fields, and how it is framed."""
    data = answer_bytes(299, b"Fine \xff", [(b"A", b"1")], b"Connection: close\r\n\r\n")
    assert data == b"HTTP/1.1 299 Fine \xff\r\nA: 1\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "line", "expected"),
    [
        ([], b"GET / HTTP/1.1", True),
        ([(b"Connection", b"Close")], b"GET / HTTP/1.1", False),
        ([(b"Connection", b"x"), (b"Connection", b"y,close")], b"GET / HTTP/1.1", False),
        ([], b"GET / HTTP/1.0", False),
        ([(b"Connection", b"Keep-Alive")], b"GET / HTTP/1.0", True),
        ([(b"Connection", b"keep-alive, close")], b"GET / HTTP/1.0", False),
    ],
)
def test_whether_the_connection_goes_on(fields: Fields, line: bytes, expected: bool) -> None:  # noqa: FBT001
    """RFC 9112, section 9.3."""
    assert persists(asked(*fields, line=line)) is expected


UPGRADE = [(b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"WebSocket")]


@pytest.mark.parametrize(
    ("fields", "line", "expected"),
    [
        (UPGRADE, b"GET / HTTP/1.1", True),
        (UPGRADE, b"GET / HTTP/1.0", False),
        (UPGRADE, b"POST / HTTP/1.1", False),
        ([*UPGRADE, (b"Content-Length", b"1")], b"GET / HTTP/1.1", False),
        (UPGRADE[1:], b"GET / HTTP/1.1", False),
        ([UPGRADE[0], (b"Upgrade", b"h2c")], b"GET / HTTP/1.1", False),
    ],
)
def test_what_asks_for_a_websocket(fields: Fields, line: bytes, expected: bool) -> None:  # noqa: FBT001
    """RFC 6455, section 4.1: a GET of HTTP/1.1 with both fields, and no body."""
    assert asks_websocket(asked(*fields, line=line)) is expected


def test_what_is_said_about_the_connection_to_the_upstream() -> None:
    """An upgrade, the wish for trailers, or nothing."""
    trailers = asked((b"TE", b"gzip, Trailers"))
    assert wants_trailers(trailers)
    assert connection_fields(trailers, upgrading=False) == [
        (b"TE", b"trailers"),
        (b"Connection", b"TE"),
    ]
    assert connection_fields(asked((b"TE", b"gzip")), upgrading=False) == []
    assert connection_fields(trailers, upgrading=True) == [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
    ]


def test_expectations() -> None:
    """Only the one that RFC 9110 knows."""
    assert expects_continue(asked((b"Expect", b"100-Continue")))
    assert not expects_continue(asked((b"Expect", b"200-ok")))
    assert not expects_continue(asked())


def test_words_and_values() -> None:
    """Of all fields of a name, whatever its case."""
    head = asked((b"X-Forwarded-For", b"a, B"), (b"x-forwarded-for", b"c"))
    assert tokens(head, b"x-forwarded-for") == {b"a", b"b", b"c"}
    assert tokens(head, b"x-none") == frozenset()
    assert values(head, FORWARDED) == {b"x-forwarded-for": [b"a, B", b"c"]}
    assert values(asked(), FORWARDED) == {}
