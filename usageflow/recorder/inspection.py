"""Looking into a spool directory from outside, also while its owners write. Changes nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from usageflow.errors import ConfigurationError, EventError, SpoolDamaged, SpoolError
from usageflow.events import decode
from usageflow.recorder.spool import Batch, batches, connect_reader, spools


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
