"""Content encodings: what was encoded comes out, whatever else is a problem, and all is bounded."""

import gzip
import importlib
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.content_codings import CODECS, INPUT_SLICE_BYTES
from usageflow.policies.decoding import (
    FEED_CPU_S_MAX,
    Decoder,
    open_decoder,
)
from usageflow.policies.reason import Reason

brotli: Any = importlib.import_module("brotli")  # it has no types
TEXT = b"".join(b'{"tokens": %d}\n' % number for number in range(5_000))
MIB = 1_048_576
UNDECODABLE = "cannot be decoded as its content encoding says"
TRUNCATED = "ends before its content encoding does"


def raw_deflate(data: bytes) -> bytes:
    """Deflate without a header, as some servers send it."""
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    " Deflate ": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
encodings = pytest.mark.parametrize("encoding", ENCODERS)


def opened(
    encoding: str,
    bytes_max: int = 8 * MIB,
    *,
    cpu_s_max: float = 5,
    total: bool = True,
    cpu_s: Callable[[], float] = lambda: 0.0,
) -> Decoder:
    """A decoder for this Content-Encoding; untold, one whose clock stands still."""
    headers = [(b"content-type", b"text/plain"), (b"Content-Encoding", encoding.encode())]
    decoder = open_decoder(
        headers, bytes_max=bytes_max, cpu_s_max=cpu_s_max, total=total, cpu_s=cpu_s
    )
    assert isinstance(decoder, Decoder)
    return decoder


def decoded(decoder: Decoder, data: bytes, chunk_bytes: int = 65_536) -> bytes:
    """All that comes out of a body that comes in chunks."""
    chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    made = b"".join(map(decoder.feed, chunks))
    decoder.end()
    return made


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that goes on by as much at every look."""
    times = iter(range(sys.maxsize))
    return lambda: next(times) * step_s


def empty_blocks(count: int) -> bytes:
    """Raw deflate that makes nothing: blocks with code tables of their own and no content."""
    lengths = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1]
    fields = [(0, 1), (2, 2), (0, 5), (0, 5), (14, 4)]
    fields += [(int(symbol in (18, 1)), 3) for symbol in lengths]
    fields += [(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)]
    block = width = 0
    for value, bits in fields:
        block |= value << width
        width += bits
    eight = sum(block << (width * number) for number in range(8))
    return eight.to_bytes(width, "little") * (count // 8)


@encodings
@pytest.mark.parametrize("chunk_bytes", [1, 1_000, 10 * MIB])
def test_what_was_encoded_comes_out(encoding: str, chunk_bytes: int) -> None:
    """Each encoding is undone wherever the chunks are cut."""
    decoder = opened(encoding)
    assert decoded(decoder, ENCODERS[encoding](TEXT), chunk_bytes) == TEXT
    assert decoder.problem is None


@given(st.data(), st.sampled_from(sorted(ENCODERS)), st.binary(max_size=300))
def test_chunks_may_be_cut_anywhere(data: st.DataObject, encoding: str, content: bytes) -> None:
    """Any content in any chunks, an empty one and empty chunks included, is what it was."""
    encoded = ENCODERS[encoding](content)
    cuts = data.draw(st.lists(st.integers(0, len(encoded))).map(sorted))
    decoder = opened(encoding)
    made = [decoder.feed(encoded[a:b]) for a, b in pairwise([0, *cuts, len(encoded)])]
    decoder.end()
    assert (b"".join(made), decoder.problem) == (content, None)


@given(st.sampled_from(["gzip", "deflate", "br", "zstd", "br, gzip"]), st.binary(max_size=200))
def test_garbage_never_raises(encoding: str, data: bytes) -> None:
    """Any bytes are content or a problem."""
    decoded(opened(encoding), data)


@given(st.sampled_from(["gzip", "deflate", "br", "zstd"]), st.data())
def test_damage_never_raises(encoding: str, data: st.DataObject) -> None:
    """A valid body with a wrong byte is content or a problem."""
    encoded = bytearray(ENCODERS[encoding](TEXT[:2_000]))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    decoded(opened(encoding, 10_000), bytes(encoded))


@encodings
def test_a_cut_body_is_truncated(encoding: str) -> None:
    """A body that lacks its last bytes is not what the app meant, even if it decodes so far."""
    for missing in (1, 9):
        decoder = opened(encoding)
        decoded(decoder, ENCODERS[encoding](TEXT)[:-missing])
        assert decoder.problem == TRUNCATED


@encodings
def test_no_bytes_are_no_problem(encoding: str) -> None:
    """An empty body is said to be empty elsewhere."""
    decoder = opened(encoding)
    assert decoded(decoder, b"") == b""
    assert decoder.problem is None


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate"])
def test_a_lie_is_a_problem(encoding: str) -> None:
    """A body that is not encoded as its header says is not measured, nor is what follows."""
    decoder = opened(encoding)
    assert decoder.feed(TEXT) == b""
    assert decoder.problem == UNDECODABLE
    assert decoder.feed(TEXT) == b""
    decoder.end()
    assert decoder.problem == UNDECODABLE


def test_a_wrong_checksum_is_a_problem() -> None:
    """What came before it is returned, and cannot be used."""
    encoded = bytearray(gzip.compress(TEXT))
    encoded[-8] ^= 1
    decoder = opened("gzip")
    assert TEXT.startswith(decoded(decoder, bytes(encoded)))
    assert decoder.problem == UNDECODABLE


def test_a_missing_package_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells what to install."""
    monkeypatch.setitem(CODECS, b"br", lambda: None)
    found = open_decoder([(b"content-encoding", b"br")], bytes_max=1, cpu_s_max=1)
    assert found == Reason('needs a package to be decoded: pip install "usageflow[encodings]"')


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-encoding", b"gzip, identity,br")],
        [(b"content-encoding", b"GZIP"), (b"content-encoding", b"br")],
    ],
)
def test_encodings_are_undone_from_the_last(headers: list[tuple[bytes, bytes]]) -> None:
    """The last one named was applied last, in one header or in several."""
    decoder = open_decoder(headers, bytes_max=MIB, cpu_s_max=5)
    assert isinstance(decoder, Decoder)
    assert decoded(decoder, brotli.compress(gzip.compress(TEXT))) == TEXT
    assert decoder.problem is None


