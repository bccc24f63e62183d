"""The writer: a bounded queue and the one thread that makes events durable in group commits.

`record` is called on an event loop and never blocks. The thread takes everything that was queued
during its previous fsync and commits it as one; there is no timer, so a lone request waits for one
fsync and a busy process shares it. When the disk takes nothing, events wait in the bounded queue,
waiting responses are let go, and what exceeds the bound is counted in `Gaps`; the thread keeps
trying.

Does not know policies, servers or HTTP.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import uuid_utils

from usageflow.errors import SpoolError
from usageflow.events import TEXT_CHARS_MAX, Identity, UsageEvent, encode, encode_lines
from usageflow.recorder.figures import RecorderFigures
from usageflow.recorder.gaps import Gaps
from usageflow.recorder.holds import Hold
from usageflow.recorder.spool import ROW_EVENTS_MAX, Block, Spool

log = logging.getLogger("usageflow.recorder")

RETRY_S: Final = 0.25
"""Pause between tries while the disk takes nothing; short, so that recovery is quick."""
FLUSH_POLL_S: Final = 0.005
"""Only a stopping process flushes, so looking again costs nobody anything."""


class _Group:
    """What was recorded since the last commit began, and the responses that wait for it."""

    __slots__ = ("events", "holds")

    def __init__(self) -> None:
        self.events: list[UsageEvent] = []
        self.holds: dict[asyncio.AbstractEventLoop, Hold] = {}


class Writer:
    """Makes events durable, in the order they were recorded.

    `healthy` is False from the first failed or stalled write until the next good one. `on_durable`
    is called on the writer's thread after each commit.
    """

    def __init__(
        self,
        directory: Path,
        *,
        queue_events_max: int,
        hold_timeout_s: float,
        on_durable: Callable[[], object] = lambda: None,
        figures: RecorderFigures | None = None,
    ) -> None:
        self.healthy = True
        self.spool: Spool | None = None
        self._directory = directory
        self._queue_events_max = queue_events_max
        self._hold_timeout_s = hold_timeout_s
        self._on_durable = on_durable
        self._figures = figures or RecorderFigures()
        self._group = _Group()
        self._group_lock = threading.Lock()
        self._unwritten: list[UsageEvent] = []
        self._done: deque[tuple[Path, int]] = deque()
        self._gaps = Gaps()
        self._cause = ""
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="usageflow-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; the spool file is created on it."""
        self._thread.start()

    @property
    def waiting_events(self) -> int:
        """Events that were recorded and are not yet durable."""
        return len(self._group.events) + len(self._unwritten)

    def record(
        self, events: Sequence[UsageEvent], loop: asyncio.AbstractEventLoop | None = None
    ) -> Hold | None:
        """Queue events. With `loop`, the running one, return what to await until they are durable.

        None means there is nothing to wait for: no loop was given, or the disk is failing and the
        policy is open. Never blocks for long and never raises.
        """
        if self.waiting_events >= self._queue_events_max:
            self._overflow(events)
            return None
        with self._group_lock:
            group = self._group
            group.events += events
            if loop is not None and self.healthy:
                hold = group.holds.get(loop)
                if hold is None:
                    hold = group.holds[loop] = Hold(loop, self._hold_timeout_s, self._stall)
                    # Once the loop has seen to all that is ready now: what that records is in the
                    # same commit, and the two threads do not take turns in between.
                    loop.call_soon(self._wake.set)
                return hold
        if not self._wake.is_set():
            self._wake.set()
        return None

    def forget(self, spool: Path, seqs: Sequence[int]) -> None:
        """Delete acknowledged rows of `spool` with one of the next commits."""
        self._done.extend((spool, seq) for seq in seqs)
        self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing waits for the disk; False if it did not take all in time."""
        deadline = time.monotonic() + timeout_s
        self._wake.set()
        while self.waiting_events and time.monotonic() < deadline:
            time.sleep(FLUSH_POLL_S)
        return not self.waiting_events

    def stop(self, timeout_s: float) -> int:
        """Write what is queued and end the thread; how many events the disk did not take in time.

        Those that were only counted in gaps are among them.
        """
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return self.waiting_events + self._gaps.events

    def _stall(self) -> None:
        """A commit does not end: from now on it counts as failing, until one does."""
        if self.healthy:
            self._cause = f"a commit took longer than {self._hold_timeout_s:g} s"
            self.healthy = False
            log.error("the spool is stalled: %s; responses go on without", self._cause)
            self._wake.set()  # should the commit have ended just now

    def _overflow(self, events: Sequence[UsageEvent]) -> None:
        cause = self._cause or "the queue for the disk was full"
        for event in events:
            self._gaps.add(event, cause)
        self._figures.overflowed += len(events)
        self.healthy = False
        self._wake.set()

    # From here on: the writer's thread.

    def _run(self) -> None:
        try:
            self._usable_spool()  # a directory that cannot be used is told at start
        except SpoolError as error:
            self._fail(error)
        while not self._stopping:
            self._wake.wait(None if self.healthy else RETRY_S)
            self._wake.clear()
            self._drain()
        self._drain()
        while self.waiting_events and self._commit():
            pass
        if self.spool is not None:
            self._close(self.spool)

    def _drain(self) -> None:
        # An unhealthy writer tries even with nothing to write, which begins a new file: where every
        # policy is `closed`, no event would come to show that the disk is well again.
        owed = self.waiting_events > 0
        while owed or self._unwritten or self._done or len(self._gaps) or not self.healthy:
            if not self._commit():
                return
            owed = False  # what was recorded meanwhile wakes the thread when its time has come

    def _commit(self) -> bool:
        group = self._take_group()
        self._unwritten += group.events
        try:
            spool = self._usable_spool()
            done = self._take_done(spool)
            if not self._unwritten:  # else memory would grow with each try of a failing disk
                self._unwritten += self._gaps.take(_new_id)
            blocks = _blocks(self._unwritten)
            started_s = time.perf_counter()
            spool.write(blocks, done)
            self._figures.committed(self._unwritten, time.perf_counter() - started_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread must live
            self._fail(error)
            durable = False
        else:
            self._unwritten.clear()
            self._recover()
            self._on_durable()
            durable = True
        for loop, hold in group.holds.items():
            _release(loop, hold, durable=durable)
        return durable

    def _take_group(self) -> _Group:
        with self._group_lock:
            group, self._group = self._group, _Group()
        return group

    def _take_done(self, spool: Spool) -> list[int]:
        """The rows to delete. Should the commit fail they are shipped again, as duplicates."""
        done = [self._done.popleft() for _ in range(len(self._done))]
        return [seq for path, seq in done if path == spool.path]

    def _usable_spool(self) -> Spool:
        if self.spool is None:
            self.spool = Spool.create(self._directory)
        return self.spool

    def _fail(self, error: Exception) -> None:
        known = isinstance(error, SpoolError)
        if self.healthy or not self._cause:
            message = "%s; requests are served, events wait in memory"
            log.error(message, error if known else repr(error), exc_info=None if known else error)
        self.healthy = False
        self._figures.commits_failed += 1
        self._cause = str(error) if known else repr(error)
        # The connection is not to be trusted after a failed write, and the file only if it was
        # merely full. What an abandoned file holds is adopted and shipped; the ledger knows
        # an event that arrives from both files as one.
        spool, self.spool = self.spool, None
        if spool is not None:
            with contextlib.suppress(Exception):  # it is abandoned either way
                spool.close()

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


def _release(loop: asyncio.AbstractEventLoop, hold: Hold, *, durable: bool) -> None:
    try:
        loop.call_soon_threadsafe(hold.release, durable)
    except RuntimeError:  # the loop was closed; nobody waits any more
        return


def _blocks(events: Sequence[UsageEvent]) -> list[Block]:
    """The events as blocks of at most ROW_EVENTS_MAX."""
    parts = [events[at : at + ROW_EVENTS_MAX] for at in range(0, len(events), ROW_EVENTS_MAX)]
    return [Block(len(part), _lines(part)) for part in parts]


def _lines(events: Sequence[UsageEvent]) -> bytes:
    try:
        return encode_lines(events)
    except (msgspec.MsgspecError, UnicodeEncodeError, ValueError, TypeError):
        return b"".join(encode_lines([_encodable(event)]) for event in events)


def _encodable(event: UsageEvent) -> UsageEvent:
    """The event, or what can be kept of it.

    Policies bound and clean every text, so this is our own fault if it happens; the event must not
    be lost, nor keep others from being written.
    """
    try:
        encode(event)
    except (msgspec.MsgspecError, UnicodeEncodeError, ValueError, TypeError) as error:
        nobody = Identity(event.identity.field, None)
        reason = f"could not be encoded: {error!r}"[:TEXT_CHARS_MAX]
        return msgspec.structs.replace(event, identity=nobody, state="inbox", reason=reason)
    return event


def _new_id() -> str:
    return str(uuid_utils.uuid7())
