"""Broken connections: how a reset reaches the client as a real TCP reset.

ASGI has no word for it, so our uvicorn protocol lends the transport to the app through the scope's
extensions. Under another server the reset becomes an exception, which that server answers its way.
"""

import socket
import struct
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TRANSPORT: Final = "usageflow.stripe.emulator.transport"
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class ResettableProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with one addition: the app can reach the connection."""

    def on_message_begin(self) -> None:
        """Open the request's scope, with the transport in its extensions."""
        super().on_message_begin()
        extensions: dict[str, Any] = {_TRANSPORT: self.transport}
        self.scope["extensions"] = extensions


class ConnectionReset(Response):
    """The response that never comes: the connection is reset without a byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Reset the connection and wait until the server has noticed."""
        transport = scope.get("extensions", {}).get(_TRANSPORT)
        if transport is None:
            raise ConnectionResetError("the emulator was asked to break this connection")
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass
