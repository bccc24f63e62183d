"""Many small requests, one transaction: what arrives while one is committed goes into the next.

There is no timer: alone, a request is committed at once; under load, the time of a commit is shared
by all who came during the one before. What is committed, and how, is the caller's.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from starlette.concurrency import run_in_threadpool

from usageflow.errors import DatabaseError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

GROUP_MAX: Final = 256
"""Items of one transaction: few enough that the last one does not wait long for the first."""
WAITING_MAX: Final = 8_192
"""Items that wait; beyond it a client is told to come again, rather than to wait for seconds."""


class GroupCommit(Generic[Item, Answer]):
    """Gives items to `commit`, in a worker thread, as many at a time as have come.

    `commit` answers every item, in order. If it raises anything but DatabaseError, each item is
    tried alone, so that the one at fault fails alone. Belongs to one event loop at a time.
    """

    def __init__(self, commit: Callable[[Sequence[Item]], Sequence[Answer]]) -> None:
        self._commit = commit
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._working: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether no item should be submitted now."""
        return len(self._waiting) >= WAITING_MAX

    async def submit(self, item: Item) -> Answer:
        """The answer, once it is committed. Raises what `commit` raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if self._working is None or self._working.done():
            self._working = loop.create_task(self._work())
        return await future

    async def _work(self) -> None:
        """Commit until nobody waits."""
        while self._waiting:
            group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
            for (_, future), answer in zip(group, await self._answers(group), strict=True):
                if future.done():  # its client has gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _answers(
        self, group: Sequence[tuple[Item, asyncio.Future[Answer]]]
    ) -> Sequence[Answer | Exception]:
        items = [item for item, _ in group]
        try:
            return await run_in_threadpool(self._commit, items)
        except DatabaseError as error:
            return [error] * len(group)
        except Exception as error:  # noqa: BLE001 - each of them is raised where its item waits
            if len(group) == 1:
                return [error]
        return [(await self._answers([one]))[0] for one in group]
