"""Looking into a spool from outside, also at damaged files."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from usageflow.errors import ConfigurationError, SpoolDamaged
from usageflow.events import UsageEvent, encode, encode_lines
from usageflow.recorder import inspection
from usageflow.recorder.inspection import (
    NOTHING,
    Depth,
    DepthGauge,
    read_spool,
    spool_depth,
    verify_spool,
)
from usageflow.recorder.spool import Block, Spool

EventFactory = Callable[..., UsageEvent]


@pytest.fixture
def closed(tmp_path: Path, event: EventFactory) -> Path:
    """A spool file of two rows that nobody owns."""
    spool = Spool.create(tmp_path)
    spool.write([block([event(), event()])])
    spool.write([block([event()])])
    spool.close()
    return spool.path


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def block(events: list[UsageEvent]) -> Block:
    """A block of these events."""
    return Block(len(events), encode_lines(events))


def change(path: Path, statement: str) -> None:
    """Damage a file as no owner would."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_events_are_read_while_the_owner_writes(tmp_path: Path, event: EventFactory) -> None:
    """No lock is needed to look, and looking does not disturb."""
    spool = Spool.create(tmp_path)
    spool.write([block([event()])])
    assert list(read_spool(tmp_path)) == [encode(event(id="event-000001"))]
    spool.write([block([event()])])
    assert len(list(read_spool(tmp_path))) == 2
    assert verify_spool(tmp_path) == []
    spool.close()


def test_a_sound_file_has_no_problems(closed: Path) -> None:
    """Also once its owner has gone."""
    assert verify_spool(closed.parent) == []
    assert len(list(read_spool(closed.parent))) == 3


def test_a_changed_line_is_found_and_never_read_as_usage(closed: Path) -> None:
    """One changed digit fails the checksum of its row."""
    change(
        closed,
        "UPDATE batch SET lines = CAST(replace(lines, 'acct_1', 'acct_2') AS BLOB) WHERE seq = 1",
    )
    assert verify_spool(closed.parent) == [
        f"{closed}: row 1: the checksum does not match its lines"
    ]
    with pytest.raises(SpoolDamaged, match="row 1 is damaged"):
        list(read_spool(closed.parent))


def test_sound_rows_are_read_beside_damaged_ones(closed: Path, event: EventFactory) -> None:
    """One bad row or file hides no other; the damage is told at the end."""
    change(closed, "UPDATE batch SET checksum = 0 WHERE seq = 1")
    (closed.parent / "0.spool").write_bytes(b"no database" * 1000)
    seen: list[bytes] = []
    with pytest.raises(SpoolDamaged, match=r"not a database.*row 1 is damaged"):
        seen.extend(read_spool(closed.parent))
    lines = read_spool(closed.parent)
    assert next(lines)


def test_an_emptied_file_beside_its_journal_is_told_and_left_alone(
    tmp_path: Path, event: EventFactory
) -> None:
    """SQLite would take it for a new database and delete the journal, with all it holds."""
    spool = Spool.create(tmp_path)
    spool.write([block([event()])])
    journal = Path(f"{spool.path}-wal")
    kept = journal.read_bytes()
    spool.close()
    spool.path.write_bytes(b"")
    journal.write_bytes(kept)
    (problem,) = verify_spool(tmp_path)
    assert "is empty beside a journal" in problem
    assert journal.read_bytes() == kept


def test_a_row_that_says_another_number_of_events_is_found(closed: Path) -> None:
    """The count is what the server's answer is compared with."""
    change(closed, "UPDATE batch SET events = 7 WHERE seq = 2")
    assert verify_spool(closed.parent) == [f"{closed}: row 2: 1 lines instead of 7"]


def test_a_line_that_is_no_event_is_found(tmp_path: Path) -> None:
    """Sound bytes may still be no usage event."""
    spool = Spool.create(tmp_path)
    spool.write([Block(1, b'{"id": 1}\n')])
    spool.close()
    (problem,) = verify_spool(tmp_path)
    assert "row 1: not a usage event" in problem


