"""What a worker and the process that started it have to say to each other.

A pair of connected sockets, the worker's end being its standard input: so nothing is seen in its
arguments or environment, and each notices when the other is gone. Lines of JSON: the hand-over to
the worker and, once it serves or cannot, its news. Afterwards a byte means "reload", and the end of
the stream means "stop". Pure: it opens nothing.
"""

import json
from dataclasses import asdict
from typing import Any, Final, NamedTuple, Self

from usageflow.config import Settings

RELOAD: Final = b"\n"
"""Told to a worker that is to reload."""


class Handover(NamedTuple):
    """What a worker needs to begin: its number from 0, and what it inherits as open files."""

    settings: Settings
    number: int
    listener: int
    figures: int

    def line(self) -> bytes:
        """As it is sent."""
        return _line({**self._asdict(), "settings": asdict(self.settings)})

    @classmethod
    def read(cls, line: bytes) -> Self:
        """What `line` gave."""
        given = json.loads(line)
        return cls(**{**given, "settings": Settings(**given["settings"])})


class News(NamedTuple):
    """A worker serves; or it cannot, because of this problem."""

    problem: str = ""

    def line(self) -> bytes:
        """As it is sent."""
        return _line(self._asdict())

    @classmethod
    def read(cls, line: bytes) -> Self:
        """What `line` gave; of a worker that ended without a word, the line is empty."""
        return cls(**json.loads(line)) if line else cls("it ended; its log says why")


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
