"""What the page about Stripe says of answers, pauses and identifiers."""

import re
from datetime import UTC, datetime
from pathlib import Path

from usageflow.ledger.identifiers import identifier
from usageflow.ledger.splitting import PARTS_MAX, UNIT_DIGITS_MAX
from usageflow.ledger.verdicts import (
    BUSY_PAUSE_S,
    PARKED_PAUSE_S,
    UNDECIDED_PAUSE_S,
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Quarantined,
    Verdict,
)
from usageflow.stripe.access import (
    CONNECT_CALLS_PER_S,
    OWN_LIVE_CALLS_PER_S,
    SANDBOX_CALLS_PER_S,
)
from usageflow.stripe.answers import verdict
from usageflow.stripe.meter_event_sink import AHEAD_S_MAX, IDENTIFIER_WINDOW_S

MEANINGS: dict[str, list[Verdict]] = {
    "200 | accepted": [Accepted()],
    '400 "already exists with identifier" | accepted': [
        verdict(400, None, "An event already exists with identifier uf1_x.", {})
    ],
    "other 400, 402, 404 | quarantined": [
        verdict(status, "no_meter", "No.", {}) for status in (400, 402, 404)
    ],
    "401, 403 | sealed again": [verdict(status, None, "No.", {}) for status in (401, 403)],
    "409, 429 | sealed again": [verdict(status, None, "Wait.", {}) for status in (409, 429)],
    "5xx, a reset, no answer in time | ambiguous": [
        verdict(status, None, "Lost.", {}) for status in (500, 502, 503, 504, None)
    ],
}
KINDS = [Accepted, Accepted, Quarantined, AccountPaused, Busy, Ambiguous]


def page(root: Path) -> str:
    """The page, on one line for each paragraph."""
    text = (root / "docs" / "stripe.md").read_text(encoding="utf-8")
    return re.sub(r"(?<=[^\n|])\n\s*(?=[^\s|#`-])", " ", text)


def test_answers_mean_what_the_table_says(root: Path) -> None:
    """Every row, for each status it names."""
    rows = re.findall(r"^\| (.+? \| .+?) \| .*\|$", page(root), re.MULTILINE)
    start = rows.index("Stripe's answer | the unit")
    assert rows[start + 1 : start + 7] == list(MEANINGS)
    for kind, verdicts in zip(KINDS, MEANINGS.values(), strict=True):
        assert {type(one) for one in verdicts} == {kind}


def test_pauses_are_as_told(root: Path) -> None:
    """Numbers of the page and of the code."""
    text = page(root)
    assert "waits 0.5 s, doubling to 60 s" in text
    assert (BUSY_PAUSE_S[:3], BUSY_PAUSE_S[-1]) == ((0.5, 1, 2), 60)
    assert "again after 1 s, doubling to 60 s" in text
    assert (UNDECIDED_PAUSE_S[:3], UNDECIDED_PAUSE_S[-1]) == ((1, 2, 4), 60)
    assert "again after 30 s, 2 min, 10 min, then every hour" in text
    assert PARKED_PAUSE_S == (30, 120, 600, 3600)


def test_units_are_as_told(root: Path) -> None:
    """Identifier, digits and parts."""
    hour = datetime(2026, 11, 21, tzinfo=UTC)
    name = identifier("i", "a", customer_id="c", event_name="e", hour=hour, sequence=1)
    assert (name[:4], len(name)) == ("uf1_", 56)
    assert "`uf1_` and a hash" in page(root)
    assert "56 characters" in page(root)
    assert UNIT_DIGITS_MAX == 15
    assert len(str(PARTS_MAX * 10**UNIT_DIGITS_MAX)) - 1 == UNIT_DIGITS_MAX + 2


def test_speeds_are_as_told(root: Path) -> None:
    """What is sent in a second, by account."""
    rows = re.findall(
        r"^\| (.+?) \| (\d+) \| .*calls in all \||^\| (.+?) \| (\d+) \| 1", page(root), re.MULTILINE
    )
    told = {one or other: float(rate or rest) for one, rate, other, rest in rows}
    assert told == {
        "own, live": OWN_LIVE_CALLS_PER_S,
        "connected, live": CONNECT_CALLS_PER_S,
        "sandbox, test mode": SANDBOX_CALLS_PER_S,
    }
    assert (IDENTIFIER_WINDOW_S, AHEAD_S_MAX) == (24 * 3600, 4 * 60)


def test_stripes_words_for_a_missing_meter_lead_to_a_retry(root: Path) -> None:
    """The code that the page names is the one that such a unit is quarantined with."""
    text = (root / "docs" / "stripe.md").read_text(encoding="utf-8")
    refused = verdict(400, None, 'No active meter found for event name "x"', {})
    assert isinstance(refused, Quarantined)
    assert f"usageflow inbox retry --code {refused.code}" in text
    assert "`No active meter found`" in text
