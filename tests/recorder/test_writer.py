"""The writer: group commit, bounded queue, failing disks."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from decimal import Decimal
from pathlib import Path
from sqlite3 import connect

import pytest

from usageflow.errors import SpoolError
from usageflow.events import Identity, UsageEvent, decode
from usageflow.recorder import writer as writer_module
from usageflow.recorder.figures import RecorderFigures
from usageflow.recorder.inspection import read_spool
from usageflow.recorder.spool import ROW_EVENTS_MAX, Block, Spool, spools
from usageflow.recorder.writer import Writer

EventFactory = Callable[..., UsageEvent]
DiskLimit = Callable[[int], AbstractContextManager[None]]
WriterFactory = Callable[..., Writer]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[WriterFactory]:
    """Make started writers on one directory; they are stopped at the end."""
    made: list[Writer] = []

    def make(**options: object) -> Writer:
        settings: dict[str, object] = {"queue_events_max": 100, "hold_timeout_s": 5.0}
        made.append(Writer(tmp_path, **(settings | options)))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop(5)


def events_in(directory: Path) -> list[UsageEvent]:
    """What the spool directory holds."""
    return [decode(line) for line in read_spool(directory)]


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds, at most 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.01)


def test_an_awaited_event_is_in_the_spool(
    writer: WriterFactory, event: EventFactory, tmp_path: Path
) -> None:
    """The hold is done when the event can be read from the file, not before."""
    recorded = event()

    async def scenario() -> bool:
        hold = writer().record([recorded], asyncio.get_running_loop())
        assert hold is not None
        durable = await hold
        assert events_in(tmp_path) == [recorded]
        return durable

    assert asyncio.run(scenario())


def test_a_directory_that_cannot_be_used_is_told_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the first request, and the disk counts as failing from then on."""
    (tmp_path / "file").write_text("")
    subject = Writer(tmp_path / "file" / "spool", queue_events_max=10, hold_timeout_s=5)
    subject.start()
    wait_for(lambda: not subject.healthy)
    assert "cannot use the spool directory" in caplog.text
    subject.stop(5)


def test_what_arrives_during_a_commit_shares_the_next_one(
    writer: WriterFactory, event: EventFactory, tmp_path: Path
) -> None:
    """Fewer commits than requests, with no timer; every event exactly once, in order."""
    commits: list[None] = []
    recorded = [event() for _ in range(500)]

    async def scenario() -> None:
        subject = writer(queue_events_max=10_000, on_durable=lambda: commits.append(None))
        loop = asyncio.get_running_loop()
        holds = [subject.record([one], loop) for one in recorded]
        await asyncio.gather(*[hold for hold in holds if hold is not None])

    asyncio.run(scenario())
    assert 1 <= len(commits) < 250
    assert events_in(tmp_path) == recorded


def test_a_large_commit_is_cut_into_rows_that_fit_a_request(
    writer: WriterFactory, event: EventFactory, tmp_path: Path
) -> None:
    """No row holds more events than one request to the server may."""
    subject = writer(queue_events_max=10_000)
    subject.record([event() for _ in range(ROW_EVENTS_MAX * 2 + 1)])
    assert subject.flush(5)
    (path,) = spools(tmp_path)
    with closing(connect(path)) as connection:
        counts = [count for (count,) in connection.execute("SELECT events FROM batch")]
    assert counts == [ROW_EVENTS_MAX, ROW_EVENTS_MAX, 1]


def test_without_a_loop_nobody_waits(
    writer: WriterFactory, event: EventFactory, tmp_path: Path
) -> None:
    """Relaxed durability: the event is written all the same."""
    subject = writer()
    assert subject.record([event()]) is None
    assert subject.flush(5)
    assert len(events_in(tmp_path)) == 1


def test_acknowledged_rows_are_forgotten(
    writer: WriterFactory, event: EventFactory, tmp_path: Path
) -> None:
    """Only in the file they belong to: a row number of another file means nothing here."""
    subject = writer()
    subject.record([event()])
    assert subject.flush(5)
    assert subject.spool is not None
    subject.forget(tmp_path / "another.spool", [1])
    time.sleep(0.05)
    assert len(events_in(tmp_path)) == 1
    subject.forget(subject.spool.path, [1])
    wait_for(lambda: events_in(tmp_path) == [])


