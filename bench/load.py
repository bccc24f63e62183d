"""A load generator on raw sockets: keep-alive connections, one request in flight on each.

One thread, one epoll, no protocol machinery: it takes less of its core than any proxy of its own,
so the proxies are what is measured. It understands no answer but those of `bench.upstream`.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Sequence

from bench.servers import OTHER_CORE, pinned
from bench.upstream import ANSWER

CONNECTIONS = 32
SILENCE_S_MAX = 20.0
"""With no answer at all for so long the run has failed."""


class _Connection:
    __slots__ = ("asked_s", "got", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.got = b""
        self.asked_s = 0.0

    def answered(self) -> bool:
        """Read what is there; whether the answer is complete. Raises ConnectionError."""
        data = self.socket.recv(65_536)
        self.got += data
        if not data or not self.got.startswith(b"HTTP/1.1 200"[: len(self.got)]):
            raise ConnectionError(f"a request failed: {self.got[:80]!r}")
        if not self.got.endswith(ANSWER):
            return False
        self.got = b""
        return True


def drive(
    port: int,
    path: str,
    requests: int,
    rate_per_s: float | None = None,
    *,
    connections: int = CONNECTIONS,
    cores: set[int] = OTHER_CORE,
) -> list[float]:
    """Send GET requests and return the seconds each took, answer complete. Raises ConnectionError.

    Without a rate each connection asks again as soon as it was answered (a closed loop). With one
    they arrive evenly spaced, and the time of a request runs from when it was due: one that waits
    for a connection because the proxy is slow is not left out of the count.
    """
    request = (
        f"GET {path} HTTP/1.1\r\nhost: bench\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"x-account-id: acct_42\r\n\r\n"
    ).encode()
    clients = [_Connection(port) for _ in range(connections)]
    try:
        with pinned(cores):
            return _drive(clients, request, requests, 1 / rate_per_s if rate_per_s else 0.0)
    finally:
        for client in clients:
            client.socket.close()


def _drive(
    clients: Sequence[_Connection], request: bytes, requests: int, interval_s: float
) -> list[float]:
    by_fd = {client.socket.fileno(): client for client in clients}
    idle = deque(clients)  # taken in turn: none rests until it is closed for it
    clock, times = time.perf_counter, list[float]()
    with select.epoll() as epoll:
        for fd in by_fd:
            epoll.register(fd, select.EPOLLIN)
        begun_s, sent = clock(), 0
        while len(times) < requests:
            now_s = clock()
            while idle and sent < requests and begun_s + sent * interval_s <= now_s:
                client = idle.popleft()
                client.asked_s = begun_s + sent * interval_s if interval_s else clock()
                client.socket.send(request)
                sent += 1
            wait_s = SILENCE_S_MAX
            if idle and sent < requests:
                wait_s = max(0.0, begun_s + sent * interval_s - clock())
            # select because its timeout is in microseconds, where epoll's is in milliseconds.
            ready, _, _ = select.select((epoll,), (), (), wait_s)
            if not ready and wait_s == SILENCE_S_MAX:
                raise ConnectionError(f"no answer for {wait_s:.0f} s")
            for fd, _ in epoll.poll(0):
                client = by_fd[fd]
                if client.answered():
                    times.append(clock() - client.asked_s)
                    idle.append(client)
    return times


def p99_ms(times: list[float]) -> float:
    """The time below which 99 of 100 requests are."""
    return sorted(times)[len(times) * 99 // 100] * 1000
