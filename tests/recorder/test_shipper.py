"""The shipper: everything reaches the ledger, once, whatever fails on the way."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from sqlite3 import connect

import pytest

from usageflow.errors import DeliveryError
from usageflow.events import UsageEvent, encode, encode_lines
from usageflow.recorder.shipper import Shipper
from usageflow.recorder.sink import MemorySink
from usageflow.recorder.spool import Block, Spool, SpoolLock, spools
from usageflow.recorder.writer import Writer

EventFactory = Callable[..., UsageEvent]


class Edge:
    """A writer and its shipper on one directory, as a process has them."""

    def __init__(self, directory: Path, sink: MemorySink, batch_events_max: int = 100) -> None:
        self.writer = Writer(
            directory,
            queue_events_max=10_000,
            hold_timeout_s=5,
            on_durable=self._on_durable,
        )
        self.shipper = Shipper(
            self.writer,
            directory,
            sink,
            batch_events_max=batch_events_max,
            interval_s=0.01,
            backoff_s_max=0.05,
            adoption_interval_s=0.05,
        )
        self.writer.start()
        self.shipper.start()

    def _on_durable(self) -> None:
        self.shipper.wake()

    def stop(self, timeout_s: float = 5) -> None:
        """Stop in the order a recorder does."""
        self.writer.flush(timeout_s)
        self.shipper.stop(timeout_s)
        self.writer.stop(timeout_s)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Callable[..., Edge]]:
    """Make edges; they are stopped at the end."""
    made: list[Edge] = []

    def make(sink: MemorySink, **options: int) -> Edge:
        made.append(Edge(tmp_path, sink, **options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds, at most 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.01)


def test_every_event_reaches_the_ledger_and_leaves_the_spool(
    edge: Callable[..., Edge], event: EventFactory, tmp_path: Path
) -> None:
    """Acknowledged means deleted; a clean stop leaves an empty directory."""
    sink = MemorySink()
    subject = edge(sink)
    recorded = [event() for _ in range(250)]
    for one in recorded:
        subject.writer.record([one])
    wait_for(lambda: len(sink.events) == 250)
    subject.stop()
    assert list(sink.events.values()) == [encode(one) for one in recorded]
    assert list(tmp_path.iterdir()) == []


def test_failures_are_retried_until_the_ledger_answers(
    edge: Callable[..., Edge], event: EventFactory
) -> None:
    """Refused, busy, an answer lost after the batch was taken: each event is there once."""
    sink = MemorySink()
    sink.failures = [
        DeliveryError("down"),
        DeliveryError("down"),
        DeliveryError("401", refused=True),
        DeliveryError("busy", retry_after_s=0.01),
    ]
    sink.lost_answers = 2
    subject = edge(sink)
    for _ in range(30):
        subject.writer.record([event()])
    wait_for(lambda: len(sink.events) == 30 and not sink.lost_answers)
    subject.stop()
    assert sink.deliveries >= 7


def test_an_unexpected_error_does_not_end_shipping(
    edge: Callable[..., Edge], event: EventFactory
) -> None:
    """Whatever a sink raises, the thread lives and tries again."""

    class Buggy(MemorySink):
        bugs = 2

        def deliver(self, lines: bytes, events: int) -> object:  # type: ignore[override]
            if self.bugs:
                self.bugs -= 1
                raise RuntimeError("bug")
            return super().deliver(lines, events)

    sink = Buggy()
    edge(sink).writer.record([event()])
    wait_for(lambda: len(sink.events) == 1)


def test_events_set_aside_by_the_ledger_are_logged_and_forgotten(
    edge: Callable[..., Edge],
    event: EventFactory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The ledger has custody of a conflict; the edge says so and goes on."""

    class Strict(MemorySink):
        def deliver(self, lines: bytes, events: int) -> object:  # type: ignore[override]
            outcome = super().deliver(lines, events)
            outcome["conflict"] = 1
            return outcome

    sink = Strict()
    subject = edge(sink)
    subject.writer.record([event()])
    wait_for(lambda: sink.events)
    subject.stop()
    assert "set 1 events aside as conflict" in caplog.text
    assert list(tmp_path.iterdir()) == []


def abandoned(directory: Path, events: list[UsageEvent]) -> Path:
    """The spool of a process that died."""
    spool = Spool.create(directory)
    spool.write([Block(len(events), encode_lines(events))])
    spool.close()
    return spool.path


def test_spools_of_dead_processes_are_shipped_and_removed(
    edge: Callable[..., Edge], event: EventFactory, tmp_path: Path
) -> None:
    """At start and later, without any traffic of our own."""
    abandoned(tmp_path, [event() for _ in range(3)])
    sink = MemorySink()
    subject = edge(sink)
    wait_for(lambda: len(sink.events) == 3)
    abandoned(tmp_path, [event()])
    wait_for(lambda: len(sink.events) == 4)
    subject.stop()
    assert list(tmp_path.iterdir()) == []


