"""The access log: what a line tells, what it never tells, and where it goes when things fail."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.errors import ConfigurationError
from usageflow.proxy import access_log
from usageflow.proxy.access_log import PATH_CHARS_MAX, TEXT_CHARS_MAX, AccessLog, _path, _text

PATIENCE_S = 10.0

SECRET = "tok_SECRET"


def request(**changes: Any) -> dict[str, Any]:
    """What `write` is given for an ordinary request."""
    facts: dict[str, Any] = {
        "ended_at_s": 1_795_262_400.5,
        "client": "192.0.2.7",
        "method": b"GET",
        "host": b"api.example.com",
        "target": b"/v1/things?key=" + SECRET.encode(),
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes_in": 0,
        "bytes_out": 5,
        "duration_s": 0.012_345_6,
    }
    return facts | changes


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a log."""
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never held"
        time.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "access.log"


@pytest.fixture
def log(path: Path) -> Iterator[AccessLog]:
    """A log in a file."""
    made = AccessLog.open(str(path))
    assert made is not None
    yield made
    made.close()


def test_a_line_tells_what_came_of_a_request(log: AccessLog, path: Path) -> None:
    """Every field, in an order that is the same in all lines."""
    log.write(
        **request(
            upstream="http://a:80",
            upstream_s=0.01,
            metered=["API_CALL", "AI_TOKEN"],
            code="upstream_timeout",
            status=504,
            aborted="client_left",
        )
    )
    log.close()
    (line,) = lines(path)
    assert list(line.items()) == [
        ("time", "2026-11-21T12:00:00.500Z"),
        ("client", "192.0.2.7"),
        ("method", "GET"),
        ("host", "api.example.com"),
        ("path", "/v1/things"),
        ("protocol", "HTTP/1.1"),
        ("status", 504),
        ("code", "upstream_timeout"),
        ("bytes_in", 0),
        ("bytes_out", 5),
        ("duration_ms", 12.346),
        ("upstream", "http://a:80"),
        ("upstream_ms", 10.0),
        ("metered", ["API_CALL", "AI_TOKEN"]),
        ("aborted", "client_left"),
    ]


def test_what_there_was_not_is_null(log: AccessLog, path: Path) -> None:
    """A client that left before the answer got no status."""
    log.write(**request(status=0))
    log.close()
    (line,) = lines(path)
    for name in ("status", "code", "upstream", "upstream_ms", "aborted"):
        assert line[name] is None
    assert line["metered"] == []


# What a client sends is harmless


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a?token=" + SECRET.encode(), "/a"),
        (b"/a??" + SECRET.encode(), "/a"),
        (b"*", "*"),
        (b"http://user:" + SECRET.encode() + b"@host/a?b", "/a"),
        (b"http://user:" + SECRET.encode() + b"@host", "/"),
        (b"/redirect/http://x/", "/redirect/http://x/"),
        (b"/a\nb\r{}", "/a\nb\r{}"),
        (b"/\x1b[2J\x07", "/\x1b[2J\x07"),
        (b"/\xff\xc2\x9b", r"/\xff\xc2\x9b"),
        (b"/\x7f", r"/\x7f"),
        (b'/"\\', '/"\\'),
        (b"/\xe2\x80\xae", r"/\xe2\x80\xae"),
    ],
)
def test_a_path_is_told_without_secrets_and_without_harm(
    log: AccessLog, path: Path, target: bytes, expected: str
) -> None:
    """No query, no password; one line of printable ASCII whatever the bytes are."""
    log.write(**request(target=target))
    log.close()
    written = path.read_bytes()
    assert SECRET.encode() not in written
    assert all(0x20 <= byte < 0x7F for byte in written[:-1])
    assert [line["path"] for line in lines(path)] == [expected]


def test_an_address_is_made_harmless_too(log: AccessLog, path: Path) -> None:
    """It may be what a trusted peer passed on; an IPv6 zone can hold anything, at any length."""
    log.write(**request(client="fe80::1%\x9b\ud800" + "z" * 9_000))
    log.close()
    (line,) = lines(path)
    assert line["client"].startswith(r"fe80::1%\xc2\x9b?zz")
    assert len(line["client"]) < TEXT_CHARS_MAX + 10


def test_texts_of_clients_are_cut(log: AccessLog, path: Path) -> None:
    """One request cannot fill the disk."""
    log.write(**request(target=b"/" + b"a" * 9_000, host=b"\xff" * 9_000, method=b"M" * 9_000))
    log.close()
    (line,) = lines(path)
    assert len(line["path"]) == PATH_CHARS_MAX
    assert len(line["method"]) == TEXT_CHARS_MAX
    assert len(line["host"]) == TEXT_CHARS_MAX * len(r"\xff")
    assert path.stat().st_size < 5_000


@given(st.binary())
def test_any_bytes_become_text_without_control_of_a_terminal(value: bytes) -> None:
    """JSON escapes what is below a space; the rest is ASCII, and no query is left."""
    text = _text(_path(value), 1_000)
    assert "?" not in text
    assert text.isascii()
    assert "\x7f" not in text


# Where the lines go


