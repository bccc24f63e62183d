"""The table at the end of the demo."""

from decimal import Decimal

from usageflow.demo.comparison import Row, compare, table

ACME = ("acme", "AI_TOKEN")
HOOLI = ("hooli", "API_CALL")


def row(sent: str, ledger: str, stripe: str) -> Row:
    """A row with these three quantities."""
    return Row("acme", "AI_TOKEN", 1, Decimal(sent), Decimal(ledger), Decimal(stripe))


def test_all_three_must_agree() -> None:
    """One that differs is enough, by however little; how a number is written is not."""
    assert row("7", "7", "7").equal
    assert row("7", "7.0", "7.00").equal
    assert not row("7", "6", "7").equal
    assert not row("7", "7", "6").equal
    assert not row("7.000000000001", "7", "7").equal


def test_what_only_one_knows_is_shown_as_well() -> None:
    """Usage that nobody sent, or that never arrived, is a row with zeros, not a missing row."""
    rows = compare({ACME: 2}, {ACME: 14}, {HOOLI: Decimal(1)}, {HOOLI: Decimal(1)})
    assert rows == [
        Row("acme", "AI_TOKEN", 2, Decimal(14), Decimal(0), Decimal(0)),
        Row("hooli", "API_CALL", 0, Decimal(0), Decimal(1), Decimal(1)),
    ]
    assert not any(row.equal for row in rows)


def test_the_table() -> None:
    """Names to the left, numbers to the right, in plain notation, and a word for each row."""
    shown = table([row("7", "7", "7"), row("1E+3", "1000", "0.50")])
    assert shown.splitlines() == [
        "customer  metric    requests  quantity sent  in the ledger  at Stripe",
        "acme      AI_TOKEN         1              7              7          7    equal",
        "acme      AI_TOKEN         1           1000           1000       0.50  DIFFERS",
    ]
