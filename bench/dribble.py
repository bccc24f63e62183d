"""Clients that never finish a head: `python -m bench.dribble PORT` opens 1,000 and feeds them.

Each gets a byte of a header every second until it is closed. One line is printed when all are open,
and one at the end: how many were closed, and the seconds after which the first and the last were.
"""

import asyncio
import sys
import time
from typing import Any

import uvloop

CONNECTIONS = 1_000
BYTE_EVERY_S = 1.0
SLICES = 20
"""Connections get their bytes in so many groups, one after the other: evenly, not all at once."""
WAIT_S_MAX = 20.0
BEGINNING = b"GET /v1/items/7 HTTP/1.1\r\nhost: bench\r\nx-slow: "


class Slow(asyncio.Protocol):
    """One such client."""

    def __init__(self, closed_after_s: list[float]) -> None:
        self.closed_after_s = closed_after_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note when."""
        self.transport: Any = transport  # uvloop's is no asyncio.Transport
        self.opened_s = time.monotonic()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - see Protocol
        """Note when."""
        self.closed_after_s.append(time.monotonic() - self.opened_s)


async def main(port: int) -> None:
    """Open all, then feed them until all are closed, or for so long."""
    loop = asyncio.get_running_loop()
    closed_after_s: list[float] = []
    clients: list[Slow] = []
    for _ in range(CONNECTIONS):
        _, client = await loop.create_connection(lambda: Slow(closed_after_s), "127.0.0.1", port)
        client.transport.write(BEGINNING)
        clients.append(client)
    print("open", flush=True)
    for turn in range(int(WAIT_S_MAX / BYTE_EVERY_S * SLICES)):
        if len(closed_after_s) == CONNECTIONS:
            break
        for client in clients[turn % SLICES :: SLICES]:
            if not client.transport.is_closing():
                client.transport.write(b"x")
        await asyncio.sleep(BYTE_EVERY_S / SLICES)
    first_s, last_s = min(closed_after_s, default=0.0), max(closed_after_s, default=0.0)
    print(len(closed_after_s), first_s, last_s, flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