@pytest.mark.parametrize("value", [b"", b"identity", b" Identity , identity", b", ,"])
def test_identity_is_no_encoding(value: bytes) -> None:
    """Nothing is to be undone."""
    assert open_decoder([(b"content-encoding", value)], bytes_max=1, cpu_s_max=1) is None
    assert open_decoder([(b"content-type", b"gzip")], bytes_max=1, cpu_s_max=1) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"compress", "its content encoding is none of gzip, deflate, br and zstd"),
        (b"gzip;q=1", "its content encoding is none of gzip, deflate, br and zstd"),
        (b"br, \xff", "its content encoding is none of gzip, deflate, br and zstd"),
        (b"gzip, gzip, gzip, gzip", "has more than 3 content encodings"),
        (b"," * 65_536, "has more than 3 content encodings"),
    ],
)
def test_what_cannot_be_undone_is_a_reason(value: bytes, reason: str) -> None:
    """It says what is supported and never quotes the header."""
    found = open_decoder([(b"content-encoding", value)], bytes_max=1, cpu_s_max=1)
    assert found == Reason(reason)


@encodings
def test_a_body_may_have_exactly_its_limit(encoding: str) -> None:
    """One byte more is a problem, which names the setting."""
    encoded = ENCODERS[encoding](TEXT)
    exact, short = opened(encoding, len(TEXT)), opened(encoding, len(TEXT) - 1)
    assert decoded(exact, encoded) == TEXT
    assert TEXT.startswith(decoded(short, encoded))
    assert exact.problem is None
    assert short.problem == f"decodes to more than decoded_bytes_max ({len(TEXT) - 1} bytes)"


def test_limits_of_a_stream_are_for_each_chunk() -> None:
    """A stream of events may go on for hours; only what comes at once is bounded."""
    encoder = zlib.compressobj(wbits=31)
    whole, stream = opened("gzip", 10_000), opened("gzip", 10_000, total=False)
    for _ in range(20):
        chunk = encoder.compress(b"." * 1_000) + encoder.flush(zlib.Z_SYNC_FLUSH)
        whole.feed(chunk)
        assert stream.feed(chunk) == b"." * 1_000
    assert whole.problem == "decodes to more than decoded_bytes_max (10000 bytes)"
    stream.feed(encoder.compress(bytes(MIB)) + encoder.flush())
    assert stream.problem == "decodes to more than decoded_bytes_max (10000 bytes)"


