"""Time filters of lists; how lists are paged is shown by the nouns that have lists."""

from typing import Any

import pytest

from usageflow.stripe.emulator.paging import within


@pytest.mark.parametrize(
    ("moment", "asked", "through"),
    [
        (5, None, True),
        (None, None, True),
        (None, {"gt": 1}, False),
        (5, 5, True),
        (5, 6, False),
        (5, {"gt": 5}, False),
        (5, {"gte": 5, "lt": 6}, True),
        (5, {"lt": 5}, False),
        (5, {"lte": 5}, True),
        (5, {"gte": 1, "lte": 4}, False),
    ],
)
def test_a_time_filter(moment: int | None, asked: Any, through: bool) -> None:  # noqa: FBT001 - a case
    """Bounds are all kept; a bare number is that second; what has no moment fits no filter."""
    assert within(moment, asked) is through
