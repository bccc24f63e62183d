"""The spool file: durable order, one owner, adoption, and what happens on a full disk."""

import errno
import fcntl
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import uuid_utils

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, SpoolError
from usageflow.events import EVENT_BYTES_MAX
from usageflow.recorder import spool as spool_module
from usageflow.recorder.spool import (
    ROW_EVENTS_MAX,
    Block,
    Spool,
    SpoolLock,
    connect_reader,
    prepare_directory,
    require_directory,
    spools,
    take,
)


def block(count: int, start: int = 0) -> Block:
    """A block of distinct lines."""
    return Block(count, b"".join(b'{"n":%d}\n' % n for n in range(start, start + count)))


def test_lines_come_out_in_the_order_they_went_in(tmp_path: Path) -> None:
    """Rows keep their lines and their order, and their checksum vouches for them."""
    spool = Spool.create(tmp_path)
    spool.write([block(3)])
    spool.write([block(2, start=3)])
    rows = spool.read(100)
    assert [row.lines for row in rows] == [block(3).lines, block(2, 3).lines]
    assert all(row.intact for row in rows)
    spool.close()


def test_a_commit_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    """The connection is in WAL mode with synchronous=FULL: SQLite fsyncs inside the commit."""
    spool = Spool.create(tmp_path)
    pragma = spool._connection.execute
    assert pragma("PRAGMA synchronous").fetchone() == (2,)
    assert pragma("PRAGMA journal_mode").fetchone() == ("wal",)
    spool.write([block(1)])
    reader = connect_reader(spool.path)
    assert len(take(reader, 10)) == 1
    reader.close()
    spool.close()


def test_a_commit_may_hold_several_rows(tmp_path: Path) -> None:
    """One transaction, as many rows as blocks; the lines can be taken apart again."""
    spool = Spool.create(tmp_path)
    spool.write([block(2), block(1, start=2)])
    one, two = spool.read(10_000)
    assert (one.seq, one.split()) == (1, [b'{"n":0}', b'{"n":1}'])
    assert (two.seq, two.split()) == (2, [b'{"n":2}'])
    spool.close()


def test_read_takes_at_least_one_row_and_at_most_the_bound(tmp_path: Path) -> None:
    """A row larger than the bound is still read, else it would never be shipped."""
    spool = Spool.create(tmp_path)
    for _ in range(3):
        spool.write([block(4)])
    assert [row.seq for row in spool.read(3)] == [1]
    assert [row.seq for row in spool.read(8)] == [1, 2]
    assert [row.seq for row in spool.read(8, after_seq=2)] == [3]
    spool.close()


def test_read_stays_below_what_the_server_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long events make fewer to a batch; one row always fits."""
    assert Settings().ingest_bytes_max > ROW_EVENTS_MAX * EVENT_BYTES_MAX
    monkeypatch.setattr(spool_module, "READ_BYTES_MAX", 250)
    spool = Spool.create(tmp_path)
    for size in (300, 100, 100, 100):
        spool.write([Block(1, b"x" * size)])
    assert [row.seq for row in spool.read(100)] == [1]
    assert [row.seq for row in spool.read(100, after_seq=1)] == [2, 3]
    spool.close()


def test_deleted_rows_are_gone_and_their_numbers_are_not_used_again(tmp_path: Path) -> None:
    """A late acknowledgement of row 1 must never delete a newer row."""
    spool = Spool.create(tmp_path)
    spool.write([block(1)])
    spool.write([], [1])
    assert spool.empty()
    spool.write([block(1)])
    assert [row.seq for row in spool.read(10)] == [2]
    spool.close()


def test_append_and_delete_share_one_transaction(tmp_path: Path) -> None:
    """Either both happen or neither does."""
    spool = Spool.create(tmp_path)
    spool.write([block(1)])
    spool.write([block(2)], [1])
    assert [(row.seq, row.events) for row in spool.read(10)] == [(2, 2)]
    spool.close()


def test_a_living_spool_cannot_be_adopted(tmp_path: Path) -> None:
    """The lock belongs to its process as long as that lives."""
    spool = Spool.create(tmp_path)
    assert Spool.adopt(spool.path) is None
    spool.close()
    adopted = Spool.adopt(spool.path)
    assert adopted is not None
    adopted.close()


def _write_and_die(directory: str) -> None:
    spool = Spool.create(Path(directory))
    spool.write([block(5)])
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_spool_of_a_killed_process_is_adopted_whole(tmp_path: Path) -> None:
    """SIGKILL frees the lock; every returned write is there."""
    process = multiprocessing.get_context("spawn").Process(
        target=_write_and_die, args=(str(tmp_path),)
    )
    process.start()
    process.join(30)
    (path,) = spools(tmp_path)
    adopted = Spool.adopt(path)
    assert adopted is not None
    assert sum(row.events for row in adopted.read(100)) == 5
    adopted.close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_removed_file_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our open and our flock the former owner may remove the file; then we do not own."""
    spool = tmp_path / "x.spool"
    real = fcntl.flock

    def flock_after_removal(fd: int, operation: int) -> None:
        spool.with_suffix(".lock").unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_removal)
    assert SpoolLock.take(spool) is None


