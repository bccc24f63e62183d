"""Header rules: values in, values out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow._types import Headers
from usageflow.proxy.headers import (
    FORWARDED,
    HOP_BY_HOP,
    RequestHead,
    request_bytes,
    request_head,
    response_head,
)
from usageflow.proxy.refusals import Refusal

HOST = (b"host", b"api.example.com")
OURS = [
    (b"x-forwarded-proto", b"http"),
    (b"x-forwarded-for", b"192.0.2.7"),
    (b"x-forwarded-host", b"api.example.com"),
]

tokens = st.from_regex(r"[a-z][a-z0-9!#$%&'*+.^_`|~-]{0,12}", fullmatch=True).map(str.encode)
plain_names = tokens.filter(
    lambda name: name not in HOP_BY_HOP | FORWARDED | {b"host", b"content-length"}
)
values = st.binary(max_size=20)
plain_fields = st.lists(st.tuples(plain_names, values), max_size=12)
hop_fields = st.lists(
    st.tuples(st.sampled_from(sorted(HOP_BY_HOP - {b"connection", b"te"})), st.just(b"chunked")),
    max_size=1,
)


def scope(*fields: tuple[bytes, bytes], **changes: Any) -> dict[str, Any]:
    """An http scope from 192.0.2.7 with these fields."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "raw_path": b"/",
        "query_string": b"",
        "client": ("192.0.2.7", 4711),
        "headers": list(fields),
        **changes,
    }


def accepted(*fields: tuple[bytes, bytes], **changes: Any) -> RequestHead:
    """The head for a request that must not be refused."""
    head = request_head(scope(*fields, **changes), b"upstream:9000")
    assert isinstance(head, RequestHead)
    return head


def refused(*fields: tuple[bytes, bytes], **changes: Any) -> Refusal:
    """The refusal of a request that must be refused."""
    refusal = request_head(scope(*fields, **changes), b"upstream:9000")
    assert isinstance(refusal, Refusal)
    return refusal


@given(plain_fields, hop_fields, st.randoms(use_true_random=False))
def test_request_keeps_everything_else(plain: Headers, hops: Headers, random: Any) -> None:
    """Order, duplicates and values of ordinary fields survive, wherever others stand between."""
    mixed = [HOST, *plain]
    for hop in hops:
        mixed.insert(random.randrange(len(mixed) + 1), hop)
    fields = accepted(*mixed).fields
    assert [f for f in fields if f not in OURS and f[0] not in HOP_BY_HOP] == [HOST, *plain]


@given(plain_fields, st.data())
def test_connection_removes_what_it_names(plain: Headers, data: st.DataObject) -> None:
    """Fields named by Connection go with it, in any case and spacing, in both directions."""
    named = data.draw(st.sets(st.sampled_from([name for name, _ in plain]))) if plain else set()
    connection = (b"connection", b" , ".join(name.upper() for name in named) or b"keep-alive")
    rest = [field for field in plain if field[0] not in named | {b"keep-alive"}]
    assert accepted(HOST, *plain, connection).fields == [HOST, *rest, *OURS]
    answer = response_head(200, [*plain, connection], to_head=False)
    assert not isinstance(answer, str)
    assert answer.fields == rest


def test_connection_cannot_remove_host_or_framing() -> None:
    """A client cannot make the proxy lose the Host or the length that it checked."""
    fields = (HOST, (b"content-length", b"3"), (b"connection", b"host, content-length"))
    assert accepted(*fields).fields == [HOST, (b"content-length", b"3"), *OURS]


def test_forwarded_fields_are_ours() -> None:
    """What a client says about who called is replaced by what the proxy saw."""
    lies = [(name, b"203.0.113.9") for name in sorted(FORWARDED)]
    assert accepted(HOST, *lies).fields == [HOST, *OURS]
    assert accepted(HOST, client=None, scheme="https").fields == [
        HOST,
        (b"x-forwarded-proto", b"https"),
        OURS[2],
    ]


@pytest.mark.parametrize(
    ("te", "kept"),
    [(b"trailers", True), (b"gzip, Trailers", True), (b"gzip;q=0.5", False), (b"", False)],
)
def test_te_keeps_trailers_alone(te: bytes, kept: bool) -> None:  # noqa: FBT001
    """TE is about this connection, except that the client can read trailers."""
    fields = accepted(HOST, (b"te", te), (b"connection", b"te")).fields
    assert ((b"te", b"trailers") in fields) is kept
    assert ((b"connection", b"te") in fields) is kept