@pytest.mark.parametrize("offset", [0, 4_096])
def test_damaged_pages_are_found(closed: Path, offset: int) -> None:
    """A broken header or page is a problem line, not a traceback."""
    content = bytearray(closed.read_bytes())
    content[offset : offset + 200] = b"\xff" * 200
    closed.write_bytes(content)
    assert any(str(closed) in problem for problem in verify_spool(closed.parent))
    with pytest.raises(SpoolDamaged):
        list(read_spool(closed.parent))


def test_a_file_killed_at_birth_is_empty(tmp_path: Path) -> None:
    """Between creating the file and its table a kill leaves an empty database."""
    (tmp_path / "x.spool").touch()
    assert list(read_spool(tmp_path)) == []
    assert verify_spool(tmp_path) == []


def test_a_file_that_is_shipped_while_we_look_is_passed_over(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between listing and opening, its adopter may have removed it."""
    monkeypatch.setattr(inspection, "spools", lambda directory: [directory / "gone.spool", closed])
    assert len(list(read_spool(closed.parent))) == 3
    assert verify_spool(closed.parent) == []


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    """A typo must not look like an empty spool."""
    with pytest.raises(ConfigurationError, match="no spool directory"):
        list(read_spool(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="no spool directory"):
        verify_spool(tmp_path / "nowhere")


def test_the_depth_is_what_all_files_hold(tmp_path: Path, event: EventFactory) -> None:
    """Events, not rows, of living owners and of dead ones; the oldest by when it occurred."""
    living = Spool.create(tmp_path)
    living.write([block([event(occurred_at=NOON), event(), event()])])
    living.write([block([event(occurred_at=NOON + timedelta(hours=1))])])
    dead = Spool.create(tmp_path)
    dead.write([block([event(occurred_at=NOON - timedelta(days=1))])])
    dead.close()
    assert spool_depth(tmp_path) == Depth(5, NOON - timedelta(days=1))
    living.write([], [1])
    assert spool_depth(tmp_path).events == 2
    living.close()


def test_an_empty_spool_has_no_oldest_event(tmp_path: Path) -> None:
    """Nor has one that is not there yet, or is created this instant."""
    assert spool_depth(tmp_path / "nowhere") == NOTHING
    assert not (tmp_path / "nowhere").exists()
    Spool.create(tmp_path).close()
    (tmp_path / "x.spool").touch()
    assert spool_depth(tmp_path) == NOTHING


def test_a_damaged_file_does_not_hide_the_others(closed: Path) -> None:
    """Damage is told by --verify; here the rest is still counted."""
    (closed.parent / "0.spool").write_bytes(b"no database" * 1000)
    assert spool_depth(closed.parent).events == 3


def test_a_damaged_line_still_counts(closed: Path) -> None:
    """Only its age cannot be told."""
    change(closed, "UPDATE batch SET lines = CAST('{' AS BLOB) WHERE seq = 1")
    assert spool_depth(closed.parent) == Depth(3, None)


def test_a_deep_spool_is_not_looked_at_all_the_time(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks is a rest in proportion; then the news are seen."""
    gauge = DepthGauge(closed.parent)
    monkeypatch.setattr(inspection, "REST_FACTOR", 1e9)
    assert gauge.read().events == 3
    change(closed, "DELETE FROM batch WHERE seq = 1")
    assert gauge.read().events == 3
    gauge = DepthGauge(closed.parent)
    monkeypatch.setattr(inspection, "REST_FACTOR", 0)
    assert gauge.read().events == 1
    change(closed, "DELETE FROM batch")
    assert gauge.read() == NOTHING


def test_what_is_shipped_nowhere_is_never_late(tmp_path: Path, event: EventFactory) -> None:
    """Without a server events are in the spool to stay: an age that only grows is no alarm."""
    spool = Spool.create(tmp_path)
    spool.write([block([event(occurred_at=NOON)])])
    assert DepthGauge(tmp_path).read() == Depth(1, NOON)
    assert DepthGauge(tmp_path, ships=False).read() == Depth(1, None)
    spool.close()
