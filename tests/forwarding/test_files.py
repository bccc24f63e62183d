"""Units in a file: each once, whatever is killed, rotated or shared."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from usageflow.db.exact import add
from usageflow.errors import ConfigurationError
from usageflow.forwarding.cloudevents import encoded
from usageflow.forwarding.conformance import Trial, examine
from usageflow.forwarding.files import FileSink
from usageflow.forwarding.sink import Parcel
from usageflow.ledger.verdicts import Accepted, Ambiguous

SOURCE = "urn:usageflow:test:own"


def parcel(identifier: str) -> Parcel:
    """A unit."""
    return Parcel(
        identifier=identifier,
        event_name="tokens",
        customer="acct_1",
        identity_field="account_id",
        identity_value="acct_1",
        quantity=Decimal(5),
        occurred_at=datetime(2026, 11, 2, tzinfo=UTC),
    )


def identifiers(*paths: Path) -> list[str]:
    """What the lines of some files are, in order."""
    return [json.loads(line)["id"] for path in paths for line in path.read_text().splitlines()]


def counted(path: Path) -> Mapping[str, Decimal]:
    """The total of each customer."""
    totals: dict[str, Decimal] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        event = json.loads(line, parse_float=Decimal, parse_int=Decimal)
        before = totals.get(event["subject"], Decimal(0))
        totals[event["subject"]] = add(before, event["data"]["quantity"])
    return totals


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the units go."""
    return tmp_path / "usage.ndjson"


@pytest.fixture
def sink(path: Path) -> Iterator[FileSink]:
    """A sink to a file that is not there yet."""
    opened = FileSink(path, source=SOURCE)
    yield opened
    opened.close()


def test_it_keeps_what_a_sink_promises(path: Path, tmp_path: Path) -> None:
    """The kit finds nothing; a file whose directory is gone is an absent far side."""
    gone = tmp_path / "gone"

    def away() -> FileSink:
        gone.mkdir()
        made = FileSink(gone / "usage.ndjson", source=SOURCE)
        for file in gone.iterdir():
            file.unlink()
        gone.rmdir()
        return made

    trial = Trial(
        open=lambda: FileSink(path, source=SOURCE),
        counted=lambda: counted(path),
        customers=[f"customer_{number}" for number in range(8)],
        event_name="tokens",
        away=away,
    )
    assert examine(trial) == []


def test_a_unit_is_a_line(sink: FileSink, path: Path) -> None:
    """What the CloudEvent says is in the file when the verdict is given."""
    assert list(sink.send([parcel("a"), parcel("b")])) == [Accepted(), Accepted()]
    assert path.read_bytes() == b"".join(encoded(parcel(one), SOURCE) + b"\n" for one in "ab")


def test_a_repeat_in_one_batch_is_one_line(sink: FileSink, path: Path) -> None:
    """The second of two is a duplicate, like one of another call."""
    assert list(sink.send([parcel("a"), parcel("a")])) == [Accepted(), Accepted(duplicate=True)]
    assert identifiers(path) == ["a"]


@pytest.mark.parametrize(
    "torn",
    [b"", b'{"specversion":"1.0","id":"c"', b"\x00\x00\x00", b"{}\n", b"." * 5_000],
    ids=["nothing", "half a line", "zeros", "another", "more than comes after it"],
)
def test_what_a_crash_left_is_repaired(sink: FileSink, path: Path, torn: bytes) -> None:
    """Lines that the index does not know are known again; an unfinished one is cut off."""
    sink.send([parcel("a")])
    with path.open("ab") as file:
        file.write(encoded(parcel("b"), SOURCE) + b"\n" + torn)
    verdicts = sink.send([parcel("b"), parcel("c")])
    assert list(verdicts) == [Accepted(duplicate=True), Accepted()]
    assert identifiers(path) == ["a", "b", "c"]


def test_a_whole_line_without_its_end_is_written_again(sink: FileSink, path: Path) -> None:
    """A line is there when its line break is."""
    sink.send([parcel("a")])
    with path.open("ab") as file:
        file.write(encoded(parcel("b"), SOURCE))
    assert list(sink.send([parcel("b")])) == [Accepted()]
    assert identifiers(path) == ["a", "b"]


