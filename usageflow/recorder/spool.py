"""The spool file: an edge's own durable journal of events, owned by one process at a time.

One SQLite file per process in WAL mode with `synchronous=FULL`, so that a returned `append` has
been fsynced. One connection writes, checkpoints and deletes; everybody else only reads, because
SQLite before 3.51.3 can corrupt a file when two connections write or checkpoint at one moment
(sqlite.org/wal.html#walresetbug). A row is one group commit, not one event: the cost of a commit
is shared by everything that arrived during the previous one.

Knows nothing of queues, threads, servers or what an event means: lines go in, lines come out.
"""

import errno
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

import uuid_utils

from usageflow.config import SPOOL_ROW_EVENTS_MAX
from usageflow.errors import ConfigurationError, SpoolError
from usageflow.recorder.process import after_fork

SUFFIX: Final = ".spool"
ROW_EVENTS_MAX: Final = SPOOL_ROW_EVENTS_MAX
"""Events in one row, so that one row always fits one request to the server."""
READ_BYTES_MAX: Final = 4_194_304
"""Bytes read at once, beyond one row: a batch stays below the server's `ingest_bytes_max`, which
is more than a single row of the longest events can have (ROW_EVENTS_MAX * EVENT_BYTES_MAX)."""
BUSY_TIMEOUT_S: Final = 5.0
"""Wait for a reader that is finishing its snapshot; nobody else ever writes."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""No room, on the disk or for this user."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batch (
  seq      INTEGER PRIMARY KEY,
  events   INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  lines    BLOB    NOT NULL
)
"""


class Block(NamedTuple):
    """What a row is made of: `events` lines of JSON, each ended by a newline."""

    events: int
    lines: bytes


class Batch(NamedTuple):
    """One row: a block with its number and the CRC-32 of its lines."""

    seq: int
    events: int
    checksum: int
    lines: bytes

    @property
    def intact(self) -> bool:
        """Whether the lines are the ones that were written."""
        return zlib.crc32(self.lines) == self.checksum

    def split(self) -> list[bytes]:
        """The lines, without their newlines."""
        return self.lines.split(b"\n")[:-1]


