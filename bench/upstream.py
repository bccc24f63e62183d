"""The API behind every proxy that is measured: as little as can answer HTTP/1.1 with httptools.

`python -m bench.upstream PORT`. `/stream/N` answers N MiB, everything else a small JSON.
"""

import asyncio
import sys
from typing import Any

import httptools
import uvloop

SMALL = (
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"ok":true}'
)
MIB = b"x" * 1_048_576


class Server(asyncio.Protocol):
    """One client connection."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.writable = asyncio.Event()
        self.writable.set()
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: Any = transport  # uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Remember the path."""
        self.url = url

    def on_message_complete(self) -> None:
        """Answer."""
        if self.url.startswith(b"/stream/"):
            task = asyncio.get_running_loop().create_task(self.stream(int(self.url[8:])))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self.transport.write(SMALL)

    def pause_writing(self) -> None:
        """Backpressure."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """No more of it."""
        self.writable.set()

    async def stream(self, mib: int) -> None:
        """Send a body of `mib` MiB with its length."""
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (mib * len(MIB))
        self.transport.write(head)
        for _ in range(mib):
            await self.writable.wait()
            self.transport.write(MIB)


async def main(port: int) -> None:
    """Serve for ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