def test_a_lost_index_is_made_again(sink: FileSink, path: Path) -> None:
    """The file alone says what is in it."""
    sink.send([parcel("a"), parcel("b")])
    sink.close()
    for index in path.parent.glob("usage.ndjson.index*"):
        index.unlink()
    again = FileSink(path, source=SOURCE)
    assert list(again.send([parcel("b")])) == [Accepted(duplicate=True)]
    again.close()
    assert identifiers(path) == ["a", "b"]


def test_the_file_may_be_rotated(sink: FileSink, path: Path, tmp_path: Path) -> None:
    """What was moved away is still known, and what is new begins a new file."""
    sink.send([parcel("a"), parcel("b")])
    moved = path.rename(tmp_path / "usage.1")
    assert list(sink.send([parcel("b"), parcel("c")])) == [Accepted(duplicate=True), Accepted()]
    assert identifiers(moved, path) == ["a", "b", "c"]


def test_a_crash_right_after_a_rotation_doubles_nothing(
    sink: FileSink, path: Path, tmp_path: Path
) -> None:
    """A new file that is as long as the old one was is read from its beginning."""
    sink.send([parcel("a"), parcel("b")])
    moved = path.rename(tmp_path / "usage.1")
    path.write_bytes(encoded(parcel("c"), SOURCE) + b"\n" + encoded(parcel("d"), SOURCE) + b"\n")
    again = [Accepted(duplicate=True)] * 2
    assert list(sink.send([parcel("c"), parcel("d")])) == again
    assert identifiers(moved, path) == ["a", "b", "c", "d"]


def test_a_full_disk_leaves_nothing_behind(
    sink: FileSink, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync nobody can tell what is on the disk, so it is written again."""
    sink.send([parcel("a")])

    def fails(_descriptor: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        assert list(sink.send([parcel("b")])) == [Ambiguous("no space left")]
    assert identifiers(path) == ["a"]
    assert list(sink.send([parcel("b")])) == [Accepted()]
    assert identifiers(path) == ["a", "b"]


def test_a_closed_sink_decides_nothing(sink: FileSink) -> None:
    """It raises nothing, either."""
    sink.close()
    (verdict,) = sink.send([parcel("a")])
    assert isinstance(verdict, Ambiguous)


@pytest.mark.parametrize("content", [b"my diary\n", b'{"name": 1}\n', b"\x00"])
def test_a_file_of_something_else_is_refused(path: Path, content: bytes) -> None:
    """It is not cut off at its first line, as one of ours would be."""
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="holds something else"):
        FileSink(path, source=SOURCE)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """The message says which file."""
    with pytest.raises(ConfigurationError, match=r"nowhere/usage\.ndjson"):
        FileSink(tmp_path / "nowhere" / "usage.ndjson", source=SOURCE)


_WRITER = """
import itertools, sys
from datetime import UTC, datetime
from decimal import Decimal
from usageflow.forwarding.files import FileSink
from usageflow.forwarding.sink import Parcel
sink = FileSink(sys.argv[1], source="urn:usageflow:test:own")
for number in itertools.count():
    units = [
        Parcel(identifier=f"u{number + more}", event_name="tokens", customer="c",
               identity_field="f", identity_value="c", quantity=Decimal(1),
               occurred_at=datetime(2026, 11, 2, tzinfo=UTC))
        for more in range(3)
    ]
    if all(type(verdict).__name__ == "Accepted" for verdict in sink.send(units)):
        print(number, flush=True)
"""


@pytest.mark.kill
def test_killed_writers_share_a_file(path: Path) -> None:
    """Two processes send the same units, each killed at a random moment: each is there once."""
    acknowledged = set()
    for _ in range(3):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(20):
                first = int(writer.stdout.readline())
                acknowledged |= {f"u{first + more}" for more in range(3)}
        for writer in writers:
            writer.kill()
            writer.communicate()
    last = FileSink(path, source=SOURCE)
    last.send([parcel("last")])
    last.close()
    counts = Counter(identifiers(path))
    assert set(counts.values()) == {1}
    assert acknowledged <= counts.keys()
