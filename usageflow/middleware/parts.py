"""When the usage of a long connection is recorded in parts, so that a crash loses little of it.

Decides nothing about usage: what a part is, `policies.evaluation` says.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple


class Pace(NamedTuple):
    """How often: by time, and for WebSockets by messages if that is sooner."""

    seconds: float
    messages: int


class PartTimer:
    """Records a part some time after something passed; while nothing does, nothing is recorded.

    It fires once more after the end; `record` then has nothing to do.
    """

    def __init__(self, interval_s: float, record: Callable[[], object]) -> None:
        self._interval_s = interval_s
        self._record = record
        self._waiting = False

    def moved(self) -> None:
        """Something passed."""
        if not self._waiting:
            self._waiting = True
            asyncio.get_running_loop().call_later(self._interval_s, self._fire)

    def _fire(self) -> None:
        self._waiting = False
        self._record()