def test_an_emptied_spool_is_removed_at_the_end(
    writer: WriterFactory, event: EventFactory, tmp_path: Path
) -> None:
    """A clean stop leaves no file; a stop with events leaves them for the next process."""
    empty = writer()
    empty.record([event()])
    assert empty.flush(5)
    assert empty.spool is not None
    empty.forget(empty.spool.path, [1])
    assert empty.stop(5) == 0
    assert list(tmp_path.iterdir()) == []
    full = writer()
    full.record([event()])
    assert full.stop(5) == 0
    assert len(events_in(tmp_path)) == 1


def test_a_full_disk_lets_responses_go_and_loses_nothing(
    writer: WriterFactory, event: EventFactory, tmp_path: Path, disk_limit: DiskLimit
) -> None:
    """Holds end with False, the writer is unhealthy, and all is written once there is room."""
    long = Identity("account_id", "x" * 500)

    async def scenario(subject: Writer) -> list[bool]:
        loop = asyncio.get_running_loop()
        results: list[bool] = []
        while all(results):
            hold = subject.record([event(identity=long)], loop)
            results.append(await hold if hold is not None else False)
        return results

    subject = writer()
    with disk_limit(150_000):
        results = asyncio.run(scenario(subject))
        assert results[-1] is False
        assert not subject.healthy
        assert subject.record([event()], None) is None
    wait_for(lambda: subject.healthy and not subject.waiting_events)
    ids = [each.id for each in events_in(tmp_path)]
    assert sorted(ids) == sorted(set(ids)) == [f"event-{n:06}" for n in range(1, len(ids) + 1)]
    assert len(ids) == len(results) + 1


def test_what_exceeds_the_queue_becomes_a_gap_row(
    writer: WriterFactory, event: EventFactory, tmp_path: Path, disk_limit: DiskLimit
) -> None:
    """Bounded memory: events up to the bound stay events, the rest is counted exactly."""
    with disk_limit(100):
        subject = writer(queue_events_max=10)
        for _ in range(25):
            assert subject.record([event()]) is None
        wait_for(lambda: not subject.healthy)
        assert subject.waiting_events == 10
    wait_for(lambda: subject.healthy and not subject.waiting_events)
    found = events_in(tmp_path)
    assert [each.state for each in found] == ["counted"] * 10 + ["gap"]
    assert found[-1].quantity == 15
    assert found[-1].reason is not None
    assert "could" in found[-1].reason or "cannot" in found[-1].reason or "full" in found[-1].reason


class _FullSpool(Spool):
    """A spool that can be created but takes nothing, as on a nearly full disk."""

    def write(self, blocks: Sequence[Block], done: Sequence[int] = ()) -> None:
        raise SpoolError("database or disk is full")


