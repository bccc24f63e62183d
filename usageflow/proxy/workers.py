"""Several workers on one address: the process that starts them, watches them and ends with them.

It binds the sockets and keeps them, so that no connection is lost when a worker crashes, and serves
nothing itself but the admin port. What a worker does is in `worker`, what they say in `channel`.
"""

import asyncio
import logging
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Final

import uvloop

from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.proxy.channel import RELOAD, Handover, News
from usageflow.proxy.figures_block import FiguresBlock
from usageflow.proxy.listening import Listening, allow_files, announcement, files_needed
from usageflow.proxy.report import admin, blank
from usageflow.proxy.signals import on_signals

RESTART_S: Final = 0.2
"""Pause before a crashed worker is started again; doubled each time it does not help."""
RESTART_S_MAX: Final = 5.0
"""Clients that the kernel gives to a worker wait while it is away."""
STEADY_S: Final = 30.0
"""A worker that lived this long has not crashed because of how it starts."""
GRACE_S: Final = 5.0
"""How long a worker may take beyond `drain_timeout_s` to write its last events and to end."""

logger = logging.getLogger("usageflow.proxy")


class Worker:
    """One of the processes; when it ends, another takes its place, its socket and its figures."""

    def __init__(self, handover: Handover, command: Sequence[str]) -> None:
        self._handover = handover
        self._command = command
        self._process: Process | None = None
        self._channel: asyncio.StreamWriter | None = None
        self._stopping = False

    def __str__(self) -> str:
        pid = "" if self._process is None else f" (process {self._process.pid})"
        return f"worker {self._handover.number}{pid}"

    async def start(self) -> News:
        """Start the process and wait for its news; not once it is to stop."""
        if self._stopping:
            return News.read(b"")
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=theirs.fileno(),
                    pass_fds=(self._handover.listener, self._handover.figures),
                    start_new_session=True,  # Ctrl-C is for us, who stop them in order
                )
        except OSError as error:  # no memory, no more processes: it may pass
            ours.close()
            return News(problem=f"no process for it: {error}")
        reader, self._channel = await asyncio.open_unix_connection(sock=ours)
        self._channel.write(self._handover.line())
        if self._stopping:
            self._channel.close()
        with suppress(ConnectionError):
            return News.read(await reader.readline())
        return News.read(b"")

    async def ended(self) -> int:
        """Wait for the end of the process; its status, as `subprocess` has it."""
        if self._process is None:
            return 0
        status = await self._process.wait()
        if self._channel is not None:
            self._channel.close()
            with suppress(ConnectionError):
                await self._channel.wait_closed()
        return status

    def reload(self) -> None:
        """Let it reload."""
        if self._channel is not None:
            self._channel.write(RELOAD)

    def stop(self) -> None:
        """Let it drain and end; one that is just starting, too."""
        self._stopping = True
        if self._channel is not None:
            self._channel.close()

    def kill(self) -> None:
        """End it now."""
        if self._process is not None and self._process.returncode is None:
            logger.warning("%s is killed", self)
            self._process.kill()


class Workers:
    """All of them, from their start until they were told to stop and have ended."""

    def __init__(
        self, settings: Settings, listening: Listening, figures: int, command: Sequence[str]
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._stopping = asyncio.Event()
        self._workers = [
            Worker(Handover(settings, number, listener.fileno(), figures), command)
            for number, listener in enumerate(listening.sockets)
        ]

    async def run(self) -> bool:
        """Serve until `stop`; whether all then ended well, which one that lost events does not.

        The first goes ahead: what it cannot run with is told once, as ConfigurationError, and no
        other is started.
        """
        first, *others = self._workers
        news = await first.start()
        if not self._stopping.is_set():
            if news.problem:
                await first.ended()
                raise ConfigurationError(news.problem)
            await asyncio.gather(*map(self._start, others))
            logger.info("%s", announcement(self._settings, self._listening.address))
        async with asyncio.TaskGroup() as keeping:
            kept = [keeping.create_task(self._keep(worker)) for worker in self._workers]
            await self._stopping.wait()
            late = asyncio.get_running_loop().call_later(
                self._settings.drain_timeout_s + GRACE_S, self.kill
            )
        late.cancel()
        logger.info("stopped: all workers have ended")
        return all(task.result() for task in kept)

    def reload(self) -> None:
        """Let all reload."""
        for worker in self._workers:
            worker.reload()

    def stop(self) -> None:
        """Let all drain; those that take longer than `drain_timeout_s` and a grace are killed."""
        logger.info(
            "stopping: %d workers, at most %g s",
            len(self._workers),
            self._settings.drain_timeout_s + GRACE_S,
        )
        self._listening.close()  # theirs stay open until they have accepted what came before
        self._stopping.set()
        for worker in self._workers:
            worker.stop()

    def kill(self) -> None:
        """End all now."""
        for worker in self._workers:
            worker.kill()

    async def _start(self, worker: Worker) -> None:
        news = await worker.start()
        if news.problem and not self._stopping.is_set():
            logger.error("%s cannot serve: %s", worker, news.problem)

    async def _keep(self, worker: Worker) -> bool:
        """Start it again whenever it ends; whether it did not end with a failure in the end."""
        clock = asyncio.get_running_loop().time
        pause_s, started_s = RESTART_S, clock()
        while True:
            status = await worker.ended()
            if self._stopping.is_set():
                return status <= 0
            if clock() - started_s > STEADY_S:
                pause_s = RESTART_S
            logger.error("%s ended with status %d; it is replaced", worker, status)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s, started_s = min(2 * pause_s, RESTART_S_MAX), clock()
            await self._start(worker)


def run(settings: Settings, command: Sequence[str]) -> None:
    """Serve with `settings.workers` processes, each started by `command`, which calls `work`.

    Until SIGTERM or SIGINT; then all drain, and it returns. Raises ConfigurationError when the
    address, a certificate, an upstream or the policies cannot be used. Ends the process with status
    1 if a worker lost events, which the log then tells.
    """
    allow_files(files_needed(settings))  # inherited by the workers
    block = FiguresBlock.create(blank(settings), settings.workers)
    with (
        closing(block),
        Listening.bind(settings.listen, settings.workers) as listening,
        admin(settings, block),
    ):
        well = uvloop.run(_run(settings, listening, block, command))
    if not well:
        sys.exit(1)


async def _run(
    settings: Settings, listening: Listening, block: FiguresBlock, command: Sequence[str]
) -> bool:
    if block.fd is None:
        raise AssertionError
    workers = Workers(settings, listening, block.fd, command)
    on_signals(stop=workers.stop, reload=workers.reload, at_once=workers.kill)
    return await workers.run()
