"""The ledger's door: batches of usage events come in here, and nowhere else.

An event, its window and its unit commit in the caller's transaction. Reading is `usage`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from usageflow.config import UnknownMetric
from usageflow.db.session import Tx


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one line. `id` is None if the line has none that can be read."""

    id: str | None
    status: Literal["accepted", "duplicate", "conflict", "invalid"]
    reason: str | None = None


def append(
    tx: Tx, organization_id: str, lines: Sequence[bytes], *, unknown_metric: UnknownMetric
) -> list[ItemResult]:
    """Take a batch of encoded usage events; one result for each line, in order.

    Never raises for a line: what is no event (invalid) or has the id of another event (conflict)
    is kept aside with its reason, and the others count.
    """
    raise NotImplementedError
