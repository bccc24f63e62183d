"""`did you mean`: the nearest known word for one that is not known. Knows no vocabulary itself."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "X"?` with the nearest known word, or an empty text if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""
