"""Aligned columns for people."""

from usageflow.cli.tables import table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """Header, a rule and the rows line up; nothing trails at the end of a line."""
    assert table(("who", "n"), [("a", "1"), ("longer", "22")]).splitlines() == [
        "who     n",
        "------  --",
        "a       1",
        "longer  22",
    ]


def test_no_rows_still_show_the_header() -> None:
    """An empty table says what it would hold."""
    assert table(("who", "n"), []).splitlines() == ["who  n", "---  -"]
