"""One process that serves: its loop, its socket, and the order in which things start and stop.

It knows no HTTP, which is the gateway's, and starts no other process, which is for `workers`.
"""

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Final

import uvloop

from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.proxy.certificates import Certificates
from usageflow.proxy.figures_block import FiguresBlock, Slot
from usageflow.proxy.gateway import Gateway
from usageflow.proxy.listening import (
    BACKLOG,
    Listening,
    admit,
    allow_files,
    announcement,
    files_needed,
    turn_away,
)
from usageflow.proxy.report import admin, blank, reading
from usageflow.proxy.signals import on_signals
from usageflow.proxy.tls_door import TlsDoor

GC_ALLOCATIONS: Final = 20_000
"""Net allocations between two looks of the collector; the default of 700 is one in ten requests."""
LAST_ARRIVALS_S: Final = 0.2
"""How long a stopping process still accepts: a handshake that began before takes at most one way
across the world to end."""
SHIP_S: Final = 1.0
"""What a stopping process at least has for its last delivery, when requests took all the time: what
is not delivered waits in the spool."""
DRAIN_LOOK_S: Final = 0.02
"""How often a draining process looks whether it is done."""
PUBLISH_S: Final = 0.25
"""How often the figures are told: more often than anybody asks, and 0.1 % of a core."""

logger = logging.getLogger("usageflow.proxy")


class Serving:
    """A gateway on a socket, from its start until it was told to stop and has drained.

    To be made in a running loop. `slot` is where its figures go. Raises ConfigurationError for
    what cannot be served.
    """

    def __init__(self, settings: Settings, listener: socket.socket, slot: Slot) -> None:
        self._settings = settings
        self._listener = listener
        self._slot = slot
        self._certificates = (
            Certificates(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        )
        self._gateway = Gateway(settings)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Stop gracefully; `run` returns when it is done. May be called again."""
        self._stopping.set()

    def reload(self) -> None:
        """Read policies and certificates again and reopen the access log; drops nothing."""
        logger.info("reloading")
        if self._certificates is not None:
            self._certificates.reload()
        self._gateway.reload()

    async def run(self, on_serving: Callable[[], None]) -> int:
        """Serve until `stop`; what is in flight then has `drain_timeout_s` to end.

        What is left of that time goes to the delivery of what was metered.

        `on_serving` is called as soon as connections are accepted, which is not before the first
        policies are there or were waited for. Raises ConfigurationError if somebody else has
        begun to listen on the address. Returns how many events were lost, as the disk did not take
        them until the end.
        """
        loop = asyncio.get_running_loop()
        keeping: asyncio.Task[None] | None = None
        ship_s = SHIP_S
        try:
            await self._gateway.start()
            _settle_memory()
            server = await self._listen()
            keeping = loop.create_task(self._keep_up())  # whoever reads "ready" can connect
            on_serving()
            await self._stopping.wait()
            stopping_s = loop.time()
            deadline_s = stopping_s + self._settings.drain_timeout_s
            await self._drain(server, deadline_s)
            ship_s = max(SHIP_S, deadline_s - loop.time())
        finally:
            lost = await self._gateway.aclose(ship_s)
            if keeping is not None:
                keeping.cancel()
        logger.info("stopped: it took %.1f s", loop.time() - stopping_s)
        return lost

    async def _listen(self) -> asyncio.Server | TlsDoor:
        loop = asyncio.get_running_loop()
        unix = self._listener.family == socket.AF_UNIX
        admit(self._listener)
        try:
            self._listener.listen(BACKLOG)  # uvloop would tell nobody that it cannot
        except OSError as error:  # two were started at the same moment
            raise ConfigurationError(
                f"cannot listen on {self._settings.listen}: {error.strerror}"
            ) from None
        if self._certificates is not None:
            return TlsDoor(
                self._gateway,
                self._listener,
                self._certificates.context,
                handshake_s=self._settings.client_header_timeout_s,
            )
        return await (loop.create_unix_server if unix else loop.create_server)(
            self._gateway.connection, sock=self._listener, backlog=BACKLOG
        )

    async def _drain(self, server: asyncio.Server | TlsDoor, deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        logger.info(
            "stopping: %d connections, at most %g s",
            self._gateway.figures.connections_open,
            self._settings.drain_timeout_s,
        )
        turn_away(self._listener)
        self._gateway.drain()
        await asyncio.sleep(LAST_ARRIVALS_S)
        server.close()
        while not self._gateway.drained:
            if loop.time() > deadline_s:
                logger.warning("what is still in flight is cut: it did not end in time")
                return
            await asyncio.sleep(DRAIN_LOOK_S)

    async def _keep_up(self) -> None:
        """Tell the figures, and look at the certificate files now and then."""
        clock = asyncio.get_running_loop().time
        look_at_s = clock() + self._settings.tls_poll_s
        while True:
            self._slot.publish(reading(self._gateway))
            if self._certificates is not None and clock() > look_at_s:
                self._certificates.poll()
                look_at_s = clock() + self._settings.tls_poll_s
            await asyncio.sleep(PUBLISH_S)


def run(settings: Settings) -> None:
    """Serve in this process, with one worker, until SIGTERM or SIGINT, then drain and return.

    Raises ConfigurationError when an address, a certificate, an upstream or the policies cannot
    be used. Ends the process with status 1 if events were lost, which the log then tells.
    """
    allow_files(files_needed(settings))
    block = FiguresBlock(blank(settings), workers=1)
    with closing(block), Listening.bind(settings.listen) as listening, admin(settings, block):
        lost = uvloop.run(_run(settings, listening, block.slot(0)))
    if lost:
        sys.exit(1)


async def _run(settings: Settings, listening: Listening, slot: Slot) -> int:
    serving = Serving(settings, listening.sockets[0], slot)

    def stop() -> None:
        listening.withdraw()
        serving.stop()

    on_signals(stop=stop, reload=serving.reload)
    return await serving.run(lambda: logger.info("%s", announcement(settings, listening.address)))


def _settle_memory() -> None:
    """Spare the collector what lives as long as the process: 4 to 6 % of a small request's CPU.

    A request leaves no cycles of its own behind, so looking for them less often costs no memory.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
