"""Heads of messages: what is understood, and what is refused with which words."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usageflow.proxy.heads import (
    UNTIL_CLOSE,
    Fields,
    RequestHead,
    ResponseHead,
    parse_request,
    parse_response,
    response_length,
)
from usageflow.proxy.refusals import REASONS, Refusal

HOST = b"Host: api.example.com"
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"

names = st.from_regex(f"X{TOKEN}{{0,12}}", fullmatch=True).map(str.encode)
values = st.lists(st.sampled_from([*range(0x20, 0x7F), *range(0x80, 0x100), 9]), max_size=20).map(
    lambda codes: bytes(codes).strip(b" \t")
)
fields = st.lists(st.tuples(names, values), max_size=12)
methods = st.from_regex(f"{TOKEN}{{1,32}}", fullmatch=True).map(str.upper).map(str.encode)
targets = st.from_regex(r'/["!$-~]{0,30}', fullmatch=True).map(str.encode)
blanks = st.text(" \t", max_size=3).map(str.encode)


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    """A head of this request line and these header lines."""
    return b"\r\n".join([line, *lines, b"", b""])


def read(head: bytes, *, line_bytes_max: int = 8_192, fields_max: int = 128) -> object:
    """What parse_request says, with the limits that the settings have by default."""
    return parse_request(head, line_bytes_max=line_bytes_max, fields_max=fields_max)


def accepted(head: bytes) -> RequestHead:
    """The head of a request that must not be refused."""
    result = read(head)
    assert isinstance(result, RequestHead)
    return result


def refused(head: bytes, **limits: int) -> tuple[int, str]:
    """Status and code for a request that must be refused, in words that a client may see."""
    result = read(head, **limits)
    assert isinstance(result, Refusal)
    assert result.message.endswith(".")
    assert result.status in REASONS
    return result.status, result.code


def answered(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    """The head of an answer that must be understood."""
    head = parse_response(request(*lines, line=line))
    assert isinstance(head, ResponseHead)
    return head


def test_request_in_full() -> None:
    """Every part of a head, names as they were sent and in lower case, values trimmed."""
    head = accepted(
        request(
            HOST,
            b"Accept: text/html, */*",
            b"X-Empty:",
            b"X-Blank: \t ",
            b"x-padded: \t a b\t ",
            b"ACCEPT:caf\xe9",
            b"Content-Length: 12",
            line=b"POST /a%2Fb//../c;d?q=%zz&r HTTP/1.1",
        )
    )
    assert head.method == b"POST"
    assert head.target == b"/a%2Fb//../c;d?q=%zz&r"
    assert head.minor == 1
    assert head.fields == [
        (b"Host", b"api.example.com"),
        (b"Accept", b"text/html, */*"),
        (b"X-Empty", b""),
        (b"X-Blank", b""),
        (b"x-padded", b"a b"),
        (b"ACCEPT", b"caf\xe9"),
        (b"Content-Length", b"12"),
    ]
    assert head.lowered == [(name.lower(), value) for name, value in head.fields]
    assert head.named[b"accept"] == b"caf\xe9"
    assert head.body_bytes == 12


@given(methods.filter(lambda m: m != b"CONNECT"), targets, fields, st.sampled_from((0, 1)))
def test_reading_undoes_writing(method: bytes, target: bytes, plain: Fields, minor: int) -> None:
    """What is written with one space after the colon is read as it was."""
    lines = [b"%b: %b" % field for field in plain]
    head = accepted(request(HOST, *lines, line=b"%b %b HTTP/1.%d" % (method, target, minor)))
    assert head[:4] == (method, target, minor, [(b"Host", b"api.example.com"), *plain])
    assert head.body_bytes == 0


@given(fields, st.lists(st.tuples(blanks, blanks), min_size=12, max_size=12))
def test_blanks_around_values_mean_nothing(plain: Fields, margins: Fields) -> None:
    """However a value is padded, it is the same value."""
    padded = [
        b"%b:%b%b%b" % (name, before, value, after)
        for (name, value), (before, after) in zip(plain, margins, strict=False)
    ]
    assert accepted(request(HOST, *padded)).fields[1:] == plain


@given(st.binary(max_size=200))
@example(b"")
@example(b"\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\n")
@example(b"GET / HTTP/1.1\r\nHost: a")
def test_no_bytes_raise(data: bytes) -> None:
    """Whatever arrives is read or refused."""
    assert isinstance(read(data), RequestHead | Refusal)
    assert isinstance(read(request(HOST, data)), RequestHead | Refusal)
    assert isinstance(parse_response(data), ResponseHead | str)
    assert isinstance(parse_response(request(data, line=b"HTTP/1.1 200 OK")), ResponseHead | str)


BAD_LINE = (400, "invalid_request_line")
BAD_TARGET = (400, "invalid_target")
BAD_VERSION = (505, "http_version")


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"", BAD_LINE),
        (b"GET /", BAD_LINE),  # HTTP/0.9
        (b"GET", BAD_LINE),
        (b"GET  / HTTP/1.1", BAD_LINE),
        (b"GET /  HTTP/1.1", BAD_LINE),
        (b"GET\t/\tHTTP/1.1", BAD_LINE),
        (b" GET / HTTP/1.1", BAD_LINE),
        (b"GET / HTTP/1.1 ", BAD_LINE),
        (b"GET / HTTP/1.1\r", BAD_LINE),
        (b"GET /a b HTTP/1.1", BAD_LINE),
        (b"GET  HTTP/1.1", BAD_LINE),
        (b"GET / http/1.1", BAD_LINE),
        (b"GET / HTTP/1.10", BAD_LINE),
        (b"GET / HTTP/11", BAD_LINE),
        (b"GET / HTTPS/1.1", BAD_LINE),
        (b"GET / ICY/1.1", BAD_LINE),
        (b"G\xc9T / HTTP/1.1", BAD_LINE),
        (b"G(T / HTTP/1.1", BAD_LINE),
        (b"G\x00T / HTTP/1.1", BAD_LINE),
        (b"M" * 33 + b" / HTTP/1.1", BAD_LINE),
        (b"\x16\x03\x01\x02\x00\x01", BAD_LINE),  # TLS on a plain port
        (b"GET / HTTP/2.0", BAD_VERSION),
        (b"GET / HTTP/2", BAD_VERSION),
        (b"GET / HTTP/0.9", BAD_VERSION),
        (b"GET / HTTP/1.2", BAD_VERSION),
        (b"PRI * HTTP/2.0", BAD_VERSION),
        (b"GET /a\x00b HTTP/1.1", BAD_TARGET),
        (b"GET /a\tb HTTP/1.1", BAD_TARGET),
        (b"GET /a\rb HTTP/1.1", BAD_TARGET),
        (b"GET /\x7f HTTP/1.1", BAD_TARGET),
        (b"GET /caf\xc3\xa9 HTTP/1.1", BAD_TARGET),
        (b"GET /a#b HTTP/1.1", BAD_TARGET),
        (b"GET a HTTP/1.1", BAD_TARGET),
        (b"GET ?a HTTP/1.1", BAD_TARGET),
        (b"GET * HTTP/1.1", BAD_TARGET),
        (b"OPTIONS ** HTTP/1.1", BAD_TARGET),
        (b"GET api.example.com:80 HTTP/1.1", BAD_TARGET),
        (b"GET ftp://api.example.com/ HTTP/1.1", BAD_TARGET),
        (b"GET http:/// HTTP/1.1", BAD_TARGET),
        (b"GET http://evil.example.com/ HTTP/1.1", BAD_TARGET),
        (b"GET http://api.example.com:8080/ HTTP/1.1", BAD_TARGET),
        (b"GET http://api.example.com:443/ HTTP/1.1", BAD_TARGET),
        (b"GET http://user@api.example.com/ HTTP/1.1", BAD_TARGET),
        (b"CONNECT api.example.com:443 HTTP/1.1", (501, "connect_not_supported")),
        (b"CONNECT / HTTP/1.1", (501, "connect_not_supported")),
    ],
)
def test_request_lines_that_are_refused(line: bytes, refusal: tuple[int, str]) -> None:
    """Anything but METHOD, target and version, each apart by one space, with a target for us."""
    assert refused(request(HOST, line=line)) == refusal


@pytest.mark.parametrize(
    ("line", "host", "target"),
    [
        (b"GET http://api.example.com/a?b HTTP/1.1", b"api.example.com", b"/a?b"),
        (b"GET HTTP://API.example.com/ HTTP/1.1", b"api.EXAMPLE.com", b"/"),
        (b"GET http://api.example.com HTTP/1.1", b"api.example.com", b"/"),
        (b"GET http://api.example.com?q=/x HTTP/1.1", b"api.example.com", b"/?q=/x"),
        (b"GET http://api.example.com:80/a HTTP/1.1", b"api.example.com", b"/a"),
        (b"GET http://api.example.com/a HTTP/1.1", b"api.example.com:80", b"/a"),
        (b"GET https://api.example.com:443/a HTTP/1.1", b"api.example.com", b"/a"),
        (b"GET http://[::1]:8080/a HTTP/1.1", b"[::1]:8080", b"/a"),
        (b"OPTIONS http://api.example.com HTTP/1.1", b"api.example.com", b"*"),
        (b"OPTIONS http://api.example.com/ HTTP/1.1", b"api.example.com", b"/"),
        (b"OPTIONS http://api.example.com?q HTTP/1.1", b"api.example.com", b"/?q"),
        (b"OPTIONS * HTTP/1.1", b"api.example.com", b"*"),
    ],
)
def test_targets_of_other_forms(line: bytes, host: bytes, target: bytes) -> None:
    """Absolute-form for the host of Host becomes origin-form; OPTIONS may ask for `*`."""
    assert accepted(request(b"Host: " + host, line=line)).target == target


def test_absolute_form_needs_a_host() -> None:
    """Without a Host to agree with, an authority in the target is another host."""
    head = request(line=b"GET http://api.example.com/ HTTP/1.0")
    assert refused(head) == BAD_TARGET


BAD_FIELD = (400, "invalid_header")
BAD_FEED = (400, "bare_line_feed")
FOLDED = (400, "obsolete_folding")


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"X-A : b", BAD_FIELD),
        (b"X-A\t: b", BAD_FIELD),
        (b"X A: b", BAD_FIELD),
        (b": b", BAD_FIELD),
        (b"X-A", BAD_FIELD),
        (b"X-A; b", BAD_FIELD),
        (b"X(A: b", BAD_FIELD),
        (b"X\xe9: b", BAD_FIELD),
        (b"X\x00: b", BAD_FIELD),
        (b"X-A: b\x00c", BAD_FIELD),
        (b"X-A: b\x0bc", BAD_FIELD),
        (b"X-A: b\x7f", BAD_FIELD),
        (b"X-A: b\rc", BAD_FIELD),
        (b"X-A: b\r", BAD_FIELD),
        (b"\rX-A: b", BAD_FIELD),
        (b"X-A\r: b", BAD_FIELD),
        (b"\r\nX-A: b", BAD_FIELD),  # after the empty line
        (b"X-A: b\nX-B: c", BAD_FEED),
        (b"\nX-A: b", BAD_FEED),
        (b"X-A: b\n", BAD_FEED),
        (b" X-A: b", FOLDED),
        (b"X-A: b\r\n c", FOLDED),
        (b"X-A: b\r\n\tc", FOLDED),
        (b"X-A: b\r\n ", FOLDED),
        (b"Content_Length: 5", BAD_FIELD),
        (b"CONTENT_LENGTH: 5", BAD_FIELD),
        (b"Transfer_Encoding: chunked", BAD_FIELD),
        (b"Keep_Alive: 5", BAD_FIELD),
        (b"Proxy_Connection: close", BAD_FIELD),
    ],
)
@pytest.mark.parametrize("place", ["first", "last", "after a padded one"])
def test_fields_that_are_refused(line: bytes, refusal: tuple[int, str], place: str) -> None:
    """Two readers may differ on each of these, wherever it stands."""
    lines = {"first": [line, HOST], "last": [HOST, line], "after a padded one": [HOST + b" ", line]}
    assert refused(request(*lines[place])) == refusal


def test_a_line_without_an_end() -> None:
    """It is no request line, whatever it lacks besides."""
    assert refused(b"") == BAD_LINE
    assert refused(b"GET / HTTP/1.1") == BAD_LINE


def test_bare_line_feeds_end_no_request_line() -> None:
    """A head of bare line feeds is none."""
    assert refused(b"GET / HTTP/1.1\nHost: a\n\n") == BAD_FEED
    assert refused(b"GET / HTTP/1.1\nHost: a\r\n\r\n") == BAD_FEED


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\n\n", b"\r\n\r", b"\r\nX: y\r\n", b"\n\r\n"])
def test_a_head_ends_with_an_empty_line(end: bytes) -> None:
    """What does not is never understood."""
    assert refused(b"GET / HTTP/1.1\r\nHost: a" + end)[0] == 400


BAD_HOST = (400, "invalid_host")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Host:"],
        [b"Host: \t"],
        [b"Host: a", b"Host: a"],
        [b"Host: a", b"hOST: b"],
        [b"Host: a, b"],
        [b"Host: a b"],
        [b"Host: user@a"],
        [b"Host: a/b"],
        [b"Host: http://a"],
        [b"Host: a:b"],
        [b"Host: a:80:80"],
        [b"Host: a:123456"],
        [b"Host: :80"],
        [b"Host: [::1"],
        [b"Host: ::1"],
        [b"Host: []"],
        [b"Host: [a.example]"],
        [b"Host: caf\xe9"],
        [b'Host: "a"'],
        [b"Host: a?b"],
        [b"Host: a#b"],
        [b"Host: a\\b"],
    ],
)
def test_hosts_that_are_refused(lines: list[bytes]) -> None:
    """HTTP/1.1 has exactly one Host, and it names a host."""
    assert refused(request(*lines)) == BAD_HOST


@pytest.mark.parametrize(
    "host",
    [b"a", b"api.example.com:8080", b"192.0.2.7", b"[2001:db8::7]:443", b"[::1]", b"a_b", b"a:"],
)
def test_hosts_that_are_accepted(host: bytes) -> None:
    """Names and addresses, with or without a port."""
    assert accepted(request(b"Host: " + host)).named[b"host"] == host


def test_host_of_http_1_0() -> None:
    """It may be missing there, but not be there twice."""
    assert accepted(request(line=b"GET / HTTP/1.0")).minor == 0
    assert refused(request(HOST, HOST, line=b"GET / HTTP/1.0")) == BAD_HOST


BAD_FRAMING = (400, "invalid_framing")
BAD_CODING = (501, "unknown_coding")
CHUNKED = b"Transfer-Encoding: chunked"

FRAMINGS: list[tuple[list[bytes], int | tuple[int, str] | None]] = [
    ([], 0),
    ([b"Content-Length: 0"], 0),
    ([b"content-length:005"], 5),
    ([b"Content-Length: " + b"9" * 18], 10**18 - 1),
    ([CHUNKED], None),
    ([b"transfer-encoding: Chunked \t"], None),
    ([b"Content-Length: " + b"1" * 19], BAD_FRAMING),
    ([b"Content-Length:"], BAD_FRAMING),
    ([b"Content-Length: +5"], BAD_FRAMING),
    ([b"Content-Length: -5"], BAD_FRAMING),
    ([b"Content-Length: 5.0"], BAD_FRAMING),
    ([b"Content-Length: 0x5"], BAD_FRAMING),
    ([b"Content-Length: 1_0"], BAD_FRAMING),
    ([b"Content-Length: 1 0"], BAD_FRAMING),
    ([b"Content-Length: 5, 5"], BAD_FRAMING),
    ([b"Content-Length: \xb2"], BAD_FRAMING),
    ([b"Content-Length: five"], BAD_FRAMING),
    ([b"Content-Length: 5", b"Content-Length: 5"], BAD_FRAMING),
    ([b"Content-Length: 5", b"content-length: 6"], BAD_FRAMING),
    ([b"Content-Length: 5", CHUNKED], BAD_FRAMING),
    ([b"Transfer-Encoding: gzip", b"Content-Length: 5"], BAD_FRAMING),
    ([b"Transfer-Encoding: chunked, chunked"], BAD_CODING),
    ([b"Transfer-Encoding: gzip, chunked"], BAD_CODING),
    ([b"Transfer-Encoding: chunked, identity"], BAD_CODING),
    ([b"Transfer-Encoding: xchunked"], BAD_CODING),
    ([b"Transfer-Encoding: identity"], BAD_CODING),
    ([b"Transfer-Encoding: chunked;q=1"], BAD_CODING),
    ([b'Transfer-Encoding: "chunked"'], BAD_CODING),
    ([b"Transfer-Encoding:"], BAD_CODING),
    ([CHUNKED, CHUNKED], BAD_CODING),
    ([b"Transfer-Encoding: gzip", CHUNKED], BAD_CODING),
]


@pytest.mark.parametrize(("lines", "outcome"), FRAMINGS)
def test_framing_of_requests(lines: list[bytes], outcome: int | tuple[int, str] | None) -> None:
    """One length, or chunked, or nothing; all else is refused."""
    head = request(HOST, *lines)
    if isinstance(outcome, tuple):
        assert refused(head) == outcome
    else:
        assert accepted(head).body_bytes == outcome


@pytest.mark.parametrize(("lines", "outcome"), FRAMINGS)
def test_framing_of_answers(lines: list[bytes], outcome: int | tuple[int, str] | None) -> None:
    """The same rules; without a word about it the body ends with the connection."""
    head = parse_response(request(*lines, line=b"HTTP/1.1 200 OK"))
    if isinstance(outcome, tuple):
        assert isinstance(head, str)
    else:
        assert isinstance(head, ResponseHead)
        assert response_length(head, to_head=False) == (outcome if lines else UNTIL_CLOSE)


def test_http_1_0_knows_no_codings() -> None:
    """An old relay may have passed the field on without understanding it (RFC 9112, 6.1)."""
    assert refused(request(HOST, CHUNKED, line=b"POST / HTTP/1.0")) == BAD_FRAMING
    assert isinstance(parse_response(request(CHUNKED, line=b"HTTP/1.0 200 OK")), str)


def test_limits() -> None:
    """A line and a number of fields at their limits pass; one more does not."""
    line = b"GET /" + b"a" * 86 + b" HTTP/1.1"
    assert len(line) == 100
    head = request(HOST, *[b"X: y"] * 9, line=line)
    assert isinstance(read(head, line_bytes_max=100, fields_max=10), RequestHead)
    assert refused(head, line_bytes_max=99) == (414, "request_line_too_long")
    assert refused(head, fields_max=9) == (431, "too_many_headers")
    assert refused(b"\x00" * 200, line_bytes_max=100) == (414, "request_line_too_long")


def test_answer_in_full() -> None:
    """Every part of an answer's head."""
    head = answered(
        b"Set-Cookie: a=1",
        b"set-cookie: b=2 ",
        b"Content-Length: 5",
        line=b"HTTP/1.1 404 Not  F\xf6und",
    )
    assert (head.status, head.reason, head.minor) == (404, b"Not  F\xf6und", 1)
    assert head.fields == [
        (b"Set-Cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"Content-Length", b"5"),
    ]
    assert head.lowered[0] == (b"set-cookie", b"a=1")
    assert head.named == {b"set-cookie": b"b=2", b"content-length": b"5"}
    assert head.body_bytes == 5


@given(st.integers(100, 599), values, fields, st.sampled_from((0, 1)))
def test_reading_undoes_writing_of_answers(
    status: int, reason: bytes, plain: Fields, minor: int
) -> None:
    """What is written as a server should is read as it was."""
    lines = [b"%b: %b" % field for field in plain]
    head = answered(*lines, line=b"HTTP/1.%d %d %b" % (minor, status, reason))
    assert head[:4] == (status, reason, minor, plain)


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 "])
def test_reason_may_be_missing(line: bytes) -> None:
    """With or without the space before it."""
    assert answered(line=line).reason == b""


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 No",
        b"HTTP/1.1 600 No",
        b"HTTP/1.1 -20 No",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.2 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 OK\n",
        b" HTTP/1.1 200 OK",
        b"\r\nHTTP/1.1 200 OK",
    ],
)
def test_status_lines_that_are_wrong(line: bytes) -> None:
    """Anything that is not surely a status line of HTTP/1.x."""
    assert isinstance(parse_response(request(line=line)), str)


