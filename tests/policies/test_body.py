"""Bodies: what is kept, and how they become documents."""

from decimal import Decimal

import pytest

from usageflow.policies.body import Body
from usageflow.policies.reason import Reason


def test_a_body_keeps_what_fits() -> None:
    """Chunks make one body; one that came whole is not copied."""
    body, chunk = Body(10), b"0123456789"
    body.add(chunk)
    body.add(b"")
    assert body.data is chunk
    assert (body.bytes_total, body.problem) == (10, None)


def test_a_body_that_outgrows_its_limit_is_dropped_and_counted() -> None:
    """Beyond the limit nothing is kept, the bytes still count, and the reason names the setting."""
    body = Body(10)
    for chunk in (b"01234", b"01234", b"01234"):
        body.add(chunk)
    body.problem = None  # the edge takes back its own problem at the end of the request
    body.add(b"")
    assert body.data == b""
    assert body.bytes_total == 15
    assert str(body.problem) == "larger than body_bytes_max (10 bytes)"


def test_a_body_nobody_asked_for_is_only_counted() -> None:
    """Without a limit nothing is kept and nothing is wrong."""
    body = Body(None)
    body.add(b"01234")
    assert (body.bytes_total, body.data, body.problem) == (5, b"", None)


def test_a_body_is_parsed_once() -> None:
    """Several policies read the same parsed document."""
    body = Body(100)
    body.add(b'{"a": 0.1}')
    assert body.document([], "body") is body.document([], "body")
    assert body.document([], "body") == {"a": Decimal("0.1")}


class Broken:
    """A decoder and stream reader with a mistake in it."""

    problem: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Fail."""
        raise KeyError(chunk)

    def end(self) -> None:
        """Fail."""
        raise KeyError


@pytest.mark.parametrize("bytes_first", [True, False])
def test_a_mistake_of_ours_never_leaves_the_body(bytes_first: bool) -> None:  # noqa: FBT001
    """It is the body's problem, and says nothing of what the body contains."""
    body = Body(100)
    body.read_as(Broken(), None)
    if bytes_first:
        body.add(b"secret")
    body.end()
    body.add(b"more")
    assert body.problem == "internal error: KeyError"
    assert body.data == b""


class Words:
    """A stream reader that keeps what it is given."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.ended = False

    def feed(self, chunk: bytes) -> None:
        """Keep it."""
        self.chunks.append(chunk)

    def end(self) -> None:
        """Note it."""
        self.ended = True


def test_a_stream_is_handed_on_and_not_kept() -> None:
    """However long it is, only its bytes are counted."""
    body, words = Body(4), Words()
    body.read_as(None, words)
    for chunk in (b"abc", b"def"):
        body.add(chunk)
    body.end()
    assert (words.chunks, words.ended) == ([b"abc", b"def"], True)
    assert (body.bytes_total, body.data, body.problem) == (6, b"", None)


def test_an_encoding_that_nobody_reads_is_the_bodys_problem() -> None:
    """The bytes are counted and not kept."""
    body = Body(100)
    body.read_as(Reason("is encoded as zip"), None)
    body.add(b"abc")
    assert (body.bytes_total, body.data, body.problem) == (3, b"", "is encoded as zip")
    assert not body.wanted
