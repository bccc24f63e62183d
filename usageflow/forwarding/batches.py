"""Many units in one call, and one verdict for them all: how each unit comes to its own. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from usageflow.ledger.verdicts import Accepted, Quarantined, Verdict

T = TypeVar("T")


def each_verdict(items: Sequence[T], send: Callable[[Sequence[T]], Verdict]) -> list[Verdict]:
    """Send `items` in one call; the verdict on each, in order.

    A refusal, or "that I have already", is true of one item and would be wrong of the others, so
    such a batch is sent again in halves. Every other verdict is that of all.
    """
    if not items:
        return []
    verdict = send(items)
    of_one = isinstance(verdict, Quarantined) or verdict == Accepted(duplicate=True)
    if len(items) == 1 or not of_one:
        return [verdict] * len(items)
    middle = len(items) // 2
    return [*each_verdict(items[:middle], send), *each_verdict(items[middle:], send)]
