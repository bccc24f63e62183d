"""Connections of the server: uvicorn's, of which none may fill the memory with what it sends.

Bodies are bounded where they are read. What comes besides, a request's head or what follows a
chunked body, uvicorn keeps however much it is. Nothing is answered here but that it is too much.
"""

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX: Final = 65_536
"""Twice what browsers and proxies send at most."""
TOO_LARGE: Final = "The head of the request is too large."


class BoundedConnection(HttpToolsProtocol):
    """A connection that ends once HEAD_BYTES_MAX have come of a request and are no body."""

    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Read on. What came together with a piece of a body, or the end of a request, is free."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.logger.warning(TOO_LARGE)
            self.send_400_response(TOO_LARGE)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._head_bytes = 0
        super().on_message_complete()