def test_lines_are_written_together(
    log: AccessLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call of the system for what was gathered; at once when it is much."""
    writes: list[int] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        writes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    for _ in range(100):
        log.write(**request())
    assert path.read_bytes() == b""
    log.flush()
    log.flush()
    wait_for(lambda: path.stat().st_size)
    assert len(writes) == 1
    for _ in range(access_log.WRITE_BYTES // 200):
        log.write(**request())
    wait_for(lambda: len(writes) > 1)
    assert writes[1] >= access_log.WRITE_BYTES


def test_an_existing_log_is_continued_and_private(tmp_path: Path) -> None:
    """A restart loses no history; others on the machine cannot read who calls."""
    path = tmp_path / "access.log"
    for _ in range(2):
        log = AccessLog.open(str(path))
        assert log is not None
        log.write(**request())
        log.close()
    assert len(lines(path)) == 2
    assert path.stat().st_mode & 0o007 == 0


def test_a_log_that_is_renamed_is_left_and_a_new_one_begun(log: AccessLog, path: Path) -> None:
    """As logrotate does it, with or without a signal; no line is lost or torn."""
    log.write(**request(status=201))
    log.flush()
    wait_for(lambda: path.stat().st_size)
    path.rename(path.with_suffix(".1"))
    log.write(**request(status=202))
    log.flush()
    wait_for(path.exists)
    path.rename(path.with_suffix(".2"))
    log.reopen()
    wait_for(path.exists)
    log.write(**request(status=203))
    log.close()
    found = [lines(path.with_suffix(suffix)) for suffix in (".1", ".2", ".log")]
    assert [[line["status"] for line in each] for each in found] == [[201], [202], [203]]


def test_a_new_log_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    """Its directory was renamed away too: the lines go where they went."""
    directory = tmp_path / "logs"
    directory.mkdir()
    log = AccessLog.open(str(directory / "access.log"))
    assert log is not None
    directory.rename(tmp_path / "old")
    log.write(**request())
    log.close()
    assert len(lines(tmp_path / "old" / "access.log")) == 1
    assert log.lost == 0


def test_workers_share_a_file(tmp_path: Path) -> None:
    """Each write is appended as a whole."""
    path = tmp_path / "access.log"
    logs = [AccessLog.open(str(path)) for _ in range(3)]

    def work(log: AccessLog) -> None:
        for _ in range(300):
            log.write(**request())
            log.flush()
        log.close()

    threads = [threading.Thread(target=work, args=[log]) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(lines(path)) == 900


def test_off_is_no_log() -> None:
    """And costs nothing."""
    assert AccessLog.open("off") is None


def test_a_file_that_cannot_be_opened_is_told_at_start(tmp_path: Path) -> None:
    """A proxy that was told to log must not start without."""
    with pytest.raises(ConfigurationError, match="cannot open the access log"):
        AccessLog.open(str(tmp_path))


# Failing disks and pipes


def test_a_full_disk_costs_lines_and_nothing_else(
    log: AccessLog, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Lost lines are counted, told once, and never leave half a line before the next one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        for _ in range(2):
            for _ in range(5):
                log.write(**request())
            log.flush()
        wait_for(lambda: log.lost)
        log.flush()
    finally:
        wait_for(lambda: log.lost == 10 - path.read_bytes().count(b"\n"))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    log.write(**request(status=299))
    log.close()
    *whole, torn, last = path.read_text().splitlines()
    assert [json.loads(line)["status"] for line in (*whole, last)] == [200] * len(whole) + [299]
    assert len(whole) + log.lost == 10
    assert not torn.endswith("}")
    assert caplog.text.count("takes no lines") == 1
    assert f"takes lines again; {log.lost} were lost" in caplog.text


SCRIPT = """
import sys, time
from usageflow.proxy import access_log
log = access_log.AccessLog.open("-")
facts = dict(ended_at_s=0, client="c", method=b"GET", host=b"h", target=b"/", protocol="HTTP/1.1",
             status=200, bytes_in=0, bytes_out=0, duration_s=0)
"""


def run(script: str, **options: Any) -> "subprocess.Popen[bytes]":
    """A process with a log on its standard output."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_standard_output_takes_lines() -> None:
    """For containers."""
    process = run("log.write(**facts); log.close(); print('still mine')")
    out, err = process.communicate(timeout=30)
    assert json.loads(out.splitlines()[0])["path"] == "/"
    assert out.splitlines()[1:] == [b"still mine"]
    assert err == b""


def test_a_closed_pipe_breaks_nothing() -> None:
    """Whoever read it has gone: lines are lost, the process serves on."""
    process = run(
        "sys.stdin.readline(); log.write(**facts); log.close(); sys.exit(40 + log.lost)",
        stdin=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(30) == 41
    assert process.stderr is not None
    assert b"takes no lines" in process.stderr.read()
    process.stderr.close()


def test_a_pipe_that_nobody_reads_does_not_stop_the_loop() -> None:
    """Memory is bounded, what is beyond it is counted, and even the end does not hang."""
    process = run(
        "access_log.BACKLOG_BYTES_MAX = 200_000; access_log.CLOSE_S_MAX = 0.1\n"
        "for _ in range(5_000): log.write(**facts)\n"
        "log.close(); sys.exit(42 if log.lost > 1_000 else 1)"
    )
    assert process.wait(30) == 42
    process.communicate()


def test_without_standard_output_nothing_else_is_written_to() -> None:
    """Its number may by then be that of a socket or of the spool."""
    script = "import sys\nsys.stdout = None\n" + SCRIPT
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, timeout=30
    )
    assert b"cannot open the access log -" in process.stderr
