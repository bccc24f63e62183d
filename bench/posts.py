"""POST requests over kept-alive connections: each asks again as soon as it was answered.

Requests are made beforehand, so that almost nothing is left to do but sending and receiving.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from bench.servers import OTHER_CORE, pinned

SILENCE_S_MAX = 60.0
"""With no answer at all for so long the run has failed."""


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A request."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join(
        [f"POST {path} HTTP/1.1", "host: bench", *lines, f"content-length: {len(body)}", "", ""]
    )
    return head.encode() + body


class _Connection:
    __slots__ = ("asked_s", "got", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.got = b""
        self.asked_s = 0.0

    def answered(self) -> bytes | None:
        """Read what is there; the body, if the answer is complete. Raises ConnectionError."""
        data = self.socket.recv(1_048_576)
        self.got += data
        head, end, body = self.got.partition(b"\r\n\r\n")
        if not data or (end and not head.startswith(b"HTTP/1.1 20")):
            raise ConnectionError(f"a request failed: {self.got[:300]!r}")
        if not end:
            return None
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return None
        self.got = b""
        return body


def send_all(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[float]]:
    """Send every request; the seconds from the first byte to the last answer, and of each.

    Raises ConnectionError for any answer but 200 and 201.
    """
    clients = [_Connection(port) for _ in range(connections)]
    try:
        with pinned(OTHER_CORE):
            return _send_all(clients, requests)
    finally:
        for client in clients:
            client.socket.close()


def _send_all(
    clients: Sequence[_Connection], requests: Sequence[bytes]
) -> tuple[float, list[float]]:
    by_fd = {client.socket.fileno(): client for client in clients}
    waiting, times, clock = deque(requests), list[float](), time.perf_counter
    with select.epoll() as epoll:
        for fd in by_fd:
            epoll.register(fd, select.EPOLLIN)
        began_s = clock()
        for client in clients:
            _ask(client, waiting, clock())
        while len(times) < len(requests):
            ready = epoll.poll(SILENCE_S_MAX)
            if not ready:
                raise ConnectionError(f"no answer for {SILENCE_S_MAX:.0f} s")
            for fd, _ in ready:
                client = by_fd[fd]
                if client.answered() is not None:
                    now_s = clock()
                    times.append(now_s - client.asked_s)
                    _ask(client, waiting, now_s)
    return clock() - began_s, times


def _ask(client: _Connection, waiting: "deque[bytes]", now_s: float) -> None:
    if waiting:
        client.asked_s = now_s
        client.socket.sendall(waiting.popleft())
