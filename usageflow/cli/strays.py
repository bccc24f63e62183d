"""Variables that were meant to be settings and are none: a typo in the environment shows nowhere.

Policies may take their secrets from variables of any name, ours included, so only one that is
nearly the name of a setting is told, and nothing is refused.
"""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Final

from usageflow.config import Settings, variable

OTHERS: Final = ("USAGEFLOW_CONFIG",)
"""Known variables that are no settings."""
LIKENESS_MIN: Final = 0.75
"""By difflib: WORKRES is 0.86 like WORKERS; HASH_KEY, a likely secret, 0.67 like HOP_KEY."""

_PREFIX: Final = variable("")


def strays(names: Iterable[str]) -> list[str]:
    """One sentence for each of these variables that is nearly a setting's, with that."""
    known = [*(variable(item.name) for item in fields(Settings)), *OTHERS]
    words = [name.removeprefix(_PREFIX) for name in known]
    found = []
    for name in sorted(names):
        if name.startswith(_PREFIX) and name not in known:
            word = name.removeprefix(_PREFIX).upper()
            near = difflib.get_close_matches(word, words, n=1, cutoff=LIKENESS_MIN)
            found += [f"{name} is no setting; did you mean {_PREFIX}{one}?" for one in near]
    return found
