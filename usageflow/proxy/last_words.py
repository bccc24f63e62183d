"""The answer of an upstream that refused an upload and hung up.

It may lie in the kernel, complete, when our next write fails; the event loop then closes the
socket and the answer is lost: two of three times, with an upstream that does not linger. A second
handle on the socket keeps it readable. What TLS carries cannot be read this way.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

_READ_BYTES: Final = 65_536
_READS_MAX: Final = 16
"""A refusal is short; what is longer than this was cut by the upstream itself."""


class LastWords:
    """A second handle on a transport's socket; the connection ends only when it is closed too."""

    __slots__ = ("_socket",)

    def __init__(self, transport: asyncio.Transport) -> None:
        handle = os.dup(transport.get_extra_info("socket").fileno())
        self._socket = socket.socket(fileno=handle)

    @classmethod
    def of(cls, transport: asyncio.Transport) -> "LastWords | None":
        """A second handle, if its bytes can be understood and there are handles left."""
        if transport.get_extra_info("sslcontext") is not None:
            return None
        with suppress(OSError):
            return cls(transport)
        return None

    def read(self) -> Iterator[bytes]:
        """What arrived and was not read yet."""
        self._socket.setblocking(False)
        try:
            for _ in range(_READS_MAX):
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    return
                yield data
        except OSError:  # nothing more, or the reset itself
            return

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
