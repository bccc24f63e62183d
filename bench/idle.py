"""What a kept-alive connection costs in memory while it rests, after one request each."""

import socket
import time
from contextlib import ExitStack

from bench.load import drive
from bench.middleware import POLICIES
from bench.proxies import Proxy, nginx, nginx_version, usageflow
from bench.report import Line, show
from bench.servers import OTHER_CORE, free_port, python, rss_bytes, running, scratch
from bench.upstream import ANSWER

CONNECTIONS = 1_000
WARM_UP = 5_000
SETTLE_S = 1
KIB_MAX = 40
REQUEST = b"GET /v1/items/7 HTTP/1.1\r\nhost: bench\r\nx-account-id: acct_42\r\n\r\n"


def _ask(client: socket.socket) -> None:
    client.sendall(REQUEST)
    answer = b""
    while not answer.endswith(ANSWER):
        more = client.recv(4_096)
        assert more, answer
        answer += more


def _kib_each(proxy: Proxy) -> float:
    drive(proxy.port, "/v1/items/7", WARM_UP)
    time.sleep(SETTLE_S)
    before = rss_bytes(proxy.pid)
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            client = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
            _ask(stack.enter_context(client))
        time.sleep(SETTLE_S)
        return (rss_bytes(proxy.pid) - before) / CONNECTIONS / 1024


def main() -> None:
    """Measure and print."""
    version = nginx_version()
    lines = []
    with scratch() as directory, ExitStack() as stack:
        upstream = free_port()
        stack.enter_context(running(python("bench.upstream", str(upstream)), upstream, OTHER_CORE))
        ours = _kib_each(stack.enter_context(usageflow(directory, upstream, POLICIES)))
        lines.append(Line("usageflow", f"{ours:.1f} KiB", f"{KIB_MAX} KiB", ours <= KIB_MAX))
        if version:
            theirs = _kib_each(stack.enter_context(nginx(directory, upstream)))
            lines.append(Line("nginx", f"{theirs:.1f} KiB"))
    show(f"Idle: RSS for each of {CONNECTIONS:,} kept-alive connections after a request", lines)
