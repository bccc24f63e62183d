"""A load generator on raw sockets: keep-alive connections, one request in flight on each."""

import asyncio
import os

import uvloop

from bench.servers import OTHER_CORE

CONNECTIONS = 32


async def _client(port: int, request: bytes, answer_bytes: int, requests: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(requests):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(answer_bytes)
    writer.close()


async def _drive(port: int, request: bytes, answer_bytes: int, requests: int) -> None:
    each = requests // CONNECTIONS
    await asyncio.gather(*(_client(port, request, answer_bytes, each) for _ in range(CONNECTIONS)))


def drive(port: int, path: str, answer_bytes: int, requests: int) -> None:
    """Send requests and read the answers, which have a body of `answer_bytes`."""
    request = (
        f"GET {path} HTTP/1.1\r\nhost: bench\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"x-account-id: acct_42\r\n\r\n"
    ).encode()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, OTHER_CORE)
    try:
        uvloop.run(_drive(port, request, answer_bytes, requests))
    finally:
        os.sched_setaffinity(0, before)
