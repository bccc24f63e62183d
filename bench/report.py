"""The lines a benchmark prints: what was measured, beside what, and the bar it is held to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One measurement. `met` is None where there is no bar."""

    what: str
    value: str
    bar: str = ""
    met: bool | None = None


def show(title: str, lines: list[Line]) -> None:
    """Print one block."""
    print(f"\n{title}")
    width = max(len(line.what) for line in lines)
    for line in lines:
        verdict = "" if line.met is None else ("  met" if line.met else "  MISSED")
        bar = f"  (bar: {line.bar})" if line.bar else ""
        print(f"  {line.what.ljust(width)}  {line.value.rjust(14)}{bar}{verdict}")
