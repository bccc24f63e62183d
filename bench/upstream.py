"""The API behind every proxy that is measured: a small JSON for each request, as fast as can be.

`python -m bench.upstream PORT`. It looks for the end of a head and at nothing else, so that it
costs a fraction of the fastest proxy and is never what limits the run. Requests have no body;
`bench.bulk` is the one for those.
"""

import asyncio
import sys
from typing import Any

import uvloop

ANSWER = b'{"ok":true}'
SMALL = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
    + ANSWER
)


class Server(asyncio.Protocol):
    """One client connection."""

    def __init__(self) -> None:
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: Any = transport  # uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """Answer when a head is complete; nobody who measures pipelines."""
        self.head += data
        if self.head.endswith(b"\r\n\r\n"):
            self.head = b""
            self.transport.write(SMALL)


async def main(port: int) -> None:
    """Serve for ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
