"""The page about settlement: its tables and numbers are those of the code.

Its worked example is executed with the command's tests.
"""

import re
from datetime import timedelta
from pathlib import Path
from typing import get_args

from usageflow.config import Settings
from usageflow.stripe.error_reports import CUSTOMER_NOT_FOUND, WINDOW_SLACK
from usageflow.stripe.precision import WHOLE_MAX
from usageflow.stripe.reads import KEPT_SHARE
from usageflow.stripe.reconciliation import PAGE_HOURS, PATIENCE
from usageflow.stripe.settlement import (
    CANCEL,
    DOUBTS_MAX,
    LAG,
    LATE,
    PAST,
    REPEAT,
    Classification,
)

TEXT = (Path(__file__).parents[2] / "docs" / "settlement.md").read_text(encoding="utf-8")
WORDS = " ".join(TEXT.split())


def first_cells(header: str) -> list[str]:
    """The first cell of each row of a table."""
    _, found, rest = TEXT.partition(f"| {header} |\n")
    assert found, header
    rows = rest.split("\n\n")[0].splitlines()[1:]
    return [row.strip("|").split("|")[0].strip() for row in rows]


def test_every_class_and_proposal_is_explained() -> None:
    """No more, and no less."""
    classes = first_cells("class | what is seen | what happens")
    assert classes == [f"`{name}`" for name in ("unsettled", "late", "rejected", "foreign")]
    assert {name.strip("`") for name in classes} == set(get_args(Classification))
    assert first_cells("proposal | when | what it does") == ["`unit`", "`cancel`", "`reissue`"]


def test_numbers_are_those_of_the_code() -> None:
    """Each as the page words it."""
    assert (timedelta(hours=2), timedelta(minutes=30)) == (LAG, REPEAT)
    assert (timedelta(hours=24), timedelta(hours=24), timedelta(days=34)) == (LATE, CANCEL, PAST)
    assert (PAGE_HOURS, DOUBTS_MAX, KEPT_SHARE, WHOLE_MAX) == (100, 4, 10, 2**53)
    assert timedelta(hours=22) < PATIENCE < timedelta(days=1)
    assert timedelta(minutes=1) == WINDOW_SLACK
    assert Settings().stripe_resend_s_max == 20 * 3_600
    for words in (
        "over for 2 hours",
        "at least 2 hours ago",
        "at least 30 minutes later",
        "accepted less than 24 hours ago",
        "sent less than 24 hours ago",
        "older than 34 days",
        "up to 100 hours",
        "Up to 4 such units",
        "A tenth is kept",
        "above 2**53",
        "only once a day",
        "a minute around it",
        "for 20 hours",
        f"`{CUSTOMER_NOT_FOUND}`",
    ):
        assert words in WORDS, words


def test_the_reads_of_a_default_day_are_what_stripe_allots() -> None:
    """10,000 in a month at least."""
    assert Settings().stripe_reads_per_day * 30 < 10_000


def test_settings_are_named() -> None:
    """Those that change what the page tells."""
    named = set(re.findall(r"USAGEFLOW_STRIPE_[A-Z_]+", TEXT))
    assert named == {
        f"USAGEFLOW_STRIPE_{name}" for name in ("RECONCILE_S", "READS_PER_DAY", "POLL_S")
    }
