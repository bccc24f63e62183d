"""A hold: what the responses of one event loop wait for, until their common commit is on disk.

One hold serves every response whose usage goes into the same commit, so waiting costs a request
neither a future nor a timer of its own.
"""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("usageflow.recorder")


class Hold(asyncio.Future[bool]):
    """True: durable. False: the disk failed or stalled, and the responses go on without.

    Many responses await one hold, so one that is cancelled must not cancel the others' wait: its
    own cancellation takes effect when the hold ends, which its timeout bounds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        on_late: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_late` is called when the timeout ends it."""
        super().__init__(loop=loop)
        self._on_late = on_late
        self._timer = loop.call_later(timeout_s, self._give_up)
        self._waiting: list[Callable[[], object]] = []

    def then(self, go_on: Callable[[], object]) -> None:
        """Call `go_on` when it is over, at once if it is. It must not raise."""
        if self.done():
            go_on()
        else:
            self._waiting.append(go_on)

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - the signature of Future
        """Refused; see the class."""
        return False

    def _give_up(self) -> None:
        self._on_late()
        self.release(False)

    def release(self, durable: bool) -> None:  # noqa: FBT001 - the future's own result
        """Let the responses go, once. Runs on the hold's loop."""
        if not self.done():
            self._timer.cancel()
            self.set_result(durable)
            waiting, self._waiting = self._waiting, []
            for go_on in waiting:
                try:
                    go_on()
                except Exception:  # the others of this commit have theirs to send
                    log.exception("an answer could not be sent on")
