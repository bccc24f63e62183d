"""Bodies of 100 MiB in both directions: they pass as they come and are not kept."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
LARGE = 100
"""MiB of a body that nobody should keep."""
GROWTH = 48 * MIB
"""What the process may grow by meanwhile: buffers of sockets, and whatever else it does."""
PATIENCE_S = 30.0
ACCOUNT = (b"x-account", b"acct_1")
TOO_LARGE = "larger than body_bytes_max (1048576 bytes)"
TOO_LARGE_EVENT = "an event of the stream is too large to be measured"


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def little_growth() -> Iterator[None]:
    """Looks every few milliseconds how much memory the process has."""
    began = most = resident()
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.005):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    assert most - began < GROWTH


@contextmanager
def wire_to(port: int) -> Iterator[socket.socket]:
    """A connection that does not wait for ever."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as wire:
        yield wire


@pytest.mark.parametrize("path", ["/asked", "/sized"])
def test_a_large_upload(site: Any, head: Callable[..., bytes], path: str) -> None:
    """The app's digest is of all of it; its bytes are counted, its content is unmeasured."""
    sent = head(path, ACCOUNT, (b"content-type", b"application/json"), length=LARGE * MIB)
    seen = hashlib.sha256(f"POST\0{path}\0\0".encode())
    for line in sent.split(b"\r\n")[1:-2]:
        seen.update(line.replace(b": ", b":", 1) + b"\0")
    chunk = b'{"n": 1}' * (MIB // 8)
    site.app.answers[path] = ([], lambda: [b"ok"])
    answer = b""
    with little_growth(), wire_to(site.metered_port) as wire:
        wire.sendall(sent)
        for _ in range(LARGE):
            seen.update(chunk)
            wire.sendall(chunk)
        while part := wire.recv(MIB):
            answer += part
    (event,) = site.events(1)
    assert b"x-seen: " + seen.hexdigest().encode() in answer
    if path == "/sized":
        assert (event.state, event.quantity) == ("counted", Decimal(LARGE * MIB + len(b"ok")))
    else:
        assert (event.state, event.reason) == ("inbox", f"request body: {TOO_LARGE}")


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [
        ("/answered", b"application/json", f"response body: {TOO_LARGE}"),
        ("/answered", b"text/event-stream", TOO_LARGE_EVENT),
        ("/answered", b"application/x-ndjson", TOO_LARGE_EVENT),
        ("/sized", b"application/json", None),
    ],
)
def test_a_large_download(
    site: Any, head: Callable[..., bytes], path: str, kind: bytes, reason: str | None
) -> None:
    """Every byte arrives; of a stream that is one endless event nothing is kept either."""
    chunk = b'{"n": 1,' * (MIB // 8)
    site.app.answers[path] = ([(b"content-type", kind)], lambda: [chunk] * LARGE)
    got, wanted = hashlib.sha256(), hashlib.sha256()
    for _ in range(LARGE):
        wanted.update(b"%x\r\n%b\r\n" % (MIB, chunk))
    wanted.update(b"0\r\n\r\n")
    with little_growth(), wire_to(site.metered_port) as wire, wire.makefile("rb") as answer:
        wire.sendall(head(path, ACCOUNT, length=0))
        while answer.readline() != b"\r\n":
            pass
        while part := answer.read1(MIB):
            got.update(part)
    (event,) = site.events(1)
    assert got.digest() == wanted.digest()
    assert event.reason == reason
    assert event.state == ("counted" if reason is None else "inbox")
    assert event.quantity == (Decimal(LARGE * MIB) if reason is None else None)
