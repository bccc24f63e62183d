"""Bodies to lines: encodings, limits, and what is refused."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.api.batches import decoded, lines_of
from usageflow.api.problems import Problem


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_plain_bodies_stay_as_they_are(encoding: str) -> None:
    """Without a content encoding the bytes are the batch."""
    assert decoded(b"{}\n{}", encoding, bytes_max=1) == b"{}\n{}"


@given(st.binary(max_size=300))
def test_gzip_is_undone_up_to_the_very_limit(body: bytes) -> None:
    """A body that unpacks to exactly the limit is taken, one byte more is too large."""
    packed = gzip.compress(body, mtime=0)
    assert decoded(packed, "gzip", bytes_max=len(body)) == body
    beyond = decoded(gzip.compress(body + b"x", mtime=0), "GZIP", bytes_max=len(body))
    assert isinstance(beyond, Problem)
    assert (beyond.status, beyond.code) == (413, "body_too_large")


def test_a_gzip_bomb_is_never_unpacked() -> None:
    """A quarter of a gigabyte in a small body is refused for the cost of the limit."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    megabyte = bytes(1_048_576)
    bomb = b"".join(packer.compress(megabyte) for _ in range(256)) + packer.flush()
    tracemalloc.start()
    refused = decoded(bomb, "gzip", bytes_max=1_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000
    assert isinstance(refused, Problem)
    assert refused.status == 413
    assert "1000 bytes" in refused.message


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"plain text", "not gzip"),
        (b"", "not one complete member"),
        (gzip.compress(b"cut off", mtime=0)[:-3], "not one complete member"),
        (gzip.compress(b"1", mtime=0) + gzip.compress(b"2", mtime=0), "not one complete member"),
        (gzip.compress(b"checksum", mtime=0)[:-8] + bytes(8), "not gzip"),
    ],
)
def test_damaged_gzip_is_refused(body: bytes, reason: str) -> None:
    """What does not unpack completely and correctly is an invalid body, never half a batch."""
    refused = decoded(body, "gzip", bytes_max=1_000)
    assert isinstance(refused, Problem)
    assert (refused.status, refused.code) == (400, "invalid_body")
    assert reason in refused.message


def test_other_encodings_are_named_in_the_refusal() -> None:
    """An encoding we cannot undo is 415 and says which one we can."""
    refused = decoded(b"", "br", bytes_max=1)
    assert isinstance(refused, Problem)
    assert refused.status == 415
    assert refused.headers == {"accept-encoding": "gzip"}
    assert "'br'" in refused.message


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"", []),
        (b"\n \r\n", []),
        (b"a", [b"a"]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\n\nb", [b"a", b"b"]),
        (b"a\nb\nc\n", [b"a", b"b", b"c"]),
    ],
)
def test_lines_are_what_is_not_blank(body: bytes, lines: list[bytes]) -> None:
    """Blank lines are passed over, order is kept, a last newline is optional."""
    assert lines_of(body, events_max=3) == lines


@pytest.mark.parametrize("body", [b"a\nb\nc\nd", b"a\nb\nc\nd\n", b"\n\n\na", b"\n" * 9 + b"a"])
def test_too_many_lines_are_refused(body: bytes) -> None:
    """One line over the limit refuses the batch before anything is stored."""
    refused = lines_of(body, events_max=3)
    assert isinstance(refused, Problem)
    assert (refused.status, refused.code) == (413, "too_many_events")
