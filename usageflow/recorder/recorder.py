"""The recorder: one spool, its writer and its shipper, started when first used in a process.

The face of this room. It starts lazily, so that importing, forking servers and `--reload` cost
nothing, and starts anew in a forked child: threads and locks do not survive a fork.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Final

from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.recorder.figures import CountedSink, RecorderFigures
from usageflow.recorder.holds import Hold
from usageflow.recorder.process import after_fork, at_exit
from usageflow.recorder.shipper import Shipper
from usageflow.recorder.sink import Http, HttpSink, Sink
from usageflow.recorder.writer import Writer

log = logging.getLogger("usageflow.recorder")

WRITER_STOP_S: Final = 5.0
"""Longest wait for the last commit of a stopping process."""


class Recorder:
    """Records events durably and ships them. Without a sink, events stay in the spool."""

    def __init__(self, settings: Settings, sink: Sink | None = None) -> None:
        self._settings = settings
        self._sink = sink
        self._directory = settings.spool_path
        self._figures = RecorderFigures()
        self._writer: Writer | None = None
        self._shipper: Shipper | None = None
        self._inherited: tuple[Writer | None, Shipper | None] = (None, None)
        self._lock = threading.Lock()
        after_fork(self._forget_parent)
        at_exit(self.close)

    @classmethod
    def of(cls, settings: Settings) -> "Recorder":
        """The recorder these settings describe: shipping to `server` if one is set."""
        if settings.server is None or settings.api_key is None:
            return cls(settings)
        connection = Http(settings.server, settings.api_key, timeout_s=settings.ship_timeout_s)
        return cls(settings, HttpSink(connection))

    @property
    def healthy(self) -> bool:
        """Whether the disk took the last events."""
        writer = self._writer
        return writer is None or writer.healthy

    def figures(self) -> RecorderFigures:
        """What has been recorded and shipped in this process, and how it goes now.

        Always the same object. Costs a look at memory, none at the disk.
        """
        writer = self._writer
        self._figures.waiting = 0 if writer is None else writer.waiting_events
        self._figures.disk_failing = int(not self.healthy)
        return self._figures

    def start(self) -> Writer:
        """Start the threads, if they are not running; the first `record` does it too."""
        with self._lock:
            return self._writer or self._start()

    def record(
        self, events: Sequence[UsageEvent], loop: asyncio.AbstractEventLoop | None = None
    ) -> Hold | None:
        """See Writer.record."""
        writer = self._writer
        return (writer or self.start()).record(events, loop)

    def close(self, ship_s: float | None = None) -> int:
        """Write what is queued, ship what the server takes within `ship_s`, and stop.

        That is `drain_timeout_s` unless it is given. Returns how many events are lost, as the disk
        did not take them; they are told in the log. A later `record` starts anew.
        """
        with self._lock:
            writer, shipper = self._writer, self._shipper
            self._writer = self._shipper = None
        if writer is not None:
            writer.flush(WRITER_STOP_S)
        if shipper is not None:
            shipper.stop(self._settings.drain_timeout_s if ship_s is None else ship_s)
        lost = 0 if writer is None else writer.stop(WRITER_STOP_S)
        if lost:
            log.error("%d events could not be written and are lost", lost)
        return lost

    def _start(self) -> Writer:
        settings = self._settings
        writer = Writer(
            self._directory,
            queue_events_max=settings.queue_events_max,
            hold_timeout_s=settings.hold_timeout_s,
            on_durable=self._on_durable,
            figures=self._figures,
        )
        if self._sink is not None:
            self._shipper = Shipper(
                writer,
                self._directory,
                CountedSink(self._sink, self._figures),
                batch_events_max=settings.ship_batch_events_max,
                interval_s=settings.ship_interval_s,
                backoff_s_max=settings.ship_backoff_s_max,
                adoption_interval_s=settings.adoption_interval_s,
            )
            self._shipper.start()
            self._shipper.wake()  # spools of dead processes may be waiting
        writer.start()
        self._writer = writer
        return writer

    def _on_durable(self) -> None:
        shipper = self._shipper
        if shipper is not None:
            shipper.wake()

    def _forget_parent(self) -> None:
        # Kept, never used: collecting it would close SQLite connections that are the parent's.
        self._inherited = (self._writer, self._shipper)
        self._writer = self._shipper = None
        self._figures = RecorderFigures()
        self._lock = threading.Lock()
