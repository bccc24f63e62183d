"""The recorder as an app has it: lazy, restartable, fork-safe."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from usageflow.config import Settings
from usageflow.events import UsageEvent, decode
from usageflow.recorder import MemorySink, Recorder, read_spool

EventFactory = Callable[..., UsageEvent]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes nothing is not waited for: it will not come back."""
    monkeypatch.setattr("usageflow.recorder.recorder.WRITER_STOP_S", 0.2)


def settings(directory: Path) -> Settings:
    """Settings for a spool without a server."""
    return Settings(spool_dir=str(directory / "spool"), ship_interval_s=0.01)


def test_nothing_exists_before_the_first_event(tmp_path: Path, event: EventFactory) -> None:
    """Building it costs no file and no thread."""
    recorder = Recorder(settings(tmp_path))
    assert recorder.healthy
    assert list(tmp_path.iterdir()) == []
    recorder.record([event()])
    assert recorder.close() == 0
    assert len(list(read_spool(tmp_path / "spool"))) == 1


def test_closing_ships_what_is_there(tmp_path: Path, event: EventFactory) -> None:
    """A clean stop leaves nothing behind when the ledger takes it."""
    sink = MemorySink()
    recorder = Recorder(settings(tmp_path), sink)

    async def scenario() -> bool:
        hold = recorder.record([event()], asyncio.get_running_loop())
        assert hold is not None
        return await hold

    assert asyncio.run(scenario())
    recorder.close()
    recorder.close()
    assert len(sink.events) == 1
    assert list((tmp_path / "spool").iterdir()) == []


def test_an_event_after_the_close_is_not_lost(tmp_path: Path, event: EventFactory) -> None:
    """A request may outlive the shutdown message; the recorder starts anew."""
    recorder = Recorder(settings(tmp_path))
    recorder.record([event()])
    recorder.close()
    recorder.record([event()])
    recorder.close()
    assert len(list(read_spool(tmp_path / "spool"))) == 2


@pytest.mark.usefixtures("impatient")
def test_events_that_no_disk_takes_are_told_at_the_end(
    tmp_path: Path, event: EventFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """An orderly stop on a dead disk loses what is in memory or counted there; it says how many."""
    (tmp_path / "spool").write_text("")
    recorder = Recorder(settings(tmp_path).with_changes(queue_events_max=2))
    recorder.record([event(), event()])
    recorder.record([event(), event(), event()])
    assert recorder.close() == 5
    assert "5 events could not be written and are lost" in caplog.text
    assert recorder.close() == 0


def test_settings_name_the_server(tmp_path: Path) -> None:
    """Without a server events stay; with one they are shipped there."""
    assert Recorder.of(settings(tmp_path))._sink is None
    with_server = settings(tmp_path).with_changes(server="http://127.0.0.1:9", api_key="k")
    assert Recorder.of(with_server)._sink is not None


def test_a_forked_child_has_a_spool_of_its_own(tmp_path: Path, event: EventFactory) -> None:
    """Preloading servers fork after import; threads and locks of the parent do not come along."""
    recorder = Recorder(settings(tmp_path))
    recorder.record([event()])

    def child() -> None:
        recorder.record([event(id="of-the-child")])
        recorder.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    recorder.close()
    ids = {decode(line).id for line in read_spool(tmp_path / "spool")}
    assert ids == {"event-000001", "of-the-child"}


def test_figures_outlive_a_restart_of_the_threads(tmp_path: Path, event: EventFactory) -> None:
    """Events on disk and shipped, counted over the whole life of the process."""
    recorder = Recorder(settings(tmp_path), MemorySink())
    assert not any(recorder.figures().events.values())
    for _ in range(2):
        recorder.record([event()])
        recorder.close()
    figures = recorder.figures()
    assert figures.events["counted"] == figures.shipped == 2
    assert (figures.waiting, figures.disk_failing, figures.shipping_failing) == (0, 0, 0)


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_fails_shows_in_the_figures(
    tmp_path: Path, event: EventFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """And how many events wait for it."""
    (tmp_path / "spool").write_text("")
    recorder = Recorder(settings(tmp_path))
    recorder.record([event(), event()])
    while not recorder.figures().disk_failing:
        time.sleep(0.005)
    assert recorder.figures().waiting == 2
    assert recorder.figures().commits_failed > 0
    recorder.close()


def test_a_forked_child_counts_anew(tmp_path: Path, event: EventFactory) -> None:
    """What the parent recorded is the parent's to tell."""
    recorder = Recorder(settings(tmp_path))
    recorder.record([event()])
    recorder.close()

    def child() -> None:
        sys.exit(recorder.figures().events["counted"])

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert recorder.figures().events["counted"] == 1


SCRIPT = """
import sys
from datetime import UTC, datetime
from decimal import Decimal
from usageflow.config import Settings
from usageflow.events import Identity, UsageEvent
from usageflow.recorder import Recorder
recorder = Recorder(Settings(spool_dir=sys.argv[1]))
recorder.record([UsageEvent(
    id="last", policy="p", policy_version="1", metric="M", identity=Identity("f", "v"),
    quantity=Decimal(1), occurred_at=datetime.now(UTC), state="counted")])
"""


def test_a_process_that_just_ends_writes_its_queue(tmp_path: Path) -> None:
    """Also an app whose server never sends it a shutdown message."""
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        check=True,
        env=os.environ,
        timeout=30,
    )
    assert [decode(line).id for line in read_spool(tmp_path)] == ["last"]
