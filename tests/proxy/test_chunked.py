"""Chunked bodies: the same in whatever pieces they come, and strict about every byte of framing."""

from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usageflow.proxy.chunked import ChunkedReader, chunk, last_chunk
from usageflow.proxy.heads import Fields

LINE_BYTES_MAX = 32
TRAILERS_BYTES_MAX = 64

bodies = st.lists(st.binary(max_size=40), max_size=8)
trailer_names = st.from_regex("X-[A-Za-z]{1,8}", fullmatch=True).map(str.encode)
trailer_values = st.from_regex("([!-~]([ !-~]{0,6}[!-~])?)?", fullmatch=True).map(str.encode)
trailer_lists = st.lists(st.tuples(trailer_names, trailer_values), max_size=2)


class Outcome(NamedTuple):
    """What a reader found in all."""

    body: bytes
    complete: bool
    rest: bytes
    trailers: Fields
    wrong: bool


def read(*pieces: bytes) -> Outcome:
    """Feed the pieces, one by one."""
    reader = ChunkedReader(line_bytes_max=LINE_BYTES_MAX, trailers_bytes_max=TRAILERS_BYTES_MAX)
    body = b"".join([reader.feed(piece) for piece in pieces])
    return Outcome(body, reader.complete, reader.rest, reader.trailers, reader.problem is not None)


def bytewise(data: bytes) -> list[bytes]:
    """The smallest pieces there are."""
    return [data[at : at + 1] for at in range(len(data))]


@given(bodies, trailer_lists, st.binary(max_size=10))
def test_reading_undoes_writing(parts: list[bytes], trailers: Fields, rest: bytes) -> None:
    """What `chunk` and `last_chunk` write is read, up to its end and not a byte further."""
    data = b"".join(map(chunk, parts)) + last_chunk(trailers) + rest
    assert read(data) == Outcome(b"".join(parts), True, rest, trailers, wrong=False)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    at = sorted(place % (len(data) + 1) for place in places)
    return [data[i:j] for i, j in zip([0, *at], [*at, len(data)], strict=True)]


framings = st.lists(
    st.sampled_from(
        [
            *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"0", b"1", b"5", b"a", b"F", b"g", b" ", b"\t"),
            *(b";", b"=", b'"', b"\\", b":", b"x", b"0x", b"-", b"\x00", b"\x80", b"X: y\r\n"),
            *(b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b'2;a="b;c"\r\nab\r\n', b"0\r\n\r\n"),
            *(b"A" * 20, b"0" * 20, b"X: " + b"y" * 30 + b"\r\n", b";" + b"e" * 40),
        ]
    ),
    max_size=12,
).map(b"".join)


@given(framings, st.lists(st.integers(0, 1_000), max_size=6))
@example(b"1;" + b"e" * 40 + b"\r\nx\r\n0\r\n\r\n", [10])
@example(b"5\r\nhello\r\n0\r\n" + b"X: " + b"y" * 59 + b"\r\n\r\nrest", [])
@example(b"5\r\nhello\r\n0\r\n" + b"X: " + b"y" * 60 + b"\r\n\r\nrest", [])
def test_cuts_change_nothing(data: bytes, places: list[int]) -> None:
    """Any bytes, valid or not, are read to the same end however they were cut."""
    whole = read(data)
    assert read(*cut(data, places)) == whole
    assert read(*bytewise(data)) == whole


def test_every_cut_of_a_body() -> None:
    """Two pieces, cut at each place of a body with all that a body may have."""
    data = b'5;a;b="c\\"d"\r\nhello\r\n00A\r\n 0\r\n\r\n0\r\n\r\r\n0;x=y\r\nX-Sum: 1 \r\n\r\nGET /'
    expected = Outcome(b"hello 0\r\n\r\n0\r\n\r", True, b"GET /", [(b"X-Sum", b"1")], wrong=False)
    for place in range(len(data) + 1):
        assert read(data[:place], data[place:]) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"5",
        b"05",
        b"000000000000005",
        b"5;a",
        b"5;a=b",
        b'5;a="b"',
        b'5;a="";b',
        b'5;a="\\"\\\\ \t\xe9;=";b=c',
    ],
)
def test_size_lines_that_are_read(line: bytes) -> None:
    """Hexadecimal digits, and extensions, which are dropped."""
    data = line + b"\r\nhello\r\n0\r\n\r\n"
    assert read(data) == Outcome(b"hello", True, b"", [], wrong=False)


def test_sizes_are_hexadecimal_in_any_case() -> None:
    """Upper and lower case digits mean the same."""
    assert read(b"1a\r\n" + b"x" * 26 + b"\r\n1A\r\n").body == b"x" * 26
    assert not read(b"1a\r\n" + b"x" * 26 + b"\r\n1A\r\n").wrong


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"0x5",
        b"+5",
        b"-1",
        b" 5",
        b"5 ",
        b"5\t",
        b"1_0",
        b"g",
        b"5g",
        b"5,",
        b"\xb2",
        b"0000000000000005",
        b"fffffffffffffffff",
        b"5 ;a",
        b"5; a",
        b"5;",
        b"5;a;",
        b"5;a=",
        b"5;a =b",
        b"5;=b",
        b'5;a="b',
        b'5;a="b"c',
        b'5;a="\\',
        b"5;a=b c",
        b"5;a\x00",
        b'5;a="\x7f"',
        b"5\r",
        b"5;a\r",
        b'5;a="\r"',
        b"5;" + b"a" * LINE_BYTES_MAX,
    ],
)
def test_size_lines_that_are_refused(line: bytes) -> None:
    """Each is a size to some reader and not to another, or more than a size line needs."""
    for data in (line + b"\r\nhello\r\n0\r\n\r\n", b"1\r\nx\r\n" + line + b"\r\nhello\r\n"):
        outcome = read(data)
        assert outcome.wrong
        assert not outcome.complete
        assert b"hello" not in outcome.body