def test_memory_stays_bounded_while_a_nearly_full_disk_fails(
    writer: WriterFactory, event: EventFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts are not turned into events again and again while none can be written."""
    monkeypatch.setattr(writer_module, "RETRY_S", 0.001)
    monkeypatch.setattr(Spool, "create", _FullSpool.create)
    subject = writer(queue_events_max=10)
    for n in range(300):
        subject.record([event(identity=Identity("account_id", f"acct_{n}"))])
        time.sleep(0.001)
    assert subject.waiting_events <= 10
    monkeypatch.undo()
    wait_for(lambda: subject.healthy and not subject.waiting_events)


def test_a_bug_does_not_end_the_thread(
    writer: WriterFactory, event: EventFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses are let go at once, the writer is unhealthy, and the event is written later."""
    bugs = [MemoryError("bug")]
    real = writer_module._blocks

    def blocks(events: Sequence[UsageEvent]) -> list[Block]:
        if events and bugs:
            raise bugs.pop()
        return real(events)

    monkeypatch.setattr(writer_module, "_blocks", blocks)

    async def scenario() -> bool:
        hold = writer(hold_timeout_s=60).record([event()], asyncio.get_running_loop())
        assert hold is not None
        return await hold

    assert asyncio.run(scenario()) is False
    wait_for(lambda: len(events_in(tmp_path)) == 1)


class _BrokenSpool(Spool):
    """A spool whose first commit fails as a failed fsync does: the bytes may be there or not."""

    def write(self, blocks: Sequence[Block], done: Sequence[int] = ()) -> None:
        super().write(blocks, done)
        raise SpoolError("disk I/O error")


def test_a_failed_fsync_poisons_the_file(
    writer: WriterFactory, event: EventFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is abandoned and its lock freed; the events are written again to a new file."""
    made: list[Spool] = []
    real = Spool.create

    def create(directory: Path) -> Spool:
        made.append(real(directory))
        if len(made) == 1:
            made[0].__class__ = _BrokenSpool
        return made[-1]

    monkeypatch.setattr(Spool, "create", create)
    subject = writer()
    recorded = event()
    subject.record([recorded])
    wait_for(lambda: subject.healthy and not subject.waiting_events)
    assert subject.spool is not None
    assert subject.spool.path != made[0].path
    assert events_in(tmp_path) == [recorded, recorded]  # one id in two files: the ledger knows it
    adopted = Spool.adopt(made[0].path)
    assert adopted is not None
    adopted.close()


def test_a_closed_loop_does_not_stop_the_writer(
    writer: WriterFactory, event: EventFactory, tmp_path: Path
) -> None:
    """A response that nobody waits for any more is no reason to lose the next one."""
    subject = writer()
    loop = asyncio.new_event_loop()
    subject.record([event()], loop)
    loop.close()
    subject.record([event()])
    wait_for(lambda: len(events_in(tmp_path)) == 2)


def test_an_event_that_cannot_be_encoded_is_kept_for_a_person(
    writer: WriterFactory, event: EventFactory, tmp_path: Path
) -> None:
    """A lone surrogate is not UTF-8: the event goes to the inbox without its identity."""
    subject = writer()
    subject.record([event(identity=Identity("account_id", "\ud800")), event()])
    assert subject.flush(5)
    kept, neighbour = events_in(tmp_path)
    assert neighbour.state == "counted"
    assert (kept.state, kept.identity.value, kept.quantity) == ("inbox", None, Decimal(1))
    assert kept.reason is not None
    assert "could not be encoded" in kept.reason


def test_stopping_on_a_dead_disk_ends_and_says_so(
    writer: WriterFactory, event: EventFactory, disk_limit: DiskLimit
) -> None:
    """A full disk must not keep a process from stopping."""
    with disk_limit(100):
        subject = writer()
        subject.record([event()])
        assert not subject.flush(0.05)
        assert subject.stop(5) == 1


def test_a_disk_that_is_well_again_is_noticed_without_an_event(tmp_path: Path) -> None:
    """Where every policy is closed, no request would come to show it."""
    path = tmp_path / "spool"
    path.touch()
    subject = Writer(path, queue_events_max=10, hold_timeout_s=1)
    subject.start()
    deadline = time.monotonic() + 10
    while subject.healthy:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    path.unlink()
    while not subject.healthy:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert subject.stop(5) == 0


def test_what_the_disk_takes_is_counted(
    writer: WriterFactory, event: EventFactory, disk_limit: DiskLimit
) -> None:
    """Events once they are durable, those beyond the queue apart, and every failed commit."""
    figures = RecorderFigures()
    with disk_limit(100):
        subject = writer(queue_events_max=10, figures=figures)
        for _ in range(25):
            subject.record([event(state="inbox")])
        wait_for(lambda: figures.commits_failed)
        assert sum(figures.commits) == 0
        assert not any(figures.events.values())
    wait_for(lambda: subject.healthy and not subject.waiting_events)
    assert (figures.events["inbox"], figures.events["gap"], figures.overflowed) == (10, 1, 15)
    assert sum(figures.commits) >= 1
    assert figures.commit_s > 0


def test_a_commit_that_does_not_end_counts_as_a_failing_disk(
    writer: WriterFactory,
    event: EventFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who waits is let go, closed policies refuse, and all is well once a commit has ended."""
    disk = threading.Event()
    write = Spool.write

    def slow(spool: Spool, blocks: Sequence[Block], done: Sequence[int] = ()) -> None:
        assert disk.wait(10)
        write(spool, blocks, done)

    monkeypatch.setattr(Spool, "write", slow)
    stalled, recorded = writer(hold_timeout_s=0.05), event()

    async def scenario() -> bool:
        hold = stalled.record([recorded], asyncio.get_running_loop())
        assert hold is not None
        return await hold

    assert asyncio.run(scenario()) is False
    assert not stalled.healthy
    assert "a commit took longer than 0.05 s" in caplog.text
    disk.set()
    wait_for(lambda: stalled.healthy)
    assert events_in(tmp_path) == [recorded]


def test_a_stall_that_is_over_when_it_is_noticed_is_forgotten(writer: WriterFactory) -> None:
    """Where every policy is closed no event would come to show that the disk is well."""
    well = writer()
    well._stall()
    wait_for(lambda: well.healthy)
