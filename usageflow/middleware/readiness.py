"""The time before the first policies: requests wait, but not for ever, and none is forgotten.

Until a policy set has been loaded once, nobody can say what a request is worth. What passes
meanwhile is counted in one gap event.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from usageflow.events import Identity, UsageEvent
from usageflow.middleware.feed import Feed
from usageflow.middleware.settlement import new_id
from usageflow.recorder import Recorder
from usageflow.recorder.process import after_fork

log = logging.getLogger("usageflow.middleware")

FIRST_POLICIES_POLL_S: Final = 0.05
"""Pause between two looks for the first policies: well below what a person notices."""


class Readiness:
    """Whether there have ever been policies. `reached` stays true once it is."""

    def __init__(self, feed: Feed, recorder: Recorder, wait_s: float) -> None:
        self.reached = False
        self._feed = feed
        self._recorder = recorder
        self._wait_s = wait_s
        self._waited = False
        self._missed = 0
        self._missed_since: datetime | None = None
        after_fork(self._begin_anew)

    async def wait(self) -> None:
        """Wait for the first policies ever, once; later requests pass unmetered and are counted."""
        self._feed.start()
        deadline_s = time.monotonic() + self._wait_s
        while not (self._feed.loaded or self._waited):
            if time.monotonic() >= deadline_s:
                self._waited = True
                log.error("no policies after %g s; requests pass unmetered", self._wait_s)
            await asyncio.sleep(FIRST_POLICIES_POLL_S)
        self.look()

    def look(self) -> bool:
        """Whether there are policies by now; does not wait."""
        if self._feed.loaded and not self.reached:
            self.reached = True
            self.tell_missed()
        return self.reached

    async def wait_for_keys(self) -> None:
        """At start-up only: wait until tokens can be verified, at most as long."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._feed.wait_for_keys, self._wait_s)

    def miss(self) -> None:
        """A request passes that no policy could be asked about."""
        self._missed += 1
        self._missed_since = self._missed_since or datetime.now(UTC)

    def tell_missed(self) -> None:
        """Requests before the first policies belong to nobody; a row says that they were there."""
        missed, since = self._missed, self._missed_since
        self._missed, self._missed_since = 0, None
        if since is not None:
            self._recorder.record([_missed_event(missed, since)])

    def _begin_anew(self) -> None:
        """In a forked child, which has no threads: its first request starts them, if one comes."""
        self.reached = False


def _missed_event(requests: int, since: datetime) -> UsageEvent:
    return UsageEvent(
        id=new_id(),
        policy="(none)",
        policy_version="(none)",
        metric="(unknown)",
        identity=Identity("(unknown)", None),
        quantity=Decimal(requests),
        occurred_at=since,
        state="gap",
        reason=f"{requests} requests were served before any policy could be loaded",
    )
