"""What comes piece by piece, added up: the events of a stream, the messages of a WebSocket.

Keeps one number, never a piece. How a piece is read is the quantity's; how a stream is cut into
events is in `streams`.
"""

import re
from collections.abc import Callable, Iterable
from decimal import Context, Decimal, Inexact
from typing import Final, Literal, TypeAlias

from usageflow.events import plain, quantity_problem
from usageflow.policies.interpreter import Budget
from usageflow.policies.reason import Reason

Piece: TypeAlias = Literal["body", "received", "sent"]
"""What a piece is of: the response's body, or a WebSocket's messages in one direction."""
PIECES: Final[dict[Piece, tuple[str, str]]] = {
    "body": ("response", "body"),
    "received": ("websocket", "received"),
    "sent": ("websocket", "sent"),
}
"""The part of the quantity's document that a piece takes the place of."""
PieceReader: TypeAlias = Callable[[bytes, Piece, Budget], Decimal | Reason | None]
"""What one piece is worth; None if there is no value in it."""

TOO_LARGE: Final = Reason("an event of the stream is too large to be measured")
TOO_MUCH_AT_ONCE: Final = Reason("more came at once than can be measured")

_EXACT: Final = Context(prec=100, traps=[Inexact])
"""10^60 quantities of 38 digits can be added up exactly."""
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")


class Tally:
    """The quantity of one policy in one stream or WebSocket, so far.

    `needles` are byte sequences one of which is in every piece with a value; None if there are no
    such. `otherwise` says what a stream without any value is worth.
    """

    __slots__ = ("_found", "_otherwise", "_read", "_summed", "needles")

    def __init__(
        self,
        read: PieceReader,
        otherwise: Callable[[], Decimal | Reason],
        *,
        summed: bool,
        needles: frozenset[bytes] | None,
    ) -> None:
        self.needles = needles
        self._read = read
        self._otherwise = otherwise
        self._summed = summed
        self._found: Decimal | Reason | None = None

    def add(self, data: bytes, piece: Piece = "body", budget: Budget | None = None) -> None:
        """The next event's data, or the next message. Never raises; spends `budget`."""
        if self.needles is None or may_hold(data, self.needles):
            value = self._read(data, piece, budget or Budget())
            if value is not None:
                self.put(value)

    def put(self, value: Decimal | Reason) -> None:
        """What the next piece is worth. What cannot be read spoils a sum, and a last value."""
        if not self._summed or self._found is None:
            self._found = value
        elif isinstance(self._found, Decimal):
            self._found = value if isinstance(value, Reason) else _EXACT.add(self._found, value)

    def result(self) -> Decimal | Reason:
        """What the whole stream is worth: its last value or their sum."""
        return self._otherwise() if self._found is None else _checked(self._found)

    def take(self) -> Decimal | Reason | None:
        """What came since the last time; None if no piece had a value."""
        found, self._found = self._found, None
        return None if found is None else _checked(found)


def may_hold(data: bytes, needles: Iterable[bytes]) -> bool:
    """Whether one of these names may be in this JSON, which may escape any letter of them."""
    for needle in needles:
        if needle in data:
            return True
    return b"\\u00" in data and _ESCAPED_ASCII.search(data) is not None


def needles_of(names: Iterable[str]) -> frozenset[bytes] | None:
    """How these names are written in JSON, escapes aside; None if there are several ways."""
    names = tuple(names)
    if all(name.isascii() and name.isprintable() and not set(name) & set('"\\/') for name in names):
        return frozenset(f'"{name}"'.encode() for name in names)
    return None


def _checked(found: Decimal | Reason) -> Decimal | Reason:
    if isinstance(found, Reason):
        return found
    problem = quantity_problem(found)
    return Reason(f"the sum: {problem}") if problem else plain(found)
