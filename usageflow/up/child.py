"""One child process that is kept running: started, waited for, started again, stopped.

It knows its command and where it listens, not what it does.
"""

import asyncio
import contextlib
import logging
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from usageflow.addresses import host_and_port
from usageflow.errors import UsageFlowError

START_S_MAX: Final = 60.0
"""Longest wait for a child to listen: imports, a migration, the first policies and keys."""
POLL_S: Final = 0.05
RESTART_S: Final = 1.0
"""Pause before a child that ended is started again; each time twice as long ..."""
RESTART_S_MAX: Final = 30.0
"""... up to this."""
STEADY_S: Final = 60.0
"""A child that ran this long before it ended begins with the shortest pause again."""

log = logging.getLogger("usageflow.up")


class Program(NamedTuple):
    """What a child runs: this command line in exactly this environment.

    `listen` is HOST:PORT or unix:PATH; once it accepts connections there, the child is ready.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    listen: str
    stop_s_max: float


class Child:
    """A program and the process that runs it at the moment."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._environ = dict(program.environ)
        self._process: asyncio.subprocess.Process | None = None
        self._started_s = 0.0

    async def start(self, environ: Mapping[str, str] = {}) -> None:
        """Start it, with `environ` added to its own, and wait until it listens.

        Raises UsageFlowError if it does not.
        """
        name, _, _, listen, _ = self._program
        self._environ.update(environ)
        process = await self._spawn()
        late_s = self._started_s + START_S_MAX
        while not await accepts(listen):
            if process.returncode is not None:
                raise UsageFlowError(f"the {name} did not start; it says why above")
            if time.monotonic() > late_s:
                raise UsageFlowError(f"the {name} does not listen on {listen}")
            await asyncio.sleep(POLL_S)

    async def keep(self) -> None:
        """Whenever it ends, start it again; until cancelled. It must have been started."""
        name, pause_s = self._program.name, RESTART_S
        while self._process is not None:
            status = await self._process.wait()
            if time.monotonic() - self._started_s > STEADY_S:
                pause_s = RESTART_S
            cause = f"signal {-status}" if status < 0 else f"exit status {status}"
            log.error("the %s ended (%s) and is started again in %.0f s", name, cause, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_S_MAX)
            try:
                await self._spawn()
            except OSError as error:  # no memory, no processes: the next turn may have them
                log.error("cannot start the %s: %s", name, error)  # noqa: TRY400 - expected

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                self._process.send_signal(number)

    async def stop(self) -> None:
        """Ask it to end, and end it if it does not within its time."""
        if self._process is None:
            return
        name, *_, stop_s_max = self._program
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), stop_s_max)
        except TimeoutError:
            log.warning("the %s did not end within %.0f s and is killed", name, stop_s_max)
            self.signal(signal.SIGKILL)
            await self._process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._started_s = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            *self._program.command,
            env=self._environ,
            stdin=subprocess.PIPE,  # closed by whatever ends us, by SIGKILL too: see cli.up_child
            start_new_session=True,  # Ctrl-C is for the parent, which stops its children in order
        )
        return self._process


async def accepts(listen: str) -> bool:
    """Whether somebody accepts connections at HOST:PORT or unix:PATH."""
    path = listen.removeprefix("unix:")
    try:
        if path != listen:
            _, writer = await asyncio.open_unix_connection(path)
        else:
            host, port = host_and_port(listen)
            _, writer = await asyncio.open_connection(reachable(host), port)
    except OSError:
        return False
    writer.close()
    return True


def reachable(host: str) -> str:
    """The address at which this machine reaches what listens on `host`, which may mean all."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
