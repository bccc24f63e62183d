"""Generated requests, right and wrong, in any order and cut anywhere, confuse nobody."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

TORTURE = bool(os.environ.get("USAGEFLOW_TORTURE"))
EXAMPLES = 20_000 if TORTURE else 120

HOST = b"Host: a.example"
METHODS = [b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"get", b"G@T", b""]
TARGETS = [
    *(
        b"/",
        b"/a/b?c=d",
        b"//",
        b"//b.example/x",
        b"/a//b",
        b"/./a/../../b",
        b"/%2F%2e%2e/x",
        b"/?",
    ),
    *(
        b"/a?",
        b"/a?b?c",
        b"/;p=1",
        b"/%00",
        b"/%zz",
        b"/%C3%A9",
        b"/%FF",
        b"/a%0a",
        b"/\\..\\a",
        b"/a|b",
    ),
    *(
        b"*",
        b"http://a.example/x?y",
        b"http://a.example",
        b"HTTP://A.example:80/x",
        b"a.example:80",
    ),
    *(
        b"http://b.example/x",
        b"https://a.example/x",
        b"ftp://a.example/x",
        b"",
        b"x",
        b"/a b",
        b"/a#b",
    ),
    *(b"/\xc3\xa9", b"/\x00", b"/\t", b"http://u@a.example/", b"?x", b"/" + b"x" * 9_000),
]
VERSIONS = [
    *(b"HTTP/1.1",) * 8,
    *(
        b"HTTP/1.0",
        b"HTTP/1.0",
        b"HTTP/0.9",
        b"HTTP/2.0",
        b"HTTP/1.10",
        b"http/1.1",
        b"HTTP/1,1",
        b"",
    ),
]
FIELDS = [
    *(b"Accept: */*", b"X-A:b", b"X-Empty:", b"x-pad: \t a  b \t", b"X-High: \xe9", b"X_Y: z"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: host, content-length, x-a"),
    *(b"Connection: transfer-encoding", b"Connection: upgrade", b"Keep-Alive: timeout=1"),
    *(b"Upgrade: h2c", b"Upgrade: TLS/1.0", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
    *(
        b"Expect: 100-continue",
        b"Expect: 100-Continue, x",
        b"TE: trailers",
        b"Trailer: Content-Length",
    ),
    *(b"X-Forwarded-For: 1.2.3.4", b"Forwarded: for=x;host=y", b"X-HTTP-Method-Override: PUT"),
    *(
        b"usageflow-hop: 1.1.ASKED.x",
        b"X-Original-URL: /b",
        b"Max-Forwards: 0",
        b"Range: bytes=0-1",
    ),
    b"X-Long: " + b"x" * 4_000,
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
    *(
        b"Host: b.example",
        b"Host:",
        b"Host: a.example",
        b"Host: a b",
        b"Host: a.example\x0b",
        b"\x00",
    ),
    *(b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length: 0x5", b"Content-Length:"),
    *(b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: -1", b"Content-Length : 5"),
    *(b"Content-Length: 9999999999999999999", b"Content_Length: 3", b"Content-Length: \xb5"),
    *(b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"),
    *(b"Transfer-Encoding: xchunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:"),
    *(
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer_Encoding: chunked",
    ),
    *(
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: \x0bchunked",
    ),
    *(
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:CHUNKED ",
        b"X:\r\n Transfer-Encoding: chunked",
    ),
    *(
        b"Transfer-Encoding: chunked;a=b",
        b'Transfer-Encoding: "chunked"',
        b"X: \nTransfer-Encoding: chunked",
    ),
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
CHUNKS = [
    *(b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"005;a=b\r\nhello\r\n00\r\nX: y\r\n\r\n"),
    *(
        b'5;a="\\"b"\r\nhello\r\n0\r\n\r\n',
        b"5;\r\nhello\r\n0\r\n\r\n",
        b"5;a=\nb\r\nhello\r\n0\r\n\r\n",
    ),
    *(b"5 \r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n"),
    *(b"5\r\nhello0\r\n\r\n", b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", b"-5\r\nhello", b"g\r\n"),
    *(b"5\r\nhelloX\n0\r\n\r\n", b"5\r\nhello\r\n0\n\n", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhel"),
    *(b"10000000000000005\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    *(b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nHost: b\r\n\r\n", b"5\r\nhello\r\n0\r\n"),
    *(b"\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n", b"0\r\n" + SMUGGLED, b"5\r\nhello\r\n0\r\n \r\n"),
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    b"1;a=" + b"b" * 5_000 + b"\r\nx\r\n0\r\n\r\n",
]
BODIES = [
    b"",
    b"hello",
    b"hello, world",
    SMUGGLED,
    b"0\r\n\r\n",
    b"0\r\n\r\n" + SMUGGLED,
    b"5\r\nhello",
]
BITS = [
    *(
        b"",
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\x00",
        b"\x0b",
    ),
    *(b"0", b"5", b"f", b"-", b"_", b"#", b"?", b"/", b"\x7f", b"\x80", b"\xff", b'"', b"\\", b"="),
]


def seldom(draw: st.DrawFn, one_in: int) -> bool:
    """True now and then, and never where an example is made smaller."""
    return draw(st.integers(0, one_in - 1)) == one_in - 1


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that is right or nearly so."""
    odd = seldom(draw, 3)
    method = draw(st.sampled_from(METHODS if odd else METHODS[:6]))
    target = draw(st.sampled_from(TARGETS if odd else TARGETS[:18]))
    version = draw(st.sampled_from(VERSIONS if odd else VERSIONS[:1]))
    lines = [] if odd and seldom(draw, 4) else [HOST]
    lines += draw(st.lists(st.sampled_from(FIELDS), max_size=3))
    chunked = draw(st.booleans())
    body = draw(st.sampled_from(CHUNKS if chunked else BODIES))
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    elif body or draw(st.booleans()):
        length = len(body) + (draw(st.integers(-3, 3)) if seldom(draw, 4) else 0)
        lines.append(b"Content-Length: %d" % length)
    if seldom(draw, 3):
        lines += draw(st.lists(st.sampled_from(ODD_LINES), min_size=1, max_size=2))
    lines = draw(st.permutations(lines))
    return b"\r\n".join([b" ".join((method, target, version)), *lines, b"", body])


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Some requests on one connection, perhaps damaged or cut off, in any pieces."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(BITS)) + data[at + draw(st.integers(0, 2)) :]
    if seldom(draw, 6):
        data = data[: draw(st.integers(0, len(data)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations())
def test_whatever_is_sent(harmless: Callable[[list[bytes]], Any], pieces: list[bytes]) -> None:
    """What is metered is what is seen, by all servers alike, and the next client is safe."""
    passed = harmless(pieces)
    event(f"{len(passed.seen)} seen, answered {[answer.status for answer in passed.answers]}")