def test_an_adoption_that_the_server_delays_is_told_once(
    edge: Callable[..., Edge],
    event: EventFactory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However often it was begun; that shipping works again is good news and no warning."""
    caplog.set_level(logging.INFO, "usageflow.recorder")
    path = abandoned(tmp_path, [event()])
    sink = MemorySink()
    sink.failures = [DeliveryError("down") for _ in range(4)]
    edge(sink)
    wait_for(lambda: not path.exists())
    wait_for(lambda: "adopted" in caplog.text)
    told = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert told == [
        ("WARNING", f"down; events wait in the spool {tmp_path}"),
        ("INFO", "shipping works again"),
        ("INFO", f"adopted and shipped {path}, the spool of a process that is gone"),
    ]


def test_two_processes_on_one_directory_do_not_touch_each_other(
    edge: Callable[..., Edge], event: EventFactory
) -> None:
    """Each has its own file; what both ship arrives once."""
    sink = MemorySink()
    one, two = edge(sink), edge(sink)
    for _ in range(50):
        one.writer.record([event()])
        two.writer.record([event()])
    wait_for(lambda: len(sink.events) == 100)
    assert one.writer.spool is not None
    assert two.writer.spool is not None
    assert one.writer.spool.path != two.writer.spool.path
    one.stop()
    two.stop()
    assert sink.outcomes == {"accepted": 100}, "a file was shipped by two"


def test_a_damaged_row_keeps_nothing_else_from_being_shipped(
    edge: Callable[..., Edge], event: EventFactory, tmp_path: Path
) -> None:
    """It stays in its file for a person; all other rows and files arrive."""
    path = abandoned(tmp_path, [event()])
    with closing(connect(path)) as connection, connection:
        connection.execute("UPDATE batch SET checksum = checksum + 1")
        connection.execute("INSERT INTO batch SELECT 2, 1, ?, ?", (0xFFFFFFFF, b""))
    rubbish = tmp_path / "00000000.spool"
    rubbish.write_bytes(b"no database" * 1000)
    abandoned(tmp_path, [event()])
    sink = MemorySink()
    subject = edge(sink)
    wait_for(lambda: len(sink.events) == 1)
    subject.stop()
    assert spools(tmp_path) == [rubbish, path]


def test_a_malformed_page_is_set_aside_once(
    edge: Callable[..., Edge],
    event: EventFactory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not adopted again and again; other files are shipped."""
    path = abandoned(tmp_path, [event()])
    content = bytearray(path.read_bytes())
    content[4096:4296] = b"\xff" * 200
    path.write_bytes(content)
    abandoned(tmp_path, [event()])
    sink = MemorySink()
    subject = edge(sink)
    wait_for(lambda: len(sink.events) == 1)
    time.sleep(0.3)
    subject.stop()
    assert caplog.text.count(f"{path} is left alone") == 1
    assert spools(tmp_path) == [path]


def test_a_batch_the_server_finds_too_large_is_halved(
    edge: Callable[..., Edge], event: EventFactory
) -> None:
    """Until it is taken; nothing is stuck behind it."""

    class Small(MemorySink):
        def deliver(self, lines: bytes, events: int) -> object:  # type: ignore[override]
            if events > 10:
                raise DeliveryError("413", too_large=True)
            return super().deliver(lines, events)

    sink = Small()
    sink.failures = [DeliveryError("down")]
    subject = edge(sink)
    for _ in range(40):
        subject.writer.record([event()])
        subject.writer.flush(5)
    wait_for(lambda: len(sink.events) == 40)


def test_a_spool_that_may_not_be_opened_keeps_no_other_from_being_shipped(
    edge: Callable[..., Edge], event: EventFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that another user left: it is set aside, the next one is shipped."""
    foreign = abandoned(tmp_path, [event()])
    abandoned(tmp_path, [event()])
    real = SpoolLock.take

    def take(spool: Path) -> SpoolLock | None:
        if spool == foreign:
            raise PermissionError(13, "Permission denied")
        return real(spool)

    monkeypatch.setattr(SpoolLock, "take", take)
    sink = MemorySink()
    edge(sink)
    wait_for(lambda: len(sink.events) == 1)


def test_stopping_does_not_wait_for_a_dead_ledger(
    edge: Callable[..., Edge], event: EventFactory, tmp_path: Path
) -> None:
    """What could not be shipped in time stays in the spool for the next start."""
    sink = MemorySink()
    sink.failures = [DeliveryError("down") for _ in range(10_000)]
    subject = edge(sink)
    subject.writer.record([event()])
    started = time.monotonic()
    subject.stop(2)
    assert time.monotonic() - started < 5
    assert len(spools(tmp_path)) == 1


def test_a_new_spool_file_is_followed(
    edge: Callable[..., Edge],
    event: EventFactory,
    disk_limit: Callable[[int], AbstractContextManager[None]],
) -> None:
    """After a failed write the writer goes on in another file; the shipper finds both."""
    sink = MemorySink()
    subject = edge(sink)
    subject.writer.record([event()])
    wait_for(lambda: len(sink.events) == 1)
    first = subject.writer.spool
    with disk_limit(100):
        subject.writer.record([event()])
        wait_for(lambda: not subject.writer.healthy)
    wait_for(lambda: len(sink.events) == 2)
    assert subject.writer.spool is not first
