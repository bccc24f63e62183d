"""What a person at a terminal reads: aligned columns and single lines. Pure; machines get JSON.

Names, reasons and messages come from outside. They pass through here, so that none of them can
break a row or give orders to a terminal.
"""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows under their header, each column as wide as its widest cell."""
    cells = [tuple(map(printed, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = (header, ["-" * width for width in widths], *cells)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def printed(text: str) -> str:
    """A text on one line, with a space for each character that cannot be seen."""
    return "".join(one if one.isprintable() else " " for one in text)


def printed_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printed, text.split("\n")))
