"""What could not be recorded one by one, as exact counts in bounded memory.

While the disk takes nothing and the queue is full, an open policy still serves. Each such event is
added here, and once the disk is back the counts become events of state "gap": one per policy,
metric and identity, or one per policy and metric beyond the bound. Nothing is rounded or dropped.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Final

from usageflow.events import QUANTITY_DIGITS_MAX, Identity, UsageEvent

GAP_KEYS_MAX: Final = 4_096
"""Distinct keys kept apart: about 2 MiB. Further identities share one count per policy."""
_EXACT: Final = Context(prec=QUANTITY_DIGITS_MAX * 2, traps=[Inexact, InvalidOperation])
"""Room for more events than a process can ever have, each of the longest quantity."""


@dataclass(slots=True)
class _Gap:
    first: UsageEvent
    cause: str
    last_at: datetime
    events: int = 0
    unmeasured: int = 0
    quantity: Decimal = Decimal(0)


class Gaps:
    """Counts per (policy version, metric, event name, identity), oldest first."""

    def __init__(self) -> None:
        self._gaps: dict[tuple[str | None, ...], _Gap] = {}
        self._lock = threading.Lock()  # loops add, the writer's thread takes

    def __len__(self) -> int:
        return len(self._gaps)

    @property
    def events(self) -> int:
        """How many events are counted and not taken yet."""
        with self._lock:
            return sum(gap.events for gap in self._gaps.values())

    def add(self, event: UsageEvent, cause: str) -> None:
        """Count one event that will not be recorded by itself; a gap tells its first cause."""
        with self._lock:
            self._add(event, cause)

    def _add(self, event: UsageEvent, cause: str) -> None:
        key = (event.policy, event.policy_version, event.metric, event.identity.value)
        gap = self._gaps.get(key)
        if gap is None and len(self._gaps) >= GAP_KEYS_MAX:
            key = (*key[:3], None)
            gap = self._gaps.get(key)
        if gap is None:
            gap = self._gaps[key] = _Gap(event, cause, event.occurred_at)
        gap.events += 1
        gap.last_at = max(gap.last_at, event.occurred_at)
        if event.quantity is None:
            gap.unmeasured += 1
        else:
            gap.quantity = _EXACT.add(gap.quantity, event.quantity)

    def take(self, new_id: Callable[[], str]) -> list[UsageEvent]:
        """The gap events for everything counted so far; counting starts anew."""
        if not self._gaps:
            return []
        with self._lock:
            gaps, self._gaps = self._gaps, {}
        return [_event(key[3], gap, new_id()) for key, gap in gaps.items()]


def _event(identity: str | None, gap: _Gap, event_id: str) -> UsageEvent:
    first = gap.first
    unmeasured = f", {gap.unmeasured} of them without a quantity" if gap.unmeasured else ""
    return UsageEvent(
        id=event_id,
        policy=first.policy,
        policy_version=first.policy_version,
        metric=first.metric,
        identity=Identity(first.identity.field, identity),
        quantity=gap.quantity,
        occurred_at=first.occurred_at,
        state="gap",
        reason=(
            f"{gap.events} requests until {gap.last_at.isoformat()} were served but not recorded "
            f"one by one{unmeasured}: {gap.cause}"
        )[:500],
        event_name=first.event_name,
        request_method=first.request_method,
        request_route=first.request_route,
    )
