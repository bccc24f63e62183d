"""Several targets: turns, loads, those that are left out and come back, names that change."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing, suppress
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.targets import Target
from usageflow.proxy.upstream_connection import UpstreamConnection
from usageflow.proxy.upstreams import TargetFigures, Upstreams

Start = Callable[..., Awaitable[int]]
Open = Callable[..., Awaitable[Upstreams]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio


async def silent(wire: Any) -> None:
    """Take what comes."""
    await wire.gone()


async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read what comes, and close."""
    with suppress(ConnectionError):
        await reader.read()
    writer.close()


def down(port: int) -> str:
    """A target that refuses connections."""
    return f"http://127.0.0.9:{port}"


@pytest.fixture
def share(stack: AsyncExitStack) -> Callable[..., Upstreams]:
    """Upstreams over these items, closed at the end."""

    def start(*items: str, resolve: Any = None, **settings: Any) -> Upstreams:
        chosen = Settings(upstream=",".join(items), **settings)
        opened = Upstreams(chosen, resolve=resolve) if resolve else Upstreams(chosen)
        stack.push_async_callback(opened.aclose)
        return opened

    return start


@pytest.fixture
def up(upstream: Start) -> Callable[[], Awaitable[str]]:
    """Start one that takes connections; gives its item."""

    async def start() -> str:
        return f"http://127.0.0.1:{await upstream(silent)}"

    return start


Share = Callable[..., Upstreams]
Up = Callable[[], Awaitable[str]]


async def served(upstreams: Upstreams, count: int = 1) -> list[str]:
    """Who would answer so many requests, one after the other."""
    names = []
    for _ in range(count):
        connection = upstreams.take() or await upstreams.acquire()
        names.append(connection.target.name)
        upstreams.release(connection)
    return names


def named(upstreams: Upstreams, name: str) -> Target:
    """The target of this name."""
    return next(target for target in upstreams._by_target if target.name == name)


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def test_one_target(share: Share, up: Up, eventually: Eventually) -> None:
    """Connections are taken, given back and reused; it is used also while it is not well."""
    item = await up()
    upstreams = share(item, upstream_failures_max=1)
    assert upstreams.take() is None
    assert upstreams.empty
    connection = await upstreams.acquire()
    assert not upstreams.empty
    assert upstreams.figures() == [TargetFigures(item, True, 1, 0, 1, 0)]
    upstreams.release(connection)
    assert upstreams.figures() == [TargetFigures(item, True, 1, 1, 0, 0)]
    assert upstreams.take() is connection
    upstreams.failed(connection.target)
    assert not upstreams.figures()[0].healthy
    upstreams.release(connection)
    assert upstreams.take() is connection
    upstreams.succeeded(connection.target)
    assert upstreams.figures()[0].healthy
    upstreams.release(connection)
    upstreams.drop_idle(connection.target)
    assert not connection.open
    await eventually(lambda: upstreams.empty)


async def test_what_cannot_be(share: Share) -> None:
    """Wrong settings are refused at construction."""
    with pytest.raises(ConfigurationError):
        Upstreams(Settings(upstream="nonsense"))
    with pytest.raises(ConfigurationError, match="HEALTH_PATH"):
        Upstreams(Settings(upstream="http://a", health_path="nonsense"))


async def test_round_robin(share: Share, up: Up) -> None:
    """Each has its turn, whether a connection has to be opened for it or not."""
    items = [await up() for _ in range(3)]
    upstreams = share(*items)
    assert await served(upstreams, 9) == 3 * items


async def test_turns_of_many_at_once(share: Share, up: Up) -> None:
    """Requests at the same time are shared evenly too."""
    items = [await up() for _ in range(3)]
    upstreams = share(*items)
    connections = await asyncio.gather(*(upstreams.acquire() for _ in range(9)))
    assert Counter(one.target.name for one in connections) == dict.fromkeys(items, 3)


