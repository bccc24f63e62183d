"""What the page about Stripe says of answers, pauses and identifiers."""

import re
import sqlite3
import textwrap
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from usageflow.db.session import Database
from usageflow.db.tables import UNIT_STATES
from usageflow.ledger.folding import UNIT_DIGITS_MAX, Lane, identifier
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
from usageflow.stripe.answers import verdict
from usageflow.stripe.meter_events import VALUE_DIGITS_MAX

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
    """Identifier and digits."""
    name = identifier(
        "i", "a", Lane(1, "c", "e", folds=True), datetime(2026, 11, 21, tzinfo=UTC), 1
    )
    assert (name[:4], len(name)) == ("uf1_", 56)
    assert "`uf1_` and a hash" in page(root)
    assert "56 characters" in page(root)
    assert UNIT_DIGITS_MAX == VALUE_DIGITS_MAX == 15


def test_what_is_stuck_without_a_meter_can_be_found(root: Path, tmp_path: Path) -> None:
    """The page names Stripe's words, and its query runs on the schema as it is."""
    text = (root / "docs" / "stripe.md").read_text(encoding="utf-8")
    assert "`No active meter found`" in text
    (query,) = re.findall(r"^ *```sql\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    assert re.findall(r"state = '(\w+)'", query) == ["quarantined"]
    assert "quarantined" in UNIT_STATES
    file = tmp_path / "usageflow.db"
    with closing(Database.open(f"sqlite:///{file}")) as db:
        db.migrate()
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute(textwrap.dedent(query))
        assert [column[0] for column in found.description] == [
            *("event_name", "identifier", "stripe_customer_id", "quantity"),
            *("occurred_at", "reason"),
        ]
