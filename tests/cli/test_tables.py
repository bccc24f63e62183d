"""Aligned columns for people."""

from usageflow.cli.tables import printed, printed_lines, table


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


def test_what_cannot_be_seen_gives_no_orders() -> None:
    """Escapes, line ends, marks that turn text around, and what is no text: a space for each."""
    text = "a\x1b[2Jb\nc\x9bd\u202ee\udcfff ü漢"
    assert printed(text) == "a [2Jb c d e f ü漢"
    assert printed_lines("a\x1bb\nc\rd") == "a b\nc d"
    assert table(("who",), [("a\nb\x1b",)]).splitlines() == ["who", "----", "a b"]
