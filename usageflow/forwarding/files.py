"""CloudEvents in a file as a sink: one line of JSON for each unit, each unit once.

Beside the file, an index keeps every identifier and how far the file is known. Whatever lies
beyond that (a crash came between the two, or another process wrote) is read before anything is
added; an unfinished last line is cut off. So a unit is in the file exactly once, for ever, and the
file may be rotated by renaming it.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

from usageflow.errors import ConfigurationError
from usageflow.forwarding.cloudevents import OPENING, encoded
from usageflow.forwarding.sink import Parcel, Properties
from usageflow.ledger.verdicts import Accepted, Ambiguous, Verdict

BATCH_MAX: Final = 1_000
"""Units under one fsync: some 400 KB."""
CALLS_PER_S: Final = 100.0
"""Enough for any ledger, and leaves the disk to it."""
LOCK_TIMEOUT_S: Final = 30.0
"""Longest wait while another process writes."""

_SCHEMA: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # what a power loss takes back is read from the file again
    "CREATE TABLE IF NOT EXISTS known (identifier TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY, bytes INTEGER, inode INTEGER)",
    "INSERT OR IGNORE INTO place VALUES (1, 0, 0)",
)


class _Line(msgspec.Struct):
    id: str


class FileSink:
    """Appends units to `path`, with an index in `path` + `.index`.

    A verdict comes after fsync. Safe to use from several threads and processes of one machine.
    Raises ConfigurationError if the index cannot be opened, or the file is of something else.
    """

    def __init__(self, path: str | Path, *, source: str) -> None:
        self._path = Path(path)
        self._source = source
        self._lock = threading.Lock()
        try:
            _refuse_another(self._path)
            self._index = _opened(f"{self._path}.index")
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"usage cannot be written to {self._path}: {error}") from error
        self.properties = Properties(
            window_s=None,
            digits_max=None,
            late_s_max=None,
            ahead_s_max=None,
            batch_max=BATCH_MAX,
            calls_per_s=CALLS_PER_S,
            folding="all",
            readable=False,
        )

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Append what is not in the file yet; see `Sink.send`."""
        try:
            with self._lock:
                return self._added(parcels)
        except (OSError, sqlite3.Error) as error:
            return [Ambiguous(str(error))] * len(parcels)

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._index.close()

    def _added(self, parcels: Sequence[Parcel]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        lines = []
        with self._index:
            self._index.execute("BEGIN IMMEDIATE")  # other processes wait here
            with _file(self._path) as file:
                start = self._catch_up(file)
                for parcel in parcels:
                    new = self._note(parcel.identifier)
                    verdicts.append(Accepted(duplicate=not new))
                    if new:
                        lines.append(encoded(parcel, self._source) + b"\n")
                place = _append(file, start, lines), os.fstat(file.fileno()).st_ino
                self._index.execute("UPDATE place SET bytes = ?, inode = ?", place)
        return verdicts

    def _catch_up(self, file: FileIO) -> int:
        """Know every line of the file; where it ends. Another or a shorter one is read anew."""
        known: tuple[int, int] = self._index.execute("SELECT bytes, inode FROM place").fetchone()
        place, inode = known
        status = os.fstat(file.fileno())
        if inode != status.st_ino or place > status.st_size:
            place = 0
        file.seek(place)
        for identifier, length in _whole_lines(file):
            self._note(identifier)
            place += length
        file.truncate(place)
        return place

    def _note(self, identifier: str) -> bool:
        """Remember an identifier; whether it is new."""
        inserted = self._index.execute("INSERT OR IGNORE INTO known VALUES (?)", [identifier])
        return inserted.rowcount == 1


def _opened(path: str) -> sqlite3.Connection:
    index = sqlite3.connect(
        path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    for statement in _SCHEMA:
        index.execute(statement)
    return index


def _refuse_another(path: Path) -> None:
    """Raise ConfigurationError for a file that we have not begun: its end would be cut off."""
    if path.exists():
        with path.open("rb") as file:
            opening = file.read(len(OPENING))
        if not OPENING.startswith(opening):
            raise ConfigurationError(f"{path} is there already, and holds something else")


def _file(path: Path) -> FileIO:
    """The file to read and write; a new one is certain to be found after a power loss."""
    try:
        return FileIO(path, "r+")
    except FileNotFoundError:
        file = FileIO(path, "x+")
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        return file


def _whole_lines(file: FileIO) -> Iterator[tuple[str, int]]:
    """(identifier, bytes) of the lines from here up to the first that was not written whole."""
    with open(file.fileno(), "rb", closefd=False) as buffered:
        for line in buffered:
            try:
                identifier = msgspec.json.decode(line, type=_Line).id
            except msgspec.DecodeError:
                return
            if not line.endswith(b"\n"):
                return
            yield identifier, len(line)


def _append(file: FileIO, start: int, lines: list[bytes]) -> int:
    """Write the lines at `start`, and make sure of all that is in the file; where it ends.

    What fails leaves nothing behind: after a failed fsync no later one would tell.
    """
    left = memoryview(b"".join(lines))
    end = start + len(left)
    try:
        file.seek(start)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(start)
        raise
    return end
