"""What is known to make two readers of HTTP disagree, one by one."""

from collections.abc import Callable
from typing import Any

import pytest

HOST = b"Host: a.example"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"


def get(target: bytes = b"/a", *lines: bytes) -> bytes:
    """A GET with these fields beside Host."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, HOST, *lines, b"", b""])


def post(body: bytes, *lines: bytes) -> bytes:
    """A POST with exactly these fields beside Host."""
    return b"\r\n".join([b"POST /b HTTP/1.1", HOST, *lines, b"", body])


def chunked(body: bytes, *lines: bytes) -> bytes:
    """A POST in chunks."""
    return post(body, b"Transfer-Encoding: chunked", *lines)


def sized(body: bytes, *lines: bytes) -> bytes:
    """A POST with its length."""
    return post(body, b"Content-Length: %d" % len(body), *lines)


BAD = get(b"/bad", b" folded")
EXPECTING = b"Expect: 100-continue"
CASES = {
    # what is sent: how many requests are seen, and the statuses that the client gets
    "one": (get(), 1, [200]),
    "several": (get() + sized(b"x") + chunked(b"1\r\nx\r\n0\r\n\r\n") + get(), 4, [200] * 4),
    "both lengths": (
        post(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        0,
        [400],
    ),
    "both, the other way": (
        post(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked", b"Content-Length: 99"),
        0,
        [400],
    ),
    "two lengths": (post(b"hello", b"Content-Length: 5", b"Content-Length: 4"), 0, [400]),
    "one length twice": (post(b"hello", b"Content-Length: 5", b"Content-Length: 5"), 0, [400]),
    "a list of lengths": (post(b"hello", b"Content-Length: 5, 5"), 0, [400]),
    "a signed length": (post(b"hello", b"Content-Length: +5"), 0, [400]),
    "a huge length": (post(b"hello", b"Content-Length: 18446744073709551621"), 0, [400]),
    "a length with a low line": (post(b"hello", b"Content_Length: 5"), 0, [400]),
    "a coding hidden by a tab": (post(b"0\r\n\r\n", b"Transfer-Encoding:\tchunked"), 1, [200]),
    "a coding hidden by a form feed": (post(b"", b"Transfer-Encoding: \x0cchunked"), 0, [400]),
    "an unknown coding": (post(b"0\r\n\r\n", b"Transfer-Encoding: xchunked"), 0, [501]),
    "two codings": (post(b"0\r\n\r\n", b"Transfer-Encoding: gzip, chunked"), 0, [501]),
    "a coding twice": (chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), 0, [501]),
    "identity": (post(b"hello", b"Content-Length: 5", b"Transfer-Encoding: identity"), 0, [400]),
    "a coding with a space before its colon": (post(b"", b"Transfer-Encoding : chunked"), 0, [400]),
    "a coding in HTTP/1.0": (chunked(b"0\r\n\r\n").replace(b"1.1", b"1.0"), 0, [400]),
    "folding": (get(b"/a", b"X: y", b" z"), 0, [400]),
    "folding at once": (b"GET / HTTP/1.1\r\n Host: a.example\r\n\r\n", 0, [400]),
    "a folded coding": (post(b"0\r\n\r\n", b"Transfer-Encoding:", b" chunked"), 0, [400]),
    "bare LF": (get().replace(b"\r\n", b"\n"), 0, [400]),
    "one bare LF": (get(b"/a", b"X: y\nTransfer-Encoding: chunked"), 0, [400]),
    "bare CR": (get(b"/a", b"X: y\rZ: z"), 0, [400]),
    "NUL in a value": (get(b"/a", b"X: \x00"), 0, [400]),
    "NUL in a name": (get(b"/a", b"X\x00: y"), 0, [400]),
    "a space in a name": (get(b"/a", b"X Y: z"), 0, [400]),
    "no name": (get(b"/a", b": y"), 0, [400]),
    "no colon": (get(b"/a", b"X"), 0, [400]),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 0, [400]),
    "an empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 0, [400]),
    "two Hosts": (get(b"/a", b"Host: b.example"), 0, [400]),
    "one Host twice": (get(b"/a", HOST), 0, [400]),
    "a path in Host": (b"GET / HTTP/1.1\r\nHost: a.example/../b\r\n\r\n", 0, [400]),
    "a question mark in Host": (b"GET / HTTP/1.1\r\nHost: a.example?x\r\n\r\n", 0, [400]),
    "HTTP/0.9": (b"GET /\r\n\r\n", 0, [400]),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n" + get(), 1, [200]),
    "HTTP/1.0, kept alive": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get(),
        2,
        [200, 200],
    ),
    "HTTP/1.2": (get().replace(b"1.1", b"1.2"), 0, [505]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, [505]),
    "absolute-form": (get(b"http://a.example/x?y"), 1, [200]),
    "absolute-form without a path": (get(b"http://a.example"), 1, [200]),
    "absolute-form of another host": (get(b"http://b.example/x"), 0, [400]),
    "absolute-form with a user": (get(b"http://a.example@b.example/x"), 0, [400]),
    "authority-form": (b"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n", 0, [501]),
    "asterisk-form": (get(b"*").replace(b"GET", b"OPTIONS"), 1, [200]),
    "asterisk-form of GET": (get(b"*"), 0, [400]),
    "a relative path": (get(b"a"), 0, [400]),
    "encoded slashes and dots": (get(b"/%2Fa/%2e%2e/b%2fc"), 1, [200]),
    "double slashes": (get(b"//a.example//b"), 1, [200]),
    "dot segments": (get(b"/a/./../../b"), 1, [200]),
    "a bad escape": (get(b"/%zz%"), 1, [200]),
    "a NUL in the path": (get(b"/%00"), 1, [200]),
    "bytes that are no UTF-8": (get(b"/%FF%FE"), 1, [200]),
    "a fragment": (get(b"/a#b"), 0, [400]),
    "two spaces": (get(b"/a b"), 0, [400]),
    "a tab": (get().replace(b" /a ", b"\t/a\t"), 0, [400]),
    "no ASCII": (get("/ä".encode()), 0, [400]),
    "a long line": (get(b"/" + b"a" * 9_000), 0, [414]),
    "a long head": (get(b"/a", *[b"X: " + b"y" * 8_000] * 5), 0, [431]),
    "many fields": (get(b"/a", *[b"X: y"] * 200), 0, [431]),
    "a method in small letters": (get().lower().replace(b"http", b"HTTP"), 0, [400]),
    "an empty line first": (b"\r\n" + get(), 1, [200]),
    "a request in a body": (sized(SMUGGLED) + get(), 2, [200, 200]),
    "a request in a chunk": (
        chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)) + get(),
        2,
        [200, 200],
    ),
    "a request after a body that is too long": (sized(b"hello") + SMUGGLED, 2, [200, 200]),
    "bytes after a body": (sized(b"hello") + b" " + get(), 1, [200, 400]),
    "a body that is too short": (post(b"hel", b"Content-Length: 5"), 1, []),
    "a body that takes the next request": (post(SMUGGLED, b"Content-Length: 500"), 1, []),
    "a GET with a body": (get(b"/a", b"Content-Length: 5") + b"hello" + get(), 2, [200, 200]),
    "a GET with a body that it does not tell": (get() + b"hello\r\n\r\n", 1, [200, 400]),
    "good, bad, good": (get() + BAD + get(), 1, [200, 400]),
    "good, good, bad": (get() + get() + BAD, 2, [200, 200, 400]),
    "bad, good": (BAD + get(), 0, [400]),
    "good, cut off": (get() + get()[:-5], 1, [200]),
    "good, then a wrong chunk": (get() + chunked(b"x\r\n"), 1, [200, 400]),
    "chunk extensions": (chunked(b'5;a;b=c;d="e;\\""\r\nhello\r\n0;z\r\n\r\n'), 1, [200]),
    "trailers": (chunked(b"0\r\nHost: b\r\nContent-Length: 5\r\n\r\n") + get(), 2, [200, 200]),
    "a chunk's size with a sign": (chunked(b"+5\r\nhello\r\n0\r\n\r\n"), 0, [400]),
    "a chunk's size with 0x": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 0, [400]),
    "a chunk's size with a space": (chunked(b"5 \r\nhello\r\n0\r\n\r\n"), 0, [400]),
    "a chunk's size that overflows": (chunked(b"10000000000000005\r\nhello"), 0, [400]),
    "a chunk's size that ends in LF": (chunked(b"5\nhello\r\n0\r\n\r\n"), 0, [400]),
    "a chunk's size that ends in CR": (chunked(b"5\rhello\r\n0\r\n\r\n"), 0, [400]),
    "a chunk extension with LF": (chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), 0, [400]),
    "a long chunk extension": (chunked(b"1;a=" + b"b" * 5_000 + b"\r\nx\r\n0\r\n\r\n"), 0, [400]),
    "a chunk without its end": (chunked(b"5\r\nhello0\r\n\r\n"), 0, [400]),
    "a chunk with another end": (chunked(b"5\r\nhelloXX0\r\n\r\n"), 0, [400]),
    "chunks that end in LF": (chunked(b"0\n\n" + SMUGGLED), 0, [400]),
    "chunks without an end": (chunked(b"5\r\nhello\r\n"), 1, []),
    "trailers with a space before the colon": (chunked(b"0\r\nX : y\r\n\r\n"), 0, [400]),
    "Expect": (sized(b"hello", EXPECTING) + get(), 2, [200, 200]),
    "Expect, and no body": (post(b"", b"Content-Length: 5", EXPECTING), 1, []),
    "Expect, and the next request for a body": (
        post(get(), b"Content-Length: %d" % len(get()), EXPECTING) + get(),
        2,
        [200, 200],
    ),
    "Expect without a body": (get(b"/a", EXPECTING) + get(), 2, [200, 200]),
    "Expect something else": (sized(b"hello", b"Expect: 200-ok") + get(), 2, [200, 200]),
    "Connection: close": (get(b"/a", b"Connection: close") + get(), 1, [200]),
    "Connection names lengths": (
        sized(SMUGGLED, b"Connection: content-length, host, transfer-encoding"),
        1,
        [200],
    ),
    "Connection names Host": (get(b"/a", b"Connection: Host, X", b"X: y"), 1, [200]),
    "an upgrade to HTTP/2": (
        get(
            b"/a",
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABk",
        )
        + get(),
        2,
        [200, 200],
    ),
    "an upgrade with a body": (
        sized(SMUGGLED, b"Connection: Upgrade", b"Upgrade: h2c") + get(),
        2,
        [200, 200],
    ),
    "a WebSocket's upgrade with a body": (
        sized(SMUGGLED, b"Connection: Upgrade", b"Upgrade: websocket") + get(),
        2,
        [200, 200],
    ),
    "a method in a header": (get(b"/a", b"X-HTTP-Method-Override: DELETE"), 1, [200]),
    "HEAD": (get().replace(b"GET", b"HEAD") + get(), 2, [200, 200]),
    "HEAD with a body": (sized(SMUGGLED).replace(b"POST", b"HEAD") + get(), 2, [200, 200]),
    "TRACE": (get().replace(b"GET", b"TRACE") + get(), 2, [200, 200]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_to_confuse(harmless: Callable[[list[bytes]], Any], name: str) -> None:
    """Each gets the answers that it should, and is seen as often as it should."""
    data, seen, statuses = CASES[name]
    passed = harmless([data])
    assert len(passed.seen) == seen
    assert [answer.status for answer in passed.answers] == statuses


def test_what_nobody_was_asked_for(sent: Callable[[list[bytes]], Any]) -> None:
    """A body that is wrong in what comes with its head is refused, and never metered."""
    seen, received, events = sent([chunked(b"x\r\n")])
    assert received.startswith(b"HTTP/1.1 400 ")
    assert not seen
    assert not events


def test_an_upgrade_that_the_server_ignores(sent: Callable[[list[bytes]], Any]) -> None:
    """A server without WebSockets serves the handshake as a GET, and that it is to the meter."""
    handshake = get(b"/a", b"Connection: Upgrade", b"Upgrade: websocket")
    seen, received, events = sent([handshake + get()])
    assert received.count(b"HTTP/1.1 200 ") == len(seen) == 2
    assert [(event.metric, event.request_method) for event in events] == [
        *[("ASKED", "GET")] * 2,
        *[("ANSWERED", "GET")] * 2,
    ]