@pytest.mark.parametrize(
    "line",
    [b"X-A : b", b"X A: b", b": b", b"X-A", b"X-A: \x00", b"X-A: b\nX-B: c", b"X-A: b\r\n c"],
)
def test_fields_of_answers_that_are_wrong(line: bytes) -> None:
    """Fields are held to the same rules in both directions."""
    assert isinstance(parse_response(request(line, line=b"HTTP/1.1 200 OK")), str)


@pytest.mark.parametrize(
    ("status", "to_head", "length"),
    [
        (200, False, 5),
        (500, False, 5),
        (200, True, 0),
        (404, True, 0),
        (100, False, 0),
        (101, False, 0),
        (103, False, 0),
        (204, False, 0),
        (304, False, 0),
    ],
)
def test_answers_without_a_body(status: int, length: int, *, to_head: bool) -> None:
    """Interim answers, 204, 304 and answers to HEAD have none, whatever their fields say."""
    head = answered(b"Content-Length: 5", line=b"HTTP/1.1 %d " % status)
    assert response_length(head, to_head=to_head) == length
    assert head.body_bytes == 5


@pytest.mark.parametrize(
    "part",
    [
        b"X:" + b" " * 30_000 + b"\x00",
        b"X: " + b"a " * 15_000 + b"\x00",
        b"X" * 30_000,
        b"X: y\r\n" * 5_000 + b" ",
        b"\x01" * 30_000,
    ],
)
@pytest.mark.timeout(10)
def test_hostile_heads_take_one_pass(part: bytes) -> None:
    """No head makes reading take a time that grows with the square of its length."""
    for _ in range(20):
        refused(request(HOST, part))
        refused(request(HOST, line=part))
        assert isinstance(parse_response(request(part, line=b"HTTP/1.1 200 OK")), str)


@pytest.mark.parametrize(
    ("names", "accepted"),
    [
        ((b"X-Account-Id", b"X_Account_Id"), False),
        ((b"x_account-id", b"X-Account_Id"), False),
        ((b"X_Account_Id",), True),
        ((b"X_A", b"X_B", b"X-C"), True),
    ],
)
def test_names_that_an_upstream_may_take_for_one_another(
    names: tuple[bytes, ...],
    accepted: bool,  # noqa: FBT001 - a row
) -> None:
    """CGI and WSGI read `_` and `-` alike: the policies would read the one, the API the other."""
    fields = b"".join(b"%b: 1\r\n" % name for name in names)
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
    read = parse_request(head, line_bytes_max=100, fields_max=10)
    if accepted:
        assert isinstance(read, RequestHead)
    else:
        assert isinstance(read, Refusal)
        assert read.code == "invalid_header"