def test_the_clock_bounds_a_body_and_each_chunk() -> None:
    """The whole body has its setting; a chunk on which the loop would wait has a fixed bound."""
    encoded = zlib.compress(TEXT)
    step_s = FEED_CPU_S_MAX / 4  # a small chunk takes two or three of them
    whole = opened("deflate", cpu_s_max=0.1, cpu_s=ticking(step_s))
    stream = opened("deflate", cpu_s_max=0.1, total=False, cpu_s=ticking(step_s))
    decoded(whole, encoded[:-1], 10)
    decoded(stream, encoded[:-1], 10)
    assert whole.problem == "takes more than decode_cpu_s_max (0.1 s) to decode"
    assert stream.problem == TRUNCATED
    decoder = opened("deflate", cpu_s_max=5, cpu_s=ticking(FEED_CPU_S_MAX))
    decoder.feed(zlib.compress(TEXT * 2))
    assert decoder.problem == "takes more than 0.02 s to decode in one piece"


def decoded_and_peak(decoder: Decoder, data: bytes) -> tuple[bytes, int]:
    """All that comes out of a body, and the most memory that this takes."""
    tracemalloc.start()
    try:
        return decoded(decoder, data), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMBS = {
    "gzip": (gzip.compress(gzip.compress(bytes(64 * MIB))), "gzip, gzip"),
    "deflate": (zlib.compress(bytes(64 * MIB)), "deflate"),
    "br": (brotli.compress(bytes(64 * MIB), quality=5), "br"),
    "zstd": (zstd.compress(bytes(64 * MIB)), "zstd"),
}


@pytest.mark.parametrize(("data", "encoding"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_ends_at_its_limit_of_bytes(data: bytes, encoding: str) -> None:
    """What makes much of little, even where no time seems to pass."""
    decoder = opened(encoding)
    made, peak = decoded_and_peak(decoder, data)
    assert str(decoder.problem).startswith("decodes to more")
    assert 7 * MIB < len(made) <= 8 * MIB
    assert peak < 20 * MIB


IDLE = {
    "empty blocks": (empty_blocks(200_000), "deflate"),
    "empty members": (gzip.compress(b"") * 10_000, "gzip"),
    "empty frames": (zstd.compress(b"") * 10_000, "zstd"),
    "inner empty blocks": (brotli.compress(empty_blocks(200_000), quality=5), "deflate, br"),
}


@pytest.mark.parametrize(("data", "encoding"), IDLE.values(), ids=IDLE)
def test_work_that_makes_nothing_ends_at_its_limit_of_time(data: bytes, encoding: str) -> None:
    """The clock is asked so often that it need not go far from one look to the next."""
    decoder = opened(encoding, cpu_s_max=0.1, cpu_s=ticking(0.001))
    made, peak = decoded_and_peak(decoder, data)
    assert str(decoder.problem).startswith("takes more")
    assert made == b""
    assert peak < 20 * MIB


def test_nested_work_is_seen_by_the_clock() -> None:
    """A layer that makes nothing still lets the clock be asked after each slice."""
    looks = 0

    def cpu_s() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    data = empty_blocks(100_000)
    for other in ("gzip", "deflate", "br", "zstd"):
        for encoding, body in (
            (f"{other}, deflate", data),
            (f"deflate, {other}", ENCODERS[other](data)),
        ):
            looks = 0
            opened(encoding, cpu_s=cpu_s).feed(body)
            assert looks > len(data) / INPUT_SLICE_BYTES


@pytest.mark.parametrize("window_log", [20, 23, 24])
def test_a_window_beyond_the_standard_is_refused(window_log: int) -> None:
    """RFC 9659 allows 8 MiB; the sender must not choose how much memory we take."""
    encoder = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    decoder = opened("zstd")
    made = decoded(decoder, encoder.compress(TEXT) + encoder.flush())
    assert (made == TEXT) == (decoder.problem is None) == (window_log <= 23)
