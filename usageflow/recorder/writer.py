"""The writer: a bounded queue and the one thread that makes events durable in group commits.

`record` is called on an event loop and never blocks. The thread takes everything that was queued
during its previous fsync and commits it as one; there is no timer, so a lone request waits for one
fsync and a busy process shares it. When the disk takes nothing, events wait in the bounded queue,
waiting responses are let go, and what exceeds the bound is counted in `Gaps`; the thread keeps
trying.

Does not know policies, servers or HTTP.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import uuid_utils

from usageflow.errors import SpoolError
from usageflow.events import Identity, UsageEvent, encode
from usageflow.recorder.gaps import Gaps
from usageflow.recorder.holds import Hold, Holds, release
from usageflow.recorder.spool import ROW_EVENTS_MAX, Spool

log = logging.getLogger("usageflow.recorder")

RETRY_S: Final = 0.25
"""Pause between tries while the disk takes nothing; short, so that recovery is quick."""
COMMIT_EVENTS_MAX: Final = ROW_EVENTS_MAX * 4
"""Events in one commit: bounds what a single failure puts at stake and how long it takes."""
FLUSH_POLL_S: Final = 0.005
"""Only a stopping process flushes, so looking again costs nobody anything."""


class _Entry(NamedTuple):
    events: Sequence[UsageEvent]
    loop: asyncio.AbstractEventLoop | None
    hold: Hold | None


class Writer:
    """Makes events durable, in the order they were recorded.

    `healthy` is False from the first failed write until the next good one. `on_durable` is called
    on the writer's thread after each commit.
    """

    def __init__(
        self,
        directory: Path,
        *,
        queue_events_max: int,
        hold_timeout_s: float,
        on_durable: Callable[[], object] = lambda: None,
    ) -> None:
        self.healthy = True
        self.spool: Spool | None = None
        self._directory = directory
        self._queue_events_max = queue_events_max
        self._hold_timeout_s = hold_timeout_s
        self._on_durable = on_durable
        self._queue: deque[_Entry] = deque()
        self._unwritten: list[bytes] = []
        self._done: deque[tuple[Path, int]] = deque()
        self._gaps = Gaps()
        self._cause = ""
        self._queued_events = 0
        self._taken_events = 0
        self._holds: dict[asyncio.AbstractEventLoop, Holds] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="usageflow-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; the spool file is created on it."""
        self._thread.start()

    @property
    def waiting_events(self) -> int:
        """Events that were recorded and are not yet durable."""
        return self._queued_events - self._taken_events + len(self._unwritten)

    def record(
        self, events: Sequence[UsageEvent], loop: asyncio.AbstractEventLoop | None = None
    ) -> Hold | None:
        """Queue events. With `loop`, the running one, return what to await until they are durable.

        None means there is nothing to wait for: no loop was given, or the disk is failing and the
        policy is open. Never blocks and never raises.
        """
        if self.waiting_events >= self._queue_events_max:
            self._overflow(events)
            return None
        hold = self._hold(loop) if loop is not None and self.healthy else None
        self._queued_events += len(events)
        self._queue.append(_Entry(events, loop, hold))
        if not self._wake.is_set():
            self._wake.set()
        return hold

    def forget(self, spool: Path, seqs: Sequence[int]) -> None:
        """Delete acknowledged rows of `spool` with one of the next commits."""
        self._done.extend((spool, seq) for seq in seqs)
        self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing waits for the disk; False if it did not take all in time."""
        deadline = time.monotonic() + timeout_s
        while self.waiting_events and time.monotonic() < deadline:
            time.sleep(FLUSH_POLL_S)
        return not self.waiting_events

    def stop(self, timeout_s: float) -> bool:
        """Write what is queued and end the thread; False if the disk did not take all in time."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive() and self.waiting_events == 0

    def _overflow(self, events: Sequence[UsageEvent]) -> None:
        for event in events:
            self._gaps.add(event)
        self._cause = self._cause or "the queue for the disk was full"
        self.healthy = False
        self._wake.set()

    def _hold(self, loop: asyncio.AbstractEventLoop) -> Hold:
        holds = self._holds.get(loop)
        if holds is None:
            holds = self._holds[loop] = Holds(loop, self._hold_timeout_s)
        return holds.add()

    # From here on: the writer's thread.

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(None if self.healthy else RETRY_S)
            self._wake.clear()
            self._drain()
        self._drain()
        if self.spool is not None:
            self._close(self.spool)

    def _drain(self) -> None:
        while self._queue or self._unwritten or self._done or len(self._gaps):
            if not self._commit():
                return

    def _commit(self) -> bool:
        holds = self._take_queue()
        try:
            spool = self._usable_spool()
            done = self._take_done(spool)
            self._unwritten += map(_line, self._gaps.take(self._cause, _new_id))
            spool.exchange(self._unwritten, done)
        except SpoolError as error:
            self._fail(error)
            durable = False
        else:
            self._unwritten.clear()
            self._recover()
            durable = True
            self._on_durable()
        for loop, waiting in holds.items():
            _release_on(loop, waiting, durable=durable)
        return durable

    def _take_queue(self) -> dict[asyncio.AbstractEventLoop, list[Hold]]:
        """Move queued events to `_unwritten`; return the responses that wait for them."""
        holds: dict[asyncio.AbstractEventLoop, list[Hold]] = {}
        while self._queue and len(self._unwritten) < COMMIT_EVENTS_MAX:
            events, loop, hold = self._queue.popleft()
            self._unwritten += map(_line, events)
            self._taken_events += len(events)
            if loop is not None and hold is not None:
                holds.setdefault(loop, []).append(hold)
        return holds

    def _take_done(self, spool: Spool) -> list[int]:
        """The rows to delete. Should the commit fail they are shipped again, as duplicates."""
        done = [self._done.popleft() for _ in range(len(self._done))]
        return [seq for path, seq in done if path == spool.path]

    def _usable_spool(self) -> Spool:
        if self.spool is None:
            self.spool = Spool.create(self._directory)
        return self.spool

    def _fail(self, error: SpoolError) -> None:
        if self.healthy or not self._cause:
            log.error("%s; requests are served, events wait in memory", error)
        self.healthy = False
        self._cause = str(error)
        if self.spool is not None:
            # The connection is not to be trusted after a failed write, and the file only if it was
            # merely full. What an abandoned file holds is adopted and shipped; the ledger knows
            # an event that arrives from both files as one.
            self.spool.close()
            self.spool = None

    def _recover(self) -> None:
        if not self.healthy:
            log.warning("the spool takes events again (%s)", self._cause)
        self.healthy = True
        self._cause = ""

    def _close(self, spool: Spool) -> None:
        try:
            remove = not self._unwritten and spool.empty()
        except SpoolError:
            remove = False
        spool.close(remove=remove)
        self.spool = None


def _release_on(loop: asyncio.AbstractEventLoop, holds: list[Hold], *, durable: bool) -> None:
    try:
        loop.call_soon_threadsafe(release, holds, durable)
    except RuntimeError:  # the loop was closed; nobody waits any more
        return


def _line(event: UsageEvent) -> bytes:
    try:
        return encode(event)
    except (msgspec.MsgspecError, UnicodeEncodeError, ValueError, TypeError) as error:
        # Policies bound and clean every text, so this is our fault; the event must not be lost.
        nobody = Identity(event.identity.field, None)
        return encode(
            msgspec.structs.replace(
                event,
                identity=nobody,
                state="inbox",
                reason=f"could not be encoded: {error!r}"[:500],
            )
        )


def _new_id() -> str:
    return str(uuid_utils.uuid7())
