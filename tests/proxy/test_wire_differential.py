"""What we accept, two other readers accept and understand in the same way.

h11 and llhttp (through httptools) stand for the servers behind the proxy and for its clients. That
they accept more than we do is expected; that they read something else in what we accept never is.
The exceptions are harmless: REFUSED_BY_LLHTTP, TAB_AFTER_CODING and what `told_alike` makes alike.
"""

import re
from typing import NamedTuple

import h11
import httptools
from hypothesis import event, given, settings
from hypothesis import strategies as st

from usageflow.proxy.chunked import ChunkedReader
from usageflow.proxy.heads import (
    UNTIL_CLOSE,
    Fields,
    RequestHead,
    ResponseHead,
    parse_request,
    parse_response,
    response_length,
)


class Reading(NamedTuple):
    """A message as a reader understood it; `taken_bytes` is where it ends, None if it goes on.

    `start` is method and target of a request, status and reason of an answer.
    """

    start: tuple[bytes, bytes]
    fields: Fields
    body: bytes
    taken_bytes: int | None


def our_reading(data: bytes, *, answer: bool) -> Reading | None:
    """As the proxy reads the first message of `data`; None if it refuses it."""
    end = data.find(b"\r\n\r\n") + len(b"\r\n\r\n")
    head = (
        parse_response(data[:end])
        if answer
        else parse_request(data[:end], line_bytes_max=8_192, fields_max=128)
    )
    if isinstance(head, ResponseHead) and head.status >= 200:  # another follows an interim answer
        start, length = (b"%d" % head.status, head.reason), response_length(head, to_head=False)
    elif isinstance(head, RequestHead):
        start, length = (head.method, head.target), head.body_bytes
    else:
        return None
    rest = data[end:]
    if length == UNTIL_CLOSE:
        return Reading(start, head.lowered, rest, None)
    if length is not None:
        taken = end + length if len(rest) >= length else None
        return Reading(start, head.lowered, rest[:length], taken)
    reader = ChunkedReader(line_bytes_max=256, trailers_bytes_max=8_192)
    body = reader.feed(rest)
    if reader.problem:
        return None
    taken = len(data) - len(reader.rest) if reader.complete else None
    return Reading(start, head.lowered, body, taken)


def h11_reading(data: bytes, *, answer: bool) -> Reading | str:
    """As h11 reads it; in words why it does not."""
    connection = h11.Connection(h11.CLIENT if answer else h11.SERVER)
    if answer:
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    try:
        head = connection.next_event()
        body = b""
        while isinstance(part := connection.next_event(), h11.Data):
            body += part.data
    except h11.RemoteProtocolError as error:
        return str(error)
    if isinstance(head, h11.Request):
        start = (head.method, head.target)
    else:
        assert isinstance(head, h11.Response)
        start = (b"%d" % head.status_code, head.reason)
    taken = len(data) - len(connection.trailing_data[0])
    ended = isinstance(part, h11.EndOfMessage)
    return Reading(start, list(head.headers), body, taken if ended else None)


