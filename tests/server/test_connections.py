"""Connections that send too much of what is no body, over TCP."""

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from usageflow.server.connections import HEAD_BYTES_MAX, TOO_LARGE, BoundedConnection

MEGABYTE = 1 << 20


async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how many bytes the body has."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server with such connections."""
    config = uvicorn.Config(
        count, http=BoundedConnection, ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        serving.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        serving.join()


def answered(port: int, *parts: bytes) -> bytes:
    """All that is answered to these parts, until the server closes the connection."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            for part in parts:
                client.sendall(part)
            while more := client.recv(65_536):
                got += more
        except ConnectionError:  # it was closed with some of ours unread
            pass
    return got


START = b"POST / HTTP/1.1\r\nhost: a\r\n"
LAST = b"connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [START, *[b"x-a: " + b"a" * 1_000 + b"\r\n"] * 1_000],
        [START, b"x-a: ", *[b"a" * 50_000] * 100],
        [b"GET /", *[b"a" * 50_000] * 100],
        [
            START,
            b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
            *[b"x-a: a\r\n" * 5_000] * 50,
        ],
    ],
    ids=["many headers", "one header", "target", "trailers"],
)
def test_who_sends_without_an_end_is_shut_out(port: int, parts: list[bytes]) -> None:
    """However it is called that is sent: the connection ends, others are served."""
    got = answered(port, *parts)
    assert got == b"" or got.startswith(b"HTTP/1.1 400 ")
    assert answered(port, START, b"content-length: 2\r\n", LAST, b"ab").endswith(b"\r\n\r\n2")


def test_the_limit_is_said(port: int) -> None:
    """To who waits for an answer."""
    got = answered(port, START, b"x-a: " + b"a" * HEAD_BYTES_MAX)
    assert got.endswith(TOO_LARGE.encode())


def test_bodies_are_no_heads(port: int) -> None:
    """A large one is taken, whole or in chunks."""
    body = b"b" * MEGABYTE
    length = f"content-length: {MEGABYTE}\r\n".encode()
    assert answered(port, START, length, LAST, body).endswith(str(MEGABYTE).encode())
    chunk = b"1000\r\n" + b"c" * 0x1000 + b"\r\n"
    chunks = [chunk] * (MEGABYTE // 0x1000)
    got = answered(port, START, b"transfer-encoding: chunked\r\n", LAST, *chunks, b"0\r\n\r\n")
    assert got.endswith(str(MEGABYTE).encode())


def test_each_request_begins_anew(port: int) -> None:
    """Many heads on one connection are not one large one."""
    head = START + b"x-a: " + b"a" * (HEAD_BYTES_MAX // 2) + b"\r\ncontent-length: 0\r\n"
    got = answered(port, *[head + b"\r\n"] * 9, head, LAST)
    assert got.count(b"HTTP/1.1 200 ") == 10
