"""The codings one by one: members and frames, what follows them, their packages and their steps."""

import gzip
import importlib
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from backports import zstd

from usageflow.policies import content_codings
from usageflow.policies.content_codings import (
    CODECS,
    INPUT_SLICE_BYTES,
    OUTPUT_SLICE_BYTES,
    Codec,
)

brotli: Any = importlib.import_module("brotli")  # it has no types
TEXT = b"".join(b'{"tokens": %d}\n' % number for number in range(5_000))


def raw_deflate(data: bytes) -> bytes:
    """Deflate without a header, as some servers send it."""
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


ENCODERS: list[tuple[bytes, Callable[[bytes], bytes]]] = [
    (b"gzip", gzip.compress),
    (b"x-gzip", gzip.compress),
    (b"deflate", zlib.compress),
    (b"deflate", raw_deflate),
    (b"br", brotli.compress),
    (b"zstd", zstd.compress),
]
codings = pytest.mark.parametrize(("name", "encode"), ENCODERS)
members = pytest.mark.parametrize(("name", "encode"), [ENCODERS[0], ENCODERS[5]])


def opened(name: bytes) -> Codec:
    """A codec, whose package is there."""
    codec = CODECS[name]()
    assert codec is not None
    return codec


def decoded(codec: Codec, data: bytes, chunk_bytes: int = 65_536) -> bytes:
    """All that comes out of data that comes in chunks."""
    chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    return b"".join(piece for chunk in chunks for piece in codec.slices(chunk))


@codings
@pytest.mark.parametrize("more", range(0, 1_200, 100))
def test_what_expands_comes_out_whole(
    name: bytes, encode: Callable[[bytes], bytes], more: int
) -> None:
    """The last byte may stand for much, and output may wait without any input left."""
    content = bytes(3 * OUTPUT_SLICE_BYTES + more)
    codec = opened(name)
    assert decoded(codec, encode(content)) == content
    assert codec.complete


@codings
def test_steps_are_small(name: bytes, encode: Callable[[bytes], bytes]) -> None:
    """Each gives little, and even no input at all takes one."""
    codec = opened(name)
    assert list(codec.slices(b"")) == [b""]
    sizes = [len(piece) for piece in codec.slices(encode(bytes(10_000_000)))]
    assert max(sizes) <= 2 * OUTPUT_SLICE_BYTES


def test_every_slice_of_input_takes_a_step() -> None:
    """Also where everything was decoded long ago."""
    codec = opened(b"gzip")
    data = gzip.compress(b"abc") + bytes(10 * INPUT_SLICE_BYTES)
    assert len(list(codec.slices(data))) > 10


@members
@pytest.mark.parametrize("chunk_bytes", [1, 65_536])
def test_members_follow_one_another(
    name: bytes, encode: Callable[[bytes], bytes], chunk_bytes: int
) -> None:
    """Members of gzip and frames of zstd are one body, as logs and pigz write them."""
    codec = opened(name)
    body = encode(TEXT) + encode(b"") + encode(b"the end")
    assert decoded(codec, body, chunk_bytes) == TEXT + b"the end"
    assert codec.complete


@pytest.mark.parametrize(("name", "encode"), ENCODERS[:4])
@pytest.mark.parametrize("garbage", [b"\0", b"\x1f", b"\0\0\0\0", b"<!-- served by -->"])
@pytest.mark.parametrize("chunk_bytes", [1, 65_536])
def test_what_follows_is_ignored_as_browsers_do(
    name: bytes, encode: Callable[[bytes], bytes], garbage: bytes, chunk_bytes: int
) -> None:
    """Padding after gzip and deflate is common; clients do not see it."""
    codec = opened(name)
    assert decoded(codec, encode(TEXT) + garbage, chunk_bytes) == TEXT
    assert codec.complete


@pytest.mark.parametrize(("name", "encode"), ENCODERS[4:])
def test_nothing_may_follow_the_newer_ones(name: bytes, encode: Callable[[bytes], bytes]) -> None:
    """No client agrees with another about what follows br or zstd, so it is an error."""
    codec = opened(name)
    with pytest.raises(codec.error):
        decoded(codec, encode(TEXT) + b"\0\0\0\0")


@pytest.mark.parametrize("window_log", [20, 23, 24])
def test_a_window_beyond_the_standard_is_refused(window_log: int) -> None:
    """RFC 9659 allows 8 MiB; the sender must not choose how much memory we take."""
    encoder = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    data = encoder.compress(TEXT) + encoder.flush()
    codec = opened(b"zstd")
    if window_log <= content_codings.ZSTD_WINDOW_LOG_MAX:
        assert decoded(codec, data) == TEXT
    else:
        with pytest.raises(codec.error):
            decoded(codec, data)


@pytest.fixture
def _nothing_loaded() -> Iterator[None]:
    content_codings._loaded.cache_clear()
    yield
    content_codings._loaded.cache_clear()


@pytest.mark.usefixtures("_nothing_loaded")
@pytest.mark.parametrize(
    ("name", "modules"),
    [(b"br", ["brotli"]), (b"zstd", ["compression.zstd", "backports.zstd"])],
)
def test_without_its_package_a_coding_is_not_there(
    name: bytes, modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The light install decodes gzip and deflate."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    assert CODECS[name]() is None
    assert CODECS[b"gzip"]() is not None


@pytest.mark.usefixtures("_nothing_loaded")
def test_a_brotli_that_cannot_be_bounded_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before brotli 1.2 a kilobyte could become a gigabyte in one call."""
    monkeypatch.setattr(brotli, "Decompressor", object)
    assert CODECS[b"br"]() is None