class SpoolLock:
    """Ownership of one spool file, as an flock on a file beside it; the kernel ends it with us."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        after_fork(self._leave_to_parent)

    @classmethod
    def take(cls, spool: Path) -> Self | None:
        """Own `spool`, or None if a living process does."""
        path = spool.with_suffix(".lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A former owner may have removed the file between our open and our lock: then we hold
            # a lock on nothing, and somebody else may hold one on a new file of that name.
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return cls(path, fd)
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None

    def _leave_to_parent(self) -> None:
        """In a forked child: else the lock would outlive its owner as long as the child lives."""
        if self._fd >= 0:
            os.close(self._fd)  # never LOCK_UN: that would unlock the parent's file too
            self._fd = -1

    def release(self, *, remove: bool = False) -> None:
        """Give ownership up; with `remove` the lock file goes too (before the lock does)."""
        if self._fd < 0:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


class Spool:
    """One owned spool file with its writing connection. Use it from one thread only.

    Every sqlite3 error becomes SpoolError; after one the connection may not be used again (a
    failed fsync may have dropped what it did not write): `close` it and create another.
    """

    def __init__(self, path: Path, lock: SpoolLock) -> None:
        self.path = path
        self._lock = lock
        try:
            # Autocommit: one INSERT is one transaction and one release of the GIL.
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        except sqlite3.Error as error:
            raise SpoolError(f"cannot open the spool {path}: {error}") from error
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_SCHEMA)
            (last,) = self._connection.execute("SELECT max(seq) FROM batch").fetchone()
        except sqlite3.Error as error:
            self._connection.close()
            raise SpoolError(f"cannot open the spool {path}: {error}") from error
        self._last_seq: int = last or 0

    @classmethod
    def create(cls, directory: Path) -> Self:
        """A new, empty spool file in `directory`, owned by this process. Raises SpoolError."""
        try:
            prepare_directory(directory)
            path = directory / f"{uuid_utils.uuid7()}{SUFFIX}"
            lock = SpoolLock.take(path)
        except OSError as error:
            raise SpoolError(f"cannot use the spool directory {directory}: {error}") from error
        if lock is None:
            raise SpoolError(f"{path} is owned by another process")
        try:
            return cls(path, lock)
        except SpoolError:
            _unlink(path)  # a full disk must not fill up with empty files, one per try
            lock.release(remove=True)
            raise

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """Own the spool of a dead process; None while its owner lives or once it is gone."""
        try:
            lock = SpoolLock.take(path)
        except OSError as error:
            raise SpoolError(f"cannot adopt {path}: {error}") from error
        if lock is None:
            return None
        if not path.exists():
            lock.release(remove=True)
            return None
        try:
            return cls(path, lock)
        except SpoolError:
            lock.release()
            raise

    def write(self, blocks: Sequence[Block], done: Sequence[int] = ()) -> None:
        """Append blocks and delete the rows `done`, durably: on return both are fsynced.

        One transaction, so that they share one fsync. Raises SpoolError.
        """
        try:
            if len(blocks) + len(done) > 1:
                self._connection.execute("BEGIN IMMEDIATE")
            for seq in done:
                self._connection.execute("DELETE FROM batch WHERE seq = ?", (seq,))
            for number, (events, lines) in enumerate(blocks, self._last_seq + 1):
                row = (number, events, zlib.crc32(lines), lines)
                self._connection.execute("INSERT INTO batch VALUES (?, ?, ?, ?)", row)
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise SpoolError(f"cannot write the spool {self.path}: {error}") from error
        self._last_seq += len(blocks)

    def read(self, events_max: int, after_seq: int = 0) -> list[Batch]:
        """The oldest rows after `after_seq`; see `take`."""
        return take(self._connection, events_max, after_seq)

    def empty(self) -> bool:
        """Whether everything has been acknowledged. Raises SpoolError."""
        try:
            return self._connection.execute("SELECT 1 FROM batch LIMIT 1").fetchone() is None
        except sqlite3.Error as error:
            raise SpoolError(f"cannot read the spool {self.path}: {error}") from error

    def close(self, *, remove: bool = False) -> None:
        """Close and disown the file; with `remove` an emptied file is deleted."""
        self._connection.close()
        if remove:
            _unlink(self.path)
        self._lock.release(remove=remove)


def _unlink(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def prepare_directory(directory: Path) -> None:
    """Create the spool directory, private to this user, and make every new name durable."""
    if directory.is_dir():
        return
    prepare_directory(directory.parent)
    directory.mkdir(exist_ok=True, mode=0o700)
    fd = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def require_directory(directory: Path) -> None:
    """Create the spool directory if it is not there.

    Raises ConfigurationError if no spool can ever be in it: it is a file, or may not be made or
    written to. A full disk is no mistake of a setting; it may pass.
    """
    try:
        prepare_directory(directory)
    except OSError as error:
        if error.errno in _FULL:
            return
        reason = error.strerror
    else:
        if os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            return
        reason = os.strerror(errno.EACCES)
    raise ConfigurationError(
        f"cannot use the spool directory {directory}: {reason}; set USAGEFLOW_SPOOL_DIR to one "
        f"that this user may write to"
    )


def spools(directory: Path) -> list[Path]:
    """Every spool file of a directory, oldest first (their names are UUIDv7)."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read, for use beside the owner's. Raises SpoolError."""
    journal = Path(f"{path}-wal")
    if path.exists() and not path.stat().st_size and journal.exists() and journal.stat().st_size:
        # SQLite would take the file for a new one, and delete the journal with what it holds.
        raise SpoolError(f"{path} is empty beside a journal that is not; both are left alone")
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
        )
    except sqlite3.Error as error:
        raise SpoolError(f"cannot read the spool {path}: {error}") from error
    return connection


def take(connection: sqlite3.Connection, events_max: int, after_seq: int = 0) -> list[Batch]:
    """The oldest rows after `after_seq`: at least one, if there is one.

    Further ones join it up to `events_max` events and READ_BYTES_MAX bytes.
    """
    taken: list[Batch] = []
    events = size = 0
    try:
        for row in batches(connection, after_seq):
            events += row.events
            size += len(row.lines)
            if taken and (events > events_max or size > READ_BYTES_MAX):
                break
            taken.append(row)
    except sqlite3.Error as error:
        raise SpoolError(f"cannot read the spool: {error}") from error
    return taken


def batches(connection: sqlite3.Connection, after_seq: int = 0) -> Iterator[Batch]:
    """Every row after `after_seq`, oldest first."""
    rows = connection.execute(
        "SELECT seq, events, checksum, lines FROM batch WHERE seq > ? ORDER BY seq", (after_seq,)
    )
    return map(Batch._make, rows)
