"""Requests that come at the same time share a transaction, and none fails another."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from usageflow.api.group_commit import GROUP_MAX, WAITING_MAX, GroupCommit
from usageflow.errors import DatabaseError


class Committer:
    """Doubles numbers, and remembers in which groups; the first group waits for `go`."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.began = threading.Event()
        self.go = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        """Fails for 13, and says that the database is gone for 99."""
        self.groups.append(list(items))
        self.began.set()
        if 13 in items:
            raise RuntimeError("13")
        if 99 in items:
            raise DatabaseError("gone")
        self.go.wait(10)
        return [item * 2 for item in items]


def test_what_comes_during_a_commit_goes_into_the_next() -> None:
    """Alone, a request is committed at once; the others share one commit."""
    committer = Committer()

    async def run() -> list[int]:
        group = GroupCommit(committer)
        first = asyncio.ensure_future(group.submit(1))
        await asyncio.to_thread(committer.began.wait, 10)
        others = [asyncio.ensure_future(group.submit(n)) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        committer.go.set()
        return [await one for one in (first, *others)]

    assert asyncio.run(run()) == [2, 4, 6, 8]
    assert committer.groups == [[1], [2, 3, 4]]


def test_groups_are_bounded() -> None:
    """However many wait."""
    committer = Committer()
    committer.go.set()

    async def run() -> list[int]:
        group = GroupCommit(committer)
        return await asyncio.gather(*(group.submit(n) for n in range(100, 500)))

    assert asyncio.run(run()) == [n * 2 for n in range(100, 500)]
    assert max(map(len, committer.groups)) <= GROUP_MAX


def test_one_that_fails_does_not_fail_the_others() -> None:
    """Each is tried alone then; a database that is gone is gone for all of them."""
    committer = Committer()
    committer.go.set()

    async def run(*items: int) -> list[int | BaseException]:
        group = GroupCommit(committer)
        return await asyncio.gather(*(group.submit(n) for n in items), return_exceptions=True)

    one, bad, other = asyncio.run(run(1, 13, 2))
    assert (one, other) == (2, 4)
    assert isinstance(bad, RuntimeError)
    assert committer.groups == [[1, 13, 2], [1], [13], [2]]
    assert {type(error) for error in asyncio.run(run(1, 99))} == {DatabaseError}
    assert committer.groups[4:] == [[1, 99]]


def test_a_client_that_has_gone_is_not_waited_for() -> None:
    """Its event is committed all the same, and the others get their answers."""
    committer = Committer()

    async def run() -> int:
        group = GroupCommit(committer)
        gone, stays = (asyncio.ensure_future(group.submit(n)) for n in (1, 2))
        await asyncio.to_thread(committer.began.wait, 10)
        gone.cancel()
        committer.go.set()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert asyncio.run(run()) == 4
    assert committer.groups == [[1, 2]]


def test_a_full_queue_says_so() -> None:
    """Rather than let clients wait for longer and longer."""
    committer = Committer()

    async def run() -> tuple[bool, bool, bool]:
        group = GroupCommit(committer)
        before = group.full
        tasks = [asyncio.ensure_future(group.submit(n)) for n in range(100, 100 + WAITING_MAX)]
        await asyncio.sleep(0)
        full = group.full
        committer.go.set()
        await asyncio.gather(*tasks)
        return before, full, group.full

    assert asyncio.run(run()) == (False, True, False)
