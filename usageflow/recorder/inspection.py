"""Looking into a spool directory from outside, also while its owners write. Changes nothing."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from usageflow.errors import ConfigurationError, EventError, SpoolDamaged, SpoolError
from usageflow.events import EVENT_BYTES_MAX, decode
from usageflow.recorder.spool import Batch, batches, connect_reader, spools

REST_FACTOR: Final = 50
"""A look at a spool's depth is followed by a rest so many times as long: at most 2 % of a core goes
into looking, however much is in the spool (0.3 s for each million rows)."""

_DEPTH: Final = "SELECT coalesce(sum(events), 0) FROM batch"
_OLDEST: Final = "SELECT substr(lines, 1, ?) FROM batch ORDER BY seq LIMIT 1"


class Depth(NamedTuple):
    """Events not acknowledged by the ledger, and when the oldest of them occurred (UTC)."""

    events: int
    oldest_at: datetime | None


NOTHING: Final = Depth(0, None)


class DepthGauge:
    """Tells the depth of a spool directory to those who watch it; costs its owners nothing.

    `ships`: what is in it goes to a server. Otherwise it is there to stay, and none of it is late.
    """

    def __init__(self, directory: Path, *, ships: bool = True) -> None:
        self._directory = directory
        self._ships = ships
        self._depth = NOTHING
        self._rest_until_s = 0.0

    def read(self) -> Depth:
        """The depth now; that of a moment ago where looking takes long. See REST_FACTOR."""
        started_s = time.monotonic()
        if started_s >= self._rest_until_s:
            depth = spool_depth(self._directory)
            self._depth = depth if self._ships else depth._replace(oldest_at=None)
            ended_s = time.monotonic()
            self._rest_until_s = ended_s + REST_FACTOR * (ended_s - started_s)
        return self._depth


def spool_depth(directory: Path) -> Depth:
    """What all files of a directory hold, those of living processes and of dead ones.

    A directory that does not exist yet holds nothing. A file that cannot be read is passed over:
    `verify_spool` is for those.
    """
    depths = [_depth(path) for path in spools(directory)]
    oldest = [depth.oldest_at for depth in depths if depth.oldest_at is not None]
    return Depth(sum(depth.events for depth in depths), min(oldest, default=None))


def _depth(path: Path) -> Depth:
    try:
        with closing(connect_reader(path)) as connection:
            (events,) = connection.execute(_DEPTH).fetchone()
            oldest = connection.execute(_OLDEST, (EVENT_BYTES_MAX,)).fetchone()
    except (OSError, sqlite3.DatabaseError, SpoolError):  # also: shipped and removed this instant
        return NOTHING
    return Depth(events, None if oldest is None else _occurred_at(oldest[0]))


def _occurred_at(lines: bytes) -> datetime | None:
    try:
        return decode(lines.partition(b"\n")[0]).occurred_at
    except EventError:
        return None


def read_spool(directory: Path) -> Iterator[bytes]:
    """Every event line of every sound row, oldest file first.

    Raises ConfigurationError if there is no such directory; SpoolDamaged, at the end, if a row or a
    file is not what was written.
    """
    damage: list[str] = []
    for path in _files(directory):
        try:
            for row in _rows(path):
                if row.intact:
                    yield from row.split()
                else:
                    damage.append(f"{path}: row {row.seq} is damaged")
        except SpoolDamaged as error:
            damage.append(str(error))
    if damage:
        raise SpoolDamaged(f"{'; '.join(damage)}; see --verify")


def verify_spool(directory: Path) -> list[str]:
    """Every damage found, one line each; empty when all files hold what was written."""
    return [problem for path in _files(directory) for problem in _problems(path)]


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise ConfigurationError(f"there is no spool directory {directory}")
    return spools(directory)


def _rows(path: Path) -> Iterator[Batch]:
    try:
        with closing(connect_reader(path)) as connection:
            yield from batches(connection)
    except (sqlite3.DatabaseError, SpoolError) as error:
        if not path.exists():  # shipped and removed since the directory was listed
            return
        if "no such table" in str(error):  # created this instant, or killed in that instant
            return
        raise SpoolDamaged(f"{path}: {error}") from error


def _problems(path: Path) -> Iterator[str]:
    try:
        with closing(connect_reader(path)) as connection:
            for (verdict,) in connection.execute("PRAGMA integrity_check"):
                if verdict != "ok":
                    yield f"{path}: {verdict}"
        for row in _rows(path):
            yield from (f"{path}: row {row.seq}: {problem}" for problem in _row_problems(row))
    except (sqlite3.DatabaseError, SpoolError) as error:
        if path.exists():
            yield f"{path}: {error}".replace(f"{path}: {path}:", f"{path}:")


def _row_problems(row: Batch) -> Iterator[str]:
    if not row.intact:
        yield "the checksum does not match its lines"
        return
    lines = row.split()
    if len(lines) != row.events:
        yield f"{len(lines)} lines instead of {row.events}"
    for line in lines:
        try:
            decode(line)
        except EventError as error:
            yield str(error)
