"""The access log: one JSON object on a line for each request that is over.

It tells who asked for which path and what came of it: never a header, a query or a body, so that
no credential of a client can get into it. Lines are gathered, and written by a thread of their own,
because a full pipe or a slow disk must not stop the event loop.
"""

import logging
import os
import queue
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

import msgspec

from usageflow.errors import ConfigurationError

log = logging.getLogger("usageflow.proxy")

PATH_CHARS_MAX: Final = 1_024
"""Longest path in a line; what follows is cut off."""
TEXT_CHARS_MAX: Final = 256
"""Longest host or method; a valid host name has at most 253."""
WRITE_BYTES: Final = 65_536
"""Gathered lines that are handed to the thread without waiting for the next flush."""
BACKLOG_BYTES_MAX: Final = 4_194_304
"""Handed over and not yet written; beyond it lines are lost and counted."""
CLOSE_S_MAX: Final = 2.0
"""Longest wait for the last lines of a process that stops."""


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request. `code` is that of the Refusal, if the proxy answered by itself.

    `status` is null if the client left before there was one; `aborted` says why the client did not
    get the whole answer; `metered` are the metrics of the policies that applied. Bytes are those of
    the bodies.
    """

    time: str
    client: str
    method: str
    host: str
    path: str
    protocol: str
    status: int | None
    code: str | None
    bytes_in: int
    bytes_out: int
    duration_ms: float
    upstream: str | None
    upstream_ms: float | None
    metered: Sequence[str]
    aborted: str | None


_encode = msgspec.json.Encoder().encode


class AccessLog:
    """Writes to a file, which is followed when it is renamed away, or to stdout.

    Used by one event loop, which calls `flush` with its tick. After `open` nothing here raises.
    """

    def __init__(self, path: Path | None) -> None:
        self._lines: list[bytes] = []
        self._bytes = 0
        self._handed_bytes = 0
        self._dropped = 0
        self._pen = _Pen(path)

    @classmethod
    def open(cls, setting: str) -> Self | None:
        """What the setting `access_log` says: `off` is None, `-` stdout, else a file to append to.

        Raises ConfigurationError if it cannot be opened.
        """
        if setting == "off":
            return None
        return cls(None if setting == "-" else Path(setting))

    @property
    def lost(self) -> int:
        """Lines that could not be written: the disk was full, or nobody read the pipe."""
        return self._dropped + self._pen.lost

    def write(
        self,
        *,
        ended_at_s: float,
        client: str,
        method: bytes,
        host: bytes,
        target: bytes,
        protocol: str,
        status: int,
        bytes_in: int,
        bytes_out: int,
        duration_s: float,
        code: str | None = None,
        upstream: str | None = None,
        upstream_s: float | None = None,
        metered: Sequence[str] = (),
        aborted: str | None = None,
    ) -> None:
        """Log a request that ended at that time since the epoch; `target` may have its query.

        `status` is 0 if there was none. Whatever the client sent is made harmless here.
        """
        line = _encode(
            Line(
                time=_rfc3339(ended_at_s),
                client=_text(client.encode("utf-8", "replace"), TEXT_CHARS_MAX),
                method=_text(method, TEXT_CHARS_MAX),
                host=_text(host, TEXT_CHARS_MAX),
                path=_text(_path(target), PATH_CHARS_MAX),
                protocol=protocol,
                status=status or None,
                code=code,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                duration_ms=round(duration_s * 1000, 3),
                upstream=upstream,
                upstream_ms=None if upstream_s is None else round(upstream_s * 1000, 3),
                metered=metered,
                aborted=aborted,
            )
        )
        self._lines.append(line)
        self._bytes += len(line) + 1
        if self._bytes >= WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand over what was gathered; it is written with one call of the system."""
        if not self._lines:
            return
        if self._handed_bytes - self._pen.done_bytes > BACKLOG_BYTES_MAX:
            self._dropped += len(self._lines)
        else:
            self._handed_bytes += self._bytes
            self._pen.queue.put(b"\n".join((*self._lines, b"")))
        self._lines.clear()
        self._bytes = 0

    def reopen(self) -> None:
        """Go on in a new file now, if the old one was renamed; the next flush would do it too."""
        self._pen.queue.put(b"")

    def close(self) -> None:
        """Write what was gathered, and stop. Blocks for CLOSE_S_MAX at most."""
        self.flush()
        self._pen.stop()


class _Pen:
    """The thread that writes. `lost` and `done_bytes` are its own; others only read them."""

    def __init__(self, path: Path | None) -> None:
        self.lost = 0
        self.done_bytes = 0
        self.queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._path = path
        self._fd = _opened(path)
        self._torn = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="usageflow-access-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after what is in the queue, or leave the thread to its fate."""
        self.queue.put(None)
        self._thread.join(CLOSE_S_MAX)

    def _run(self) -> None:
        while (lines := self.queue.get()) is not None:
            self._follow()
            self._write(lines)
            self.done_bytes += len(lines)
        os.close(self._fd)

    def _follow(self) -> None:
        """Go on in a new file if the one of this name is another or none. Else keep the old."""
        if self._path is None:
            return
        with suppress(OSError):
            if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                return
        with suppress(ConfigurationError):
            fd = _opened(self._path)
            os.close(self._fd)
            self._fd = fd

    def _write(self, rest: bytes) -> None:
        try:
            if self._torn:  # a full disk took half a line: it must not spoil the next one too
                os.write(self._fd, b"\n")
                self._torn = False
            while rest:
                count = os.write(self._fd, rest)
                self._torn = not rest[:count].endswith(b"\n")
                rest = rest[count:]
        except OSError as error:
            self.lost += rest.count(b"\n")
            if not self._failing:
                log.error("the access log takes no lines: %s", error)  # noqa: TRY400 - no traceback
            self._failing = True
        else:
            if self._failing:
                log.warning("the access log takes lines again; %d were lost", self.lost)
            self._failing = False


def _opened(path: Path | None) -> int:
    """A descriptor of our own: standard output, or the file, which is created private."""
    try:
        if path is None:
            return os.dup(sys.stdout.fileno())
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except (OSError, AttributeError) as error:  # without standard output, sys.stdout is None
        raise ConfigurationError(f"cannot open the access log {path or '-'}: {error}") from None


def _path(target: bytes) -> bytes:
    """Without query and, in absolute-form, without what may hold a user's password."""
    path = target.partition(b"?")[0]
    if path.startswith(b"/"):
        return path
    _, scheme, rest = path.partition(b"://")
    return b"/" + rest.partition(b"/")[2] if scheme else path


def _text(value: bytes, chars_max: int) -> str:
    """ASCII, with anything else in escapes: terminals obey more than JSON's escapes cover."""
    text = value[:chars_max].decode("ascii", "backslashreplace")
    return text.replace("\x7f", "\\x7f")


def _rfc3339(at_s: float) -> str:
    second = int(at_s)
    return f"{_second(second)}.{int((at_s - second) * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(at_s: int) -> str:
    """Many lines are of one second, and this is a third of what a line costs."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