class Listener:
    """Remembers what llhttp tells of the first message."""

    def __init__(self) -> None:
        self.text = b""
        self.fields: Fields = []
        self.body = b""
        self.headed = self.ended = False

    def on_url(self, part: bytes) -> None:
        """The target, perhaps in parts."""
        self.text += part

    def on_status(self, part: bytes) -> None:
        """The reason phrase, perhaps in parts."""
        self.text += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field, with the blanks after its value; trailers come here too."""
        if not self.headed:
            self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self.headed = True

    def on_body(self, part: bytes) -> None:
        """A part of the body."""
        self.body += part

    def on_message_complete(self) -> None:
        """The message has ended."""
        self.ended = True


def llhttp_reading(data: bytes, *, answer: bool) -> Reading | str:
    """As llhttp reads it, byte by byte to see where it ends; in words why it does not."""
    listener = Listener()
    parser = (httptools.HttpResponseParser if answer else httptools.HttpRequestParser)(listener)
    taken = 0
    try:
        while not listener.ended and taken < len(data):
            parser.feed_data(data[taken : taken + 1])
            taken += 1
    except httptools.HttpParserError as error:
        return str(error)
    if isinstance(parser, httptools.HttpResponseParser):
        first = b"%d" % parser.get_status_code()
    else:
        first = parser.get_method()
    return Reading(
        (first, listener.text), listener.fields, listener.body, taken if listener.ended else None
    )


REFUSED_BY_LLHTTP = {
    "Invalid method encountered": "methods that are not registered",
    "Expected space after method": "methods that begin like a registered one",
    "Content-Length can't be present with Transfer-Encoding": "in trailers, where we drop it",
    "Invalid character in chunk extensions": "we say so at the end of the line",
    "Invalid character in chunk extensions name": "we say so at the end of the line",
    "Invalid character in chunk extensions value": "we say so at the end of the line",
}
"""What llhttp says to some messages that we accept, and why no two readers disagree for that."""

TAB_AFTER_CODING = re.compile(rb"^transfer-encoding:.*\t[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
"""llhttp trims no tab and then knows the coding no more. The proxy writes this field itself."""

METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"PROPFIND"]
TARGETS = [b"/", b"/a/b?c=d", b"//", b"/%2F..;x", b"/?", b"*", b"http://a.example/x"]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]
STATUSES = [
    b"200 OK",
    b"404 Not  Here",
    b"204 No Content",
    b"304 Not Modified",
    b"500 \xe9",
    b"200 ",
]
HOSTS = [b"a.example", b"a.example:80", b"[::1]:80", b"A.Example"]
# Not both Upgrade and `Connection: upgrade`: then llhttp takes the body for the new protocol. The
# proxy passes no upgrade on but a WebSocket's, which has no body.
FIELDS = [
    *(b"Accept: */*", b"X-A:b", b"X-Empty:", b"x-pad: \t a  b \t", b"X-High: \xe9\xff", b"X-A: c"),
    *(b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue", b"Upgrade: x"),
    *(b"X_Y: z", b"TE: trailers", b"Keep-Alive: 5"),
]
FRAMINGS = [
    *(b"Content-Length: 5", b"content-length:0", b"Content-Length: 05 ", b"Content-Length: 99"),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED ", b"Transfer-Encoding:\tchunked"),
]
ODD_LINES = [
    *(
        b"X-A : b",
        b" fold",
        b"\tfold",
        b"X\x00: y",
        b"X: \x01",
        b"X: a\rb",
        b"X: a\nb",
        b": b",
        b"b",
    ),
    *(b"Host: b.example", b"Host:", b"Content-Length: +5", b"Content-Length: 5, 5"),
    *(b"Content-Length: 0x5", b"Content-Length:", b"Content-Length: 5 5", b"Content-Length : 5"),
    *(b"Content-Length: 1111111111111111111", b"Content_Length: 3", b"Transfer-Encoding: xchunked"),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding:", b"Transfer-Encoding: chunked;a=b"),
    *(b"Transfer_Encoding: chunked", b"Transfer-Encoding : chunked"),
]
BODIES = [
    *(b"", b"hello", b"hello, world", b"GET / HTTP/1.1\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    *(b"5;a=b\r\nhello\r\n0\r\n\r\n", b"005\r\nhello\r\n00\r\n\r\nGET", b"0\r\nX: y\r\n\r\n"),
    *(b'5;a="\\"b"\r\nhello\r\n1\r\nx\r\n', b"A\r\nhello\r\n0\r\n\r\n0\r\n\r\n", b"0\r\n\r\n5"),
    *(b"5 \r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n"),
    *(b"5\r\nhello0\r\n\r\n", b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", b"-5\r\nhello", b"5;\r\nhello"),
]
BITS = [
    *(b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b";", b",", b"\x00", b"\x0b"),
    *(
        b"0",
        b"5",
        b"f",
        b"-",
        b"_",
        b"#",
        b"\x7f",
        b"\x80",
        b"\xff",
        b'"',
        b"\\",
        b"=",
        b"X: y\r\n",
    ),
]


def some(pool: list[bytes], most: int) -> st.SearchStrategy[list[bytes]]:
    """None to `most` of the pool."""
    return st.lists(st.sampled_from(pool), max_size=most)


@st.composite
def messages(draw: st.DrawFn, line: bytes, hosts: list[bytes]) -> bytes:
    """A message that is right or nearly so, and what follows it."""
    lines = [b"Host: " + host for host in hosts]
    lines += draw(some(FIELDS, 3)) + draw(some(FRAMINGS, 1))
    if draw(st.booleans()):
        lines += draw(some(FRAMINGS + ODD_LINES, 1))
    lines = draw(st.permutations(lines))
    data = b"\r\n".join([line, *lines, b"", draw(st.sampled_from(BODIES))])
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2)))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(BITS)) + data[at + draw(st.integers(0, 2)) :]
    return data


def lines_of(*pools: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of each, apart by spaces."""
    return st.tuples(*map(st.sampled_from, pools)).map(b" ".join)


requests = st.tuples(lines_of(METHODS, TARGETS, VERSIONS), st.sampled_from(HOSTS)).flatmap(
    lambda start: messages(start[0], [start[1]])
)
answers = lines_of(VERSIONS, STATUSES).flatmap(lambda line: messages(line, []))


def told_alike(reading: Reading) -> Reading:
    """The reading, less what cannot mislead.

    Others leave an absolute target to their users, and a coding's name may be in any case.
    """
    method, target = reading.start
    if target.lower().startswith(b"http"):
        path = re.sub(rb"^https?://[^/?]*", b"", target, flags=re.IGNORECASE)
        nothing = b"*" if method == b"OPTIONS" else b"/"
        target = path if path.startswith(b"/") else b"/" + path if path else nothing
    fields = [
        (name, value.lower() if name == b"transfer-encoding" else value)
        for name, value in reading.fields
    ]
    return reading._replace(start=(method, target), fields=fields)


def assert_agreement(data: bytes, *, answer: bool) -> None:
    """What we understand, the others understand so too."""
    ours = our_reading(data, answer=answer)
    event("refused" if ours is None else "accepted")
    if ours is None or TAB_AFTER_CODING.search(data):
        return
    for read in (h11_reading, llhttp_reading):
        theirs = read(data, answer=answer)
        if isinstance(theirs, str):
            assert theirs in REFUSED_BY_LLHTTP
        else:
            assert told_alike(theirs) == told_alike(ours)


@settings(max_examples=600)
@given(requests)
def test_others_agree_on_requests(data: bytes) -> None:
    """Method, target, fields, body and the place where the request ends are the same to all."""
    assert_agreement(data, answer=False)


@settings(max_examples=400)
@given(answers)
def test_others_agree_on_answers(data: bytes) -> None:
    """So are status, reason, fields, body and end of an answer to GET."""
    assert_agreement(data, answer=True)
