"""What a hung-up upstream said can be read after our own write has failed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from usageflow.proxy.last_words import LastWords

pytestmark = pytest.mark.anyio


async def test_reads_what_came_before_the_reset(
    upstream: Callable[..., Awaitable[int]],
) -> None:
    """The transport is closed by its own failing write; the answer is still there."""

    async def refuse(wire: Any) -> None:
        await wire.exactly(1)
        await wire.send(b"too large")

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(
        asyncio.Protocol, "127.0.0.1", await upstream(refuse)
    )
    words = LastWords.of(transport)
    assert words is not None
    transport.pause_reading()  # what arrives stays in the kernel
    transport.write(b"z" * 100_000)
    while not transport.is_closing():
        await asyncio.sleep(0.01)
        transport.write(b"z")
    assert b"".join(words.read()) == b"too large"
    assert list(words.read()) == []
    words.close()


async def test_says_nothing_while_there_is_nothing(
    upstream: Callable[..., Awaitable[int]],
) -> None:
    """A silent connection is not waited for."""

    async def mute(wire: Any) -> None:
        await wire.gone()

    transport, _ = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, "127.0.0.1", await upstream(mute)
    )
    words = LastWords(transport)
    assert list(words.read()) == []
    words.close()
    transport.close()
