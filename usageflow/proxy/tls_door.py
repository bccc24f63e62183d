"""Where TLS clients come in: their connections are counted before the handshake, not after it.

An asyncio server makes the protocol of a TLS connection when its handshake is done, so that any
number could be kept open by not finishing it. Here a connection is accepted, admitted, and only
then begins its handshake, for a bounded time. What is spoken afterwards is the gateway's.
"""

import asyncio
import logging
import socket
import ssl
from typing import Final

from usageflow.proxy.client_connection import ClientConnection
from usageflow.proxy.gateway import Gateway

ACCEPTED_AT_ONCE_MAX: Final = 64
"""Connections taken in one turn of the loop: those that are open must be served between."""
BREATH_S: Final = 1.0
"""Pause after the system had no file left for a connection: asking at once would only spin."""
COMPLAINT_S: Final = 10.0
"""Handshakes that fail are told at most so often; all are counted."""

logger = logging.getLogger("usageflow.proxy")


class TlsDoor:
    """Accepts from a listening socket, which it owns, until it is closed.

    `handshake_s` is the longest time for a handshake.
    """

    def __init__(
        self,
        gateway: Gateway,
        listener: socket.socket,
        context: ssl.SSLContext,
        *,
        handshake_s: float,
    ) -> None:
        self._gateway = gateway
        self._listener = listener
        self._context = context
        self._handshake_s = handshake_s
        self._loop = asyncio.get_running_loop()
        self._breath: asyncio.TimerHandle | None = None
        self._complained_s = -COMPLAINT_S
        listener.setblocking(False)
        self._open()

    def close(self) -> None:
        """Accept no more. Handshakes that have begun go on."""
        if self._breath is not None:
            self._breath.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _open(self) -> None:
        self._breath = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE_MAX):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:  # no file left
                logger.error("no connection is accepted for %g s: %s", BREATH_S, error)  # noqa: TRY400 - no bug
                self._loop.remove_reader(self._listener)
                self._breath = self._loop.call_later(BREATH_S, self._open)
                return
            client = self._gateway.connection()
            client.peer = address[0] if isinstance(address, tuple) else "unix"
            if self._gateway.admit(client) is None:
                connection.setblocking(False)
                self._gateway.spawn(self._shake_hands(client, connection))
            else:
                connection.close()

    async def _shake_hands(self, client: ClientConnection, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: client,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_s,
            )
        except OSError as error:  # no TLS, an old version, too slow, or gone
            connection.close()
            self._gateway.forget(client)
            self._complain(client.peer, error)
        except BaseException:
            connection.close()
            self._gateway.forget(client)
            raise

    def _complain(self, peer: str, error: OSError) -> None:
        self._gateway.figures.handshakes_failed += 1
        now = self._loop.time()
        if now - self._complained_s >= COMPLAINT_S:
            self._complained_s = now
            logger.warning("the TLS handshake of %s failed: %s", peer, error)