def test_adopting_what_was_just_emptied_leaves_nothing(tmp_path: Path) -> None:
    """The file may vanish between the listing and the adoption."""
    assert Spool.adopt(tmp_path / "gone.spool") is None
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    """Else nobody could adopt the file of a killed parent while a child of it lives."""
    lock = SpoolLock.take(tmp_path / "x.spool")
    assert lock is not None
    read, write = os.pipe()
    ready, tell_ready = os.pipe()
    if (child := os.fork()) == 0:
        os.close(write)
        os.write(tell_ready, b"1")
        os.read(read, 1)  # lives until the parent says so
        os._exit(0)
    os.read(ready, 1)
    os.close(lock._fd)  # what the kernel does to a killed parent
    lock._fd = -1
    again = SpoolLock.take(tmp_path / "x.spool")
    assert again is not None
    again.release()
    os.close(write)
    os.waitpid(child, 0)
    for fd in (read, ready, tell_ready):
        os.close(fd)


def test_a_release_happens_once(tmp_path: Path) -> None:
    """Releasing again must not close a file descriptor that somebody else has by now."""
    lock = SpoolLock.take(tmp_path / "x.spool")
    assert lock is not None
    lock.release()
    lock.release()


def test_a_full_disk_is_a_spool_error_and_keeps_what_was_written(
    tmp_path: Path, disk_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    """The failed commit is not in the file, all earlier ones are."""
    spool = Spool.create(tmp_path)
    spool.write([block(1)])
    with disk_limit(60_000), pytest.raises(SpoolError, match="cannot write the spool"):
        for _ in range(100):
            spool.write([Block(1, b"x" * 10_000)])
    spool.close()
    adopted = Spool.adopt(spool.path)
    assert adopted is not None
    rows = adopted.read(100_000)
    assert rows[0].lines == block(1).lines
    assert all(row.intact for row in rows)
    adopted.close()


def test_no_file_is_left_by_a_create_that_failed(
    tmp_path: Path, disk_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    """Trying four times a second on a full disk must not litter it."""
    with disk_limit(100), pytest.raises(SpoolError):
        Spool.create(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_a_spool_error(tmp_path: Path) -> None:
    """The message names the directory."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot use the spool directory"):
        Spool.create(tmp_path / "file" / "spool")


def test_a_name_that_is_owned_elsewhere_is_a_spool_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes can never share one file, even if their ids were the same."""
    monkeypatch.setattr(uuid_utils, "uuid7", lambda: "same")
    spool = Spool.create(tmp_path)
    with pytest.raises(SpoolError, match="owned by another process"):
        Spool.create(tmp_path)
    spool.close()


def test_a_file_that_is_no_database_is_a_spool_error(tmp_path: Path) -> None:
    """Adoption of rubbish fails with a message and gives the lock back."""
    path = tmp_path / "x.spool"
    path.write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(SpoolError, match="cannot open the spool"):
            Spool.adopt(path)


def test_reading_a_broken_connection_is_a_spool_error(tmp_path: Path) -> None:
    """No sqlite3 error leaves this module."""
    spool = Spool.create(tmp_path)
    spool._connection.execute("DROP TABLE batch")
    with pytest.raises(SpoolError):
        spool.read(1)
    with pytest.raises(SpoolError):
        spool.empty()
    spool.close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """Only the owner's connection may write or checkpoint."""
    spool = Spool.create(tmp_path)
    reader = connect_reader(spool.path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM batch")
    reader.close()
    spool.close()


def test_a_reader_of_nothing_is_a_spool_error(tmp_path: Path) -> None:
    """A missing file is not created by looking at it."""
    with pytest.raises(SpoolError, match="cannot read the spool"):
        connect_reader(tmp_path / "none.spool")
    assert list(tmp_path.iterdir()) == []


def test_the_directory_is_private(tmp_path: Path) -> None:
    """Identities are in there: only the user of the process may look."""
    prepare_directory(tmp_path / "a" / "spool")
    prepare_directory(tmp_path / "a" / "spool")
    assert (tmp_path / "a" / "spool").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_can_be_used_is_made(tmp_path: Path) -> None:
    """Private to this user, with nothing in it; it may be there already."""
    path = tmp_path / "a" / "spool"
    for _ in range(2):
        require_directory(path)
    assert list(path.iterdir()) == []
    assert path.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_no_directory_is_told(tmp_path: Path) -> None:
    """Neither a file nor what is below one can ever hold a spool; what to set is named."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"/file: File exists; set USAGEFLOW_SPOOL_DIR"):
        require_directory(tmp_path / "file")
    with pytest.raises(ConfigurationError, match=r"/file/spool: File exists"):
        require_directory(tmp_path / "file" / "spool")


def _refused_to_nobody(path: Path) -> None:
    if os.getuid() == 0:
        os.setuid(65_534)
    with pytest.raises(ConfigurationError, match=r"Permission denied; set USAGEFLOW_SPOOL_DIR"):
        require_directory(path)


@pytest.mark.parametrize("path", [Path("/usr"), Path("/usr/spool-of-nobody")])
def test_a_directory_without_permission_is_told(path: Path) -> None:
    """One that is there, and one that would have to be made."""
    child = multiprocessing.get_context("fork").Process(target=_refused_to_nobody, args=(path,))
    child.start()
    child.join(20)
    assert child.exitcode == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_mistake_of_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It may have room later; until then it is as if it became full at run time."""

    def full(path: Path) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(spool_module, "prepare_directory", full)
    require_directory(tmp_path / "spool")
