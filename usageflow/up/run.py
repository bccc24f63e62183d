"""The life of `usageflow up`: server, key, policies, proxy; both kept running; stopped in reverse.

The proxy stops first, so that it can ship what it metered; while the server is away it goes on
serving, since its spool is durable.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from usageflow.config import variable
from usageflow.errors import DatabaseError, PolicyFileError
from usageflow.policies import PolicyFile
from usageflow.up import database
from usageflow.up.child import Child, Program

log = logging.getLogger("usageflow.up")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run. `key_name` tells the proxy's key from those of other installations.

    `policies`, if given, is read by `read_policies`, which raises PolicyFileError for a file with
    problems, and looked at every `poll_s`.
    """

    server: Program
    proxy: Program
    database: str
    key_name: str
    policies: Path | None
    read_policies: Callable[[Path], PolicyFile]
    poll_s: float
    on_ready: Callable[[], None]


def run(plan: Plan) -> None:
    """Run server and proxy until SIGINT or SIGTERM; then stop them, the proxy first.

    SIGHUP is passed on to the proxy. A second SIGINT or SIGTERM ends both at once.

    Raises UsageFlowError if one of them does not start; then nothing is left running.
    """
    asyncio.run(_Run(plan).run())


class _Run:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._server = Child(plan.server)
        self._proxy = Child(plan.proxy)
        self._policies = None if plan.policies is None else _PolicyFile(plan, plan.policies)
        self._told = asyncio.Event()
        self._has_key = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._proxy_reloads)
        work = asyncio.ensure_future(self._work())
        told = asyncio.ensure_future(self._told.wait())
        try:
            await asyncio.wait((work, told), return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        finally:
            await self._stop()

    async def _work(self) -> None:
        """Start everything, then keep it running until cancelled."""
        plan = self._plan
        await self._server.start()
        if self._policies is not None:
            await self._policies.publish()
        key = await asyncio.to_thread(database.renew_key, plan.database, plan.key_name)
        self._has_key = True
        await self._proxy.start({variable("api_key"): key})
        plan.on_ready()
        async with asyncio.TaskGroup() as keeping:
            keeping.create_task(self._server.keep())
            keeping.create_task(self._proxy.keep())
            if self._policies is not None:
                keeping.create_task(self._policies.watch())

    async def _stop(self) -> None:
        await self._proxy.stop()
        await self._server.stop()
        if not self._has_key:
            return
        plan = self._plan
        try:
            await asyncio.to_thread(database.revoke_key, plan.database, plan.key_name)
        except DatabaseError as error:
            log.warning("the key of the proxy is revoked at the next start: %s", error)

    def _end(self) -> None:
        if self._told.is_set():  # somebody insists
            for child in (self._proxy, self._server):
                child.signal(signal.SIGKILL)
        self._told.set()

    def _proxy_reloads(self) -> None:
        self._proxy.signal(signal.SIGHUP)


class _PolicyFile:
    """A policy file that is published whenever it changes; what is wrong with it is told once."""

    def __init__(self, plan: Plan, path: Path) -> None:
        self._plan = plan
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    async def watch(self) -> None:
        """Publish each change; until cancelled."""
        while True:
            await asyncio.sleep(self._plan.poll_s)
            if self._look() == self._seen:
                continue
            try:
                await self.publish()
            except PolicyFileError as error:
                log.error("the policies stay as they were: %s", error)  # noqa: TRY400 - expected
            except DatabaseError as error:
                self._seen = None  # to be tried again
                log.warning("the policies could not be published: %s", error)

    async def publish(self) -> None:
        """Publish it. Raises PolicyFileError or DatabaseError; then nothing is published."""
        self._seen = self._look()
        file = await asyncio.to_thread(self._plan.read_policies, self._path)
        done = await asyncio.to_thread(database.publish, self._plan.database, file)
        log.info(
            "policies of %s published: %d added, %d changed, %d removed, %d as they were",
            self._path,
            *map(len, (done.added, done.changed, done.removed, done.unchanged)),
        )

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