@pytest.mark.parametrize(
    ("fields", "body_bytes"),
    [
        ([], 0),
        ([(b"content-length", b"0")], 0),
        ([(b"content-length", b"12")], 12),
        ([(b"transfer-encoding", b"Chunked ")], None),
    ],
)
def test_request_framing(fields: Headers, body_bytes: int | None) -> None:
    """A length is kept, chunks are announced in our own words, and no body stays no body."""
    head = accepted(HOST, *fields)
    assert head.body_bytes == body_bytes
    assert ((b"transfer-encoding", b"chunked") in head.fields) is (body_bytes is None)
    assert [f for f in head.fields if f[0] == b"content-length"] == [
        f for f in fields if f[0] == b"content-length"
    ]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(b"content-length", b"1"), (b"content-length", b"1")], 400),
        ([(b"content-length", b"+1")], 400),
        ([(b"content-length", b"1, 1")], 400),
        ([(b"content-length", b"")], 400),
        ([(b"content-length", b"1"), (b"transfer-encoding", b"chunked")], 400),
        ([(b"transfer-encoding", b"gzip, chunked")], 501),
        ([(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], 501),
    ],
)
def test_ambiguous_framing_is_refused(fields: Headers, status: int) -> None:
    """Whatever two readers might end at different bytes is not forwarded."""
    assert refused(HOST, *fields).status == status


def test_host_must_be_one() -> None:
    """HTTP/1.1 needs exactly one Host; HTTP/1.0 may have none and gets the upstream's."""
    assert refused().code == "invalid_host"
    assert refused(HOST, HOST).code == "invalid_host"
    assert refused(HOST, HOST, http_version="1.0").code == "invalid_host"
    fields = accepted((b"accept", b"*/*"), http_version="1.0").fields
    assert fields == [(b"host", b"upstream:9000"), (b"accept", b"*/*"), *OURS[:2]]


@pytest.mark.parametrize("target", [b"http://evil/z", b"*", b"", b"z"])
def test_target_must_be_a_path(target: bytes) -> None:
    """A target that the matcher could not have read as a path is refused."""
    assert refused(HOST, raw_path=target).code == "invalid_target"


@pytest.mark.parametrize(
    "target", [b"/", b"//a/../b;c/%2F%zz", b"/a?x=%2f&y=a+b&&", b"/%E2%82%AC?" + b"?" * 3]
)
def test_target_is_sent_byte_for_byte(target: bytes) -> None:
    """Neither path nor query is normalised."""
    path, _, query = target.partition(b"?")
    sent = request_bytes(scope(raw_path=path, query_string=query, method="GET"), [HOST])
    assert sent == b"GET " + target + b" HTTP/1.1\r\nhost: api.example.com\r\n\r\n"


@given(plain_fields, hop_fields)
def test_response_keeps_everything_else(plain: Headers, hops: Headers) -> None:
    """Several Set-Cookie, Date, Server and the rest pass as they are."""
    answer = response_head(200, [*hops, *plain], to_head=False)
    assert not isinstance(answer, str)
    assert answer.fields == plain


@pytest.mark.parametrize(
    ("status", "to_head", "fields", "kept", "until_close"),
    [
        (200, False, [(b"content-length", b"5")], True, False),
        (200, False, [(b"transfer-encoding", b"chunked")], False, False),
        (200, False, [], False, True),
        (200, True, [(b"content-length", b"5")], True, False),
        (200, True, [], False, False),
        (204, False, [(b"content-length", b"5")], False, False),
        (304, False, [(b"content-length", b"5")], False, False),
        (204, False, [], False, False),
        (599, False, [], False, True),
    ],
)
def test_response_framing(
    status: int,
    to_head: bool,  # noqa: FBT001
    fields: Headers,
    kept: bool,  # noqa: FBT001
    until_close: bool,  # noqa: FBT001
) -> None:
    """Where the body of an answer ends, and whether its length is passed on."""
    answer = response_head(status, fields, to_head=to_head)
    assert not isinstance(answer, str)
    assert answer.until_close is until_close
    assert bool(answer.fields) is kept


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (101, []),
        (600, []),
        (999, [(b"content-length", b"0")]),
        (200, [(b"transfer-encoding", b"gzip")]),
        (200, [(b"transfer-encoding", b"gzip, chunked")]),
        (200, [(b"transfer-encoding", b"chunked"), (b"content-length", b"1")]),
    ],
)
def test_answers_that_cannot_be_passed_on(status: int, fields: Headers) -> None:
    """A status no server can send, or a body whose end is unclear, is named."""
    assert isinstance(response_head(status, fields, to_head=False), str)
