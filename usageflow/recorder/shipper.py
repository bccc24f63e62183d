"""The shipper: carries spooled events to the ledger and forgets them once it answers for them.

One thread. It reads the living spool beside the writer and, when it finds the spool of a dead
process in the same directory, adopts that file. Delivery is at least once; the event's id makes it
once. Retries for ever with growing, jittered pauses: the spool is the buffer for an outage of any
length, and requests never wait for any of this.
"""

import logging
import math
import random
import threading
import time
from collections import Counter
from pathlib import Path
from sqlite3 import Connection
from typing import Final

from usageflow.errors import DeliveryError, SpoolError
from usageflow.recorder.sink import Sink
from usageflow.recorder.spool import Batch, Spool, connect_reader, spools, take
from usageflow.recorder.writer import Writer

log = logging.getLogger("usageflow.recorder")

BACKOFF_S_MIN: Final = 0.2
"""First pause after a failure; doubles up to `ship_backoff_s_max`."""


class Shipper:
    """Ships until stopped. `wake` may be called from any thread when there is something new."""

    def __init__(
        self,
        writer: Writer,
        directory: Path,
        sink: Sink,
        *,
        batch_events_max: int,
        interval_s: float,
        backoff_s_max: float,
        adoption_interval_s: float,
    ) -> None:
        self._writer = writer
        self._directory = directory
        self._sink = sink
        self._batch_events_max = batch_events_max
        self._interval_s = interval_s
        self._backoff_s_max = backoff_s_max
        self._adoption_interval_s = adoption_interval_s
        self._reader: tuple[Path, Connection] | None = None
        self._shipped_seq = 0
        self._adopt_at = 0.0
        self._failures = 0
        self._complaint = ""
        self._unreadable: set[Path] = set()
        self._deadline = math.inf
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usageflow-shipper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something to ship."""
        self._news.set()

    def stop(self, timeout_s: float) -> None:
        """Ship what is there, at most until the timeout or the first failure, and end."""
        self._deadline = time.monotonic() + timeout_s
        self._stop.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._news.wait(self._adoption_interval_s)
            self._news.clear()
            self._ship_all()
            # A short rest lets a batch form; without it each event would be a request of its own.
            self._stop.wait(self._interval_s)
        self._ship_all()
        self._close_reader()
        self._sink.close()

    def _in_time(self) -> bool:
        return time.monotonic() < self._deadline

    def _ship_all(self) -> None:
        try:
            while self._in_time() and self._ship_own():
                pass
            self._adopt_all()
        except (DeliveryError, SpoolError) as error:
            self._failed(error)
        except Exception as error:  # the thread must live; whatever it is, it is told
            log.exception("shipping failed")
            self._failed(error)

    # The spool of this process

    def _ship_own(self) -> bool:
        """Ship the oldest rows of the living spool; False when there are none."""
        reader = self._own_reader()
        if reader is None:
            return False
        path, connection = reader
        rows = take(connection, self._batch_events_max, self._shipped_seq)
        if not rows:
            return False
        self._writer.forget(path, self._deliver(rows))
        self._shipped_seq = rows[-1].seq
        return True

    def _own_reader(self) -> tuple[Path, Connection] | None:
        spool = self._writer.spool
        if spool is None:
            return None
        if self._reader is None or self._reader[0] != spool.path:
            self._close_reader()
            self._reader = (spool.path, connect_reader(spool.path))
        return self._reader

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader[1].close()
        self._reader = None
        self._shipped_seq = 0

    # The spools of dead processes

    def _adopt_all(self) -> None:
        if time.monotonic() < self._adopt_at:
            return
        own = self._writer.spool
        for path in spools(self._directory):
            if (own is None or path != own.path) and path not in self._unreadable:
                self._adopt(path)
        self._adopt_at = time.monotonic() + self._adoption_interval_s

    def _adopt(self, path: Path) -> None:
        try:
            spool = Spool.adopt(path)
        except SpoolError as error:
            self._set_aside(path, error)
            return
        if spool is None:
            return
        emptied = False
        try:
            self._ship_adopted(spool)
            if path not in self._unreadable:
                emptied = spool.empty()
                if not emptied and self._in_time():
                    self._set_aside(path, "it has damaged rows")
        finally:
            spool.close(remove=emptied)
        if emptied:
            # At the end, which comes once: while the server is away there are many beginnings.
            log.info("adopted and shipped %s, the spool of a process that is gone", path)

    def _ship_adopted(self, spool: Spool) -> None:
        after_seq = 0
        while self._in_time():
            try:
                rows = spool.read(self._batch_events_max, after_seq)
            except SpoolError as error:
                self._set_aside(spool.path, error)
                return
            if not rows:
                return
            spool.write((), self._deliver(rows))
            after_seq = rows[-1].seq

    def _set_aside(self, path: Path, reason: object) -> None:
        """One damaged file must not keep the others from being shipped; it is kept for a person."""
        log.error("%s is left alone: %s; see `usageflow spool --verify`", path, reason)
        self._unreadable.add(path)

    def _deliver(self, rows: list[Batch]) -> list[int]:
        """Ship the rows; return those the ledger answers for, which is all but damaged ones."""
        sound = [row for row in rows if row.intact]
        if len(sound) < len(rows):
            log.error("%d damaged rows in the spool are not shipped", len(rows) - len(sound))
        if sound:
            lines = b"".join(row.lines for row in sound)
            self._succeeded(self._sink.deliver(lines, sum(row.events for row in sound)))
        return [row.seq for row in sound]

    # Pauses and complaints

    def _succeeded(self, outcome: Counter[str]) -> None:
        if self._complaint:
            log.info("shipping works again")
        self._failures = 0
        self._complaint = ""
        for status in ("conflict", "invalid"):
            if outcome[status]:
                log.error("the ledger set %d events aside as %s", outcome[status], status)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        pause_s = min(self._backoff_s_max, BACKOFF_S_MIN * 2 ** min(self._failures - 1, 20))
        if isinstance(error, DeliveryError):
            if error.refused:
                pause_s = self._backoff_s_max
            if error.too_large:
                self._batch_events_max = max(1, self._batch_events_max // 2)
            if error.retry_after_s is not None:
                pause_s = min(error.retry_after_s, self._backoff_s_max)
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.warning("%s; events wait in the spool %s", error, self._directory)
        # Full jitter on the upper half, so that many edges do not return at one moment.
        self._stop.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets
        self._news.set()