@pytest.mark.parametrize(
    "data",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\n\r\nhello",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
    ],
)
def test_line_ends_are_exact(data: bytes) -> None:
    """A carriage return and a line feed, after the size and after the data."""
    assert read(data).wrong


def test_a_bad_size_is_known_at_its_first_bad_byte() -> None:
    """Nobody waits for the end of a line that cannot become a size."""
    assert read(b"x").wrong
    assert read(b"5\r\nhello\r\n-").wrong
    assert read(b"5\r\nhelloX").wrong
    assert read(b"1" * 16).wrong
    assert read(b"5;" + b"a" * LINE_BYTES_MAX * 2).wrong


@pytest.mark.parametrize("begun", [b"\n", b"\r\r", b"X ", b":", b"X: y\n", b"X: y\rz", b"X: \x00"])
def test_bad_trailers_are_known_at_once(begun: bytes) -> None:
    """Nor does anybody wait for the end of trailers that are wrong already."""
    assert read(b"0\r\n" + begun).wrong
    assert read(b"0\r\nX-Sum: 7\r\n" + begun).wrong


def test_a_line_at_its_limit_passes() -> None:
    """One byte less than what is refused."""
    line = b"5;" + b"a" * (LINE_BYTES_MAX - 2)
    assert not read(line + b"\r\nhello\r\n").wrong
    assert read(line + b"a\r\nhello\r\n").wrong


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length",
        b"transfer-encoding",
        b"HOST",
        b"Trailer",
        b"Authorization",
        b"Cookie",
        b"Set-Cookie",
        b"Connection",
        b"Content-Type",
    ],
)
def test_trailers_that_are_dropped(name: bytes) -> None:
    """What frames, routes or identifies cannot come late; other fields are kept as they are."""
    data = b"0\r\n%b: 5\r\nX-Sum:  7\r\n\r\n" % name
    assert read(data) == Outcome(b"", True, b"", [(b"X-Sum", b"7")], wrong=False)


@pytest.mark.parametrize(
    "line", [b"X : y", b": y", b"X", b" X: y", b"X: y\r\n z", b"X: \x00", b"X: y\nZ: z", b"X: y\r"]
)
def test_trailers_that_are_refused(line: bytes) -> None:
    """They are held to the rules of heads."""
    outcome = read(b"5\r\nhello\r\n0\r\n" + line + b"\r\n\r\n")
    assert outcome == Outcome(b"hello", False, b"", [], wrong=True)


@pytest.mark.parametrize(("value_bytes", "wrong"), [(59, False), (60, True)])
def test_trailers_have_a_limit(value_bytes: int, *, wrong: bool) -> None:
    """It counts their lines with line ends, but not the empty line."""
    line = b"X: " + b"y" * value_bytes + b"\r\n"
    assert (len(line) > TRAILERS_BYTES_MAX) == wrong
    assert read(b"0\r\n" + line + b"\r\n").wrong == wrong


def test_endless_trailers_are_refused() -> None:
    """They need not end for that."""
    assert read(b"0\r\n", *[b"X: y\r\n"] * 20).wrong


def test_a_piece_within_a_chunk_is_not_copied() -> None:
    """Large bodies cost nothing but counting."""
    reader = ChunkedReader(line_bytes_max=LINE_BYTES_MAX, trailers_bytes_max=TRAILERS_BYTES_MAX)
    assert reader.feed(b"fffff\r\n") == b""
    piece = b"x" * 1_000
    assert reader.feed(piece) is piece
    assert reader.feed(b"") == b""
    remainder = b"x" * (0xFFFFF - 1_000)
    assert reader.feed(remainder) is remainder
    assert not reader.complete
    assert reader.feed(b"\r\n0\r\n\r\n") == b""
    assert reader.complete


def test_nothing_is_read_after_the_end() -> None:
    """What comes after a body stays as it is, and after a problem it is nobody's."""
    data = b"1\r\nx\r\n0\r\n\r\n1\r\n"
    assert read(data, b"y\r\n") == Outcome(b"x", True, b"1\r\ny\r\n", [], wrong=False)
    assert read(b"1\r\nx\r\n!", b"1\r\ny\r\n") == Outcome(b"x", False, b"", [], wrong=True)


def test_writing() -> None:
    """One chunk, nothing for nothing, and the end with its trailers."""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert chunk(b"") == b""
    assert last_chunk() == b"0\r\n\r\n"
    assert last_chunk([(b"A", b"b"), (b"C", b"")]) == b"0\r\nA: b\r\nC: \r\n\r\n"
