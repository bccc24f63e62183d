"""Counts of what could not be recorded one by one: exact and bounded."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from usageflow.events import Identity, UsageEvent, decode, encode
from usageflow.recorder import gaps as gaps_module
from usageflow.recorder.gaps import Gaps

EventFactory = Callable[..., UsageEvent]


def test_each_identity_keeps_its_own_exact_sum(event: EventFactory) -> None:
    """Two customers, exact decimals, and the reason tells how many and until when."""
    gaps = Gaps()
    first = event(quantity=Decimal("0.1"))
    for _ in range(10):
        gaps.add(first, "disk full")
    gaps.add(event(identity=Identity("account_id", "acct_2"), quantity=Decimal(7)), "disk full")
    one, two = gaps.take(lambda: "gap-id")
    assert (one.identity.value, one.quantity, one.state) == ("acct_1", Decimal("1.0"), "gap")
    assert (two.identity.value, two.quantity) == ("acct_2", Decimal(7))
    assert one.reason is not None
    assert one.reason.startswith("10 requests until 2026-11-21T12:30:00+00:00 were served")
    assert one.reason.endswith("disk full")
    assert decode(encode(one)) == one


def test_taking_empties_and_an_empty_count_takes_nothing(event: EventFactory) -> None:
    """What was taken is not told twice."""
    gaps = Gaps()
    assert gaps.take(str) == []
    gaps.add(event(), "disk full")
    assert len(gaps) == 1
    assert len(gaps.take(str)) == 1
    assert gaps.take(str) == []


def test_unmeasured_events_are_told_apart(event: EventFactory) -> None:
    """An event without a quantity is counted as such, never as 0 or 1."""
    gaps = Gaps()
    gaps.add(event(), "disk full")
    gaps.add(event(quantity=None, state="inbox"), "disk full")
    (gap,) = gaps.take(str)
    assert gap.quantity == 1
    assert gap.reason is not None
    assert "1 of them without a quantity" in gap.reason


def test_beyond_the_bound_identities_share_one_count(
    event: EventFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded, the sum stays exact."""
    monkeypatch.setattr(gaps_module, "GAP_KEYS_MAX", 2)
    gaps = Gaps()
    for n in range(6):
        gaps.add(
            event(identity=Identity("account_id", f"acct_{n}"), quantity=Decimal(n)), "disk full"
        )
    taken = gaps.take(str)
    assert [(gap.identity.value, gap.quantity) for gap in taken] == [
        ("acct_0", Decimal(0)),
        ("acct_1", Decimal(1)),
        (None, Decimal(2 + 3 + 4 + 5)),
    ]


def test_the_interval_ends_with_the_latest_event(event: EventFactory) -> None:
    """Events may finish out of order."""
    gaps = Gaps()
    late = event()
    gaps.add(event(occurred_at=late.occurred_at + timedelta(minutes=2)), "disk full")
    gaps.add(late, "disk full")
    (gap,) = gaps.take(str)
    assert gap.reason is not None
    assert "until 2026-11-21T12:32:00" in gap.reason


def test_sums_are_exact_beyond_the_default_precision(event: EventFactory) -> None:
    """A 30-digit integer and 1, with 12 digits after the point."""
    gaps = Gaps()
    gaps.add(event(quantity=Decimal(123456789012345678901234567890)), "disk full")
    gaps.add(event(quantity=Decimal("0.000000000001")), "disk full")
    (gap,) = gaps.take(str)
    assert gap.quantity == Decimal("123456789012345678901234567890.000000000001")