async def test_least_connections(share: Share, up: Up) -> None:
    """The one with fewest exchanges is next, and among equals they take turns."""
    items = [await up() for _ in range(3)]
    upstreams = share(*items, upstream_balance="least-connections")
    assert sorted(await served(upstreams, 3)) == sorted(items)
    long = [await upstreams.acquire() for _ in range(2)]
    (free,) = set(items) - {one.target.name for one in long}
    assert await served(upstreams, 4) == 4 * [free]
    upstreams.release(long[0])
    assert set(await served(upstreams, 4)) == {free, long[0].target.name}


async def test_a_full_target_is_passed_over(share: Share, up: Up) -> None:
    """Nobody waits in line at one while another has room; when none has, they wait."""
    items = [await up() for _ in range(2)]
    upstreams = share(*items, upstream_connections_max=1, upstream_pool_timeout_s=0.05)
    first = await upstreams.acquire()
    second = await upstreams.acquire()
    upstreams.release(first)
    assert await upstreams.acquire() is first
    assert {first.target.name, second.target.name} == set(items)
    with pytest.raises(UpstreamTimeout):
        await upstreams.acquire()
    upstreams.release(second)
    assert await upstreams.acquire() is second


async def test_one_of_several_is_down(
    share: Share, upstream: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """No request fails; after some failures it is not tried any more, and two lines say so."""
    port = await upstream(silent)
    good, bad = f"http://127.0.0.1:{port}", down(port)
    upstreams = share(bad, good, upstream_failures_max=2)
    assert await served(upstreams, 8) == 8 * [good]
    assert [one.healthy for one in upstreams.figures()] == [False, True]
    refused, left_out = caplog.messages
    assert refused.startswith(f"{bad}: no connection: ")
    assert left_out == f"{bad}: not well: failures in a row: 2"


async def test_all_are_down(
    share: Share, upstream: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Each request tries them all and fails; it is logged once, not for each."""
    port = await upstream(silent)
    items = [down(port), f"http://127.0.0.8:{port}"]
    upstreams = share(*items, upstream_failures_max=2)
    for _ in range(6):
        with pytest.raises(UpstreamUnreachable):
            await upstreams.acquire()
    assert sorted(message.split(": ")[0] for message in caplog.messages) == sorted(
        [*items, *items, "no upstream is well"]
    )
    assert upstreams.empty


async def test_none_is_well(share: Share, up: Up) -> None:
    """Then all are used: a success brings one back, and from then on it serves alone."""
    items = [await up() for _ in range(2)]
    upstreams = share(*items, upstream_failures_max=1)
    for item in items:
        upstreams.failed(named(upstreams, item))
    assert await served(upstreams, 4) == 2 * items
    upstreams.succeeded(named(upstreams, items[1]))
    assert await served(upstreams, 4) == 4 * [items[1]]


async def test_the_only_one_is_down(
    share: Share, upstream: Start, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """It shows; and without a request it is well again once it takes connections, not before."""
    caplog.set_level(logging.INFO)
    port = await upstream(silent)
    item = f"http://127.0.0.3:{port}"
    upstreams = share(item, upstream_failures_max=2, upstream_failed_s=10)
    for well in (True, False):
        with pytest.raises(UpstreamUnreachable):
            await upstreams.acquire()
        assert upstreams.figures()[0].healthy is well
    upstreams.sweep(now() + 9)
    assert not upstreams._tasks  # its time is not over
    upstreams.sweep(now() + 11)
    await eventually(lambda: not upstreams._tasks)
    assert not upstreams.figures()[0].healthy
    with closing(await asyncio.start_server(until_the_end, "127.0.0.3", port)):
        upstreams.sweep(now() + 22)
        await eventually(lambda: upstreams.figures()[0].healthy)
    refused, *others = caplog.messages
    assert refused.startswith(f"{item}: no connection: ")
    assert others == [
        f"{item}: not well: failures in a row: 2",
        "no upstream is well: requests are sent all the same",
        f"{item}: connected again",
        f"{item}: well again",
    ]


async def test_who_takes_connections_is_on_trial(
    share: Share, up: Up, eventually: Eventually
) -> None:
    """A target that takes connections and answers none is not well again for long: one failure."""
    item = await up()
    upstreams = share(item, upstream_failures_max=3, upstream_failed_s=10)
    target = named(upstreams, item)
    for _ in range(3):
        upstreams.failed(target)
    upstreams.sweep(now() + 11)
    upstreams.sweep(now() + 11)
    assert len(upstreams._tasks) == 1  # tried once at a time
    await eventually(lambda: upstreams.figures()[0].healthy)
    upstreams.failed(target)
    assert not upstreams.figures()[0].healthy


async def test_all_of_several_come_back(share: Share, up: Up, eventually: Eventually) -> None:
    """When none is well each that is due is tried, so that no request has to."""
    items = [await up() for _ in range(2)]
    upstreams = share(*items, upstream_failures_max=1)
    for item in items:
        upstreams.failed(named(upstreams, item))
    upstreams.sweep(now() + 11)
    await eventually(lambda: all(one.healthy for one in upstreams.figures()))
    assert await served(upstreams, 4) == 2 * items


async def test_failures_are_told_once(
    share: Share, up: Up, caplog: pytest.LogCaptureFixture
) -> None:
    """The first in a row, with its reason, and the end of the row; not each of many short rows."""
    caplog.set_level(logging.INFO)
    item = await up()
    upstreams = share(item)
    target = named(upstreams, item)
    for _ in range(2):
        upstreams.failed(target, "It broke.")
    for _ in range(2):
        upstreams.succeeded(target)
    assert caplog.messages == [f"{item}: fails: It broke.", f"{item}: answers again"]
    upstreams.failed(target, "It broke.")
    upstreams.succeeded(target)
    assert len(caplog.messages) == 2
    upstreams._by_target[target]._quiet_until = now()
    upstreams.failed(target, "It is silent.")
    assert caplog.messages[2:] == [f"{item}: fails: It is silent."]


async def test_it_comes_back(share: Share, up: Up, caplog: pytest.LogCaptureFixture) -> None:
    """After its time one request tries it; others do not until that one has succeeded."""
    caplog.set_level(logging.INFO)
    good, bad = await up(), await up()
    upstreams = share(good, bad, upstream_failures_max=1, upstream_failed_s=10)
    target = named(upstreams, bad)
    await served(upstreams, 4)
    upstreams.failed(target)
    upstreams.sweep(now() + 9)
    assert await served(upstreams, 4) == 4 * [good]
    for _ in range(2):  # the first try fails
        upstreams.sweep(now() + 11)
        assert await served(upstreams, 4) == [bad, good, good, good]
        upstreams.failed(target)
    upstreams.sweep(now() + 11)
    assert await served(upstreams) == [bad]
    upstreams.succeeded(target)
    assert Counter(await served(upstreams, 6)) == {good: 3, bad: 3}
    assert caplog.messages == [f"{bad}: not well: failures in a row: 1", f"{bad}: well again"]


async def test_one_request_at_a_time_tries_it(share: Share, up: Up) -> None:
    """While that one has no answer yet, no other is sent along."""
    good, bad = await up(), await up()
    upstreams = share(good, bad, upstream_failures_max=1, upstream_failed_s=10)
    target = named(upstreams, bad)
    upstreams.failed(target)
    upstreams._by_target[target].standing._out_until = now()
    upstreams.sweep(now())
    assert await served(upstreams) == [bad]
    upstreams.sweep(now())
    assert await served(upstreams, 3) == 3 * [good]


async def test_it_succeeds_before_it_is_tried(share: Share, up: Up) -> None:
    """A long exchange that ends well brings it back for good: nothing is left to be tried."""
    good, bad = await up(), await up()
    upstreams = share(good, bad, upstream_failures_max=1, upstream_failed_s=10)
    target = named(upstreams, bad)
    upstreams.failed(target)
    upstreams.sweep(now() + 11)
    upstreams.succeeded(target)
    assert Counter(await served(upstreams, 4)) == {good: 2, bad: 2}
    assert all(one.healthy for one in upstreams.figures())


async def test_it_is_tried_while_down(share: Share, upstream: Start) -> None:
    """The request that tries one which is still down is served by another."""
    port = await upstream(silent)
    good, bad = f"http://127.0.0.1:{port}", down(port)
    upstreams = share(good, bad, upstream_failures_max=1, upstream_failed_s=10)
    assert await served(upstreams, 2) == 2 * [good]
    upstreams.sweep(now() + 11)
    assert upstreams._due
    assert await served(upstreams, 2) == 2 * [good]
    upstreams.sweep(now() + 9)
    assert not upstreams._due


async def test_a_request_is_not_sent_to_the_same_again(share: Share, up: Up) -> None:
    """Targets that were tried are avoided while there is another, even one that is not well."""
    items = [await up() for _ in range(2)]
    upstreams = share(*items, upstream_failures_max=1)
    first, second = (named(upstreams, item) for item in items)
    for tried, expected in [((first,), second), ((second,), first)]:
        for _ in range(2):
            assert (await upstreams.acquire(tried)).target is expected
    assert (await upstreams.acquire((first, second))).open
    upstreams.failed(second)
    assert (await upstreams.acquire((first,))).target is second
    assert (await upstreams.acquire((second,))).target is first


async def test_health_is_checked(
    share: Share, upstream: Start, up: Up, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """A target that answers badly is left out until it answers well again, and the log tells."""
    caplog.set_level(logging.INFO)
    status = b"200"

    async def answer(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 %b X\r\n\r\n" % status)

    items = [f"http://127.0.0.1:{await upstream(answer)}" for _ in range(2)]

    async def moody(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 X\r\n\r\n")

    steady = f"http://127.0.0.1:{await upstream(moody)}"
    upstreams = share(
        *items, steady, health_path="/up", health_interval_s=0.01, health_falls=2, health_rises=2
    )
    upstreams.start()
    status = b"503"
    await eventually(lambda: [one.healthy for one in upstreams.figures()] == [False, False, True])
    assert await served(upstreams, 3) == 3 * [steady]
    status = b"200"
    await eventually(lambda: all(one.healthy for one in upstreams.figures()))
    assert sorted(await served(upstreams, 3)) == sorted([*items, steady])
    assert sorted(caplog.messages) == sorted(
        [f"{item}: not well: answer 'HTTP/1.1 503'" for item in items]
        + [f"{item}: well again" for item in items]
    )


async def test_a_name_that_changes(
    share: Share, upstream: Start, eventually: Eventually, stack: AsyncExitStack
) -> None:
    """New connections go to the new address; those to the old one end when they are idle."""
    addresses: Sequence[str] = ["127.0.0.1"]

    async def resolve(name: str) -> Sequence[str]:
        assert name == "api.test"
        return addresses

    port = await upstream(silent)
    stack.callback((await asyncio.start_server(until_the_end, "127.0.0.2", port)).close)
    upstreams = share(f"http://api.test:{port}", resolve=resolve, dns_refresh_s=0.01)
    upstreams.start()
    idle, busy = await upstreams.acquire(), await upstreams.acquire()
    upstreams.release(idle)
    addresses = ["127.0.0.2"]
    await eventually(lambda: not idle.open)
    assert busy.open
    upstreams.release(busy)
    assert not busy.open
    fresh = await upstreams.acquire()
    assert fresh._transport.get_extra_info("peername") == ("127.0.0.2", port)
    upstreams.release(fresh)


async def test_closing(share: Share, up: Up) -> None:
    """Closing ends the checks and every connection, idle or not."""
    upstreams = share(await up(), await up(), health_path="/", upstream_keepalive_s=60)
    upstreams.start()
    connections: list[UpstreamConnection] = [await upstreams.acquire() for _ in range(4)]
    upstreams.release(connections[0])
    upstreams.sweep(now())
    await upstreams.aclose()
    assert not any(connection.open for connection in connections)
    assert upstreams.empty
    await asyncio.sleep(0)
    assert not upstreams._tasks
