"""How much a request is worth: a policy's quantity, compiled to be read from the facts.

Yields a non-negative exact Decimal in plain notation, or a Reason. Never a guess: a missing field
is not 0, a text is not a number, and what cannot be read is not 1. Never raises.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Final, Literal, TypeAlias

from usageflow._types import JSON, Headers
from usageflow.events import plain, quantity_problem
from usageflow.policies.body import Body
from usageflow.policies.expressions import Expression, value_at
from usageflow.policies.facts import REQUEST_BODY, RESPONSE_BODY, Facts, budget_of
from usageflow.policies.interpreter import Budget
from usageflow.policies.json_text import can_be_skimmed, decode_json, is_json, skim_json
from usageflow.policies.media import json_text
from usageflow.policies.parts import LASTING, PARTS, needed_parts, read_part
from usageflow.policies.reason import Reason
from usageflow.policies.routes import Template
from usageflow.policies.tally import PIECES, TOO_MUCH_AT_ONCE, Piece, Tally, needles_of

_PLAIN_DIGITS: Final = 18
_PLAIN_INT_MAX: Final = 10**_PLAIN_DIGITS
"""Below it an int needs no further check: it is in plain notation and has few enough digits."""
_LABEL_CHARS_MAX: Final = 100
"""An expression up to this length names itself in a reason."""
_NO_PIECES: Final[Mapping[tuple[str, str], None]] = dict.fromkeys(PIECES.values())
_PART_NAMES: Final = 2
"""Names that lead to a part; those after them are members of it."""
_SKIM_STEPS, _SKIM_BYTES_PER_STEP = 8, 128
_SEARCH_STEPS, _SEARCH_BYTES_PER_STEP = 25, 16
"""What the shortest event takes in steps of an evaluation, and how much more JSON takes a step."""

_BodyOf: TypeAlias = Callable[[Facts], tuple[Body, Headers, str]]
_BODIES: Final[dict[tuple[str, ...], _BodyOf]] = {
    ("request", "body"): lambda f: (f.request_body, f.request_headers, REQUEST_BODY),
    ("response", "body"): lambda f: (f.response_body, f.response_headers, RESPONSE_BODY),
}
QuantityReader: TypeAlias = Callable[[Facts, Sequence[str]], Decimal | Reason]
"""Takes the facts and the segments of the matched path."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A policy's quantity under one of its templates.

    `parts` are the (section, part) pairs that it takes, none for a `constant`. `read` measures a
    complete exchange. `tally` begins to measure what comes piece by piece, an event stream as the
    response's body or messages; None if the quantity takes nothing that does.
    """

    parts: frozenset[tuple[str, str]]
    constant: Decimal | None
    read: QuantityReader
    tally: Callable[[Facts, Sequence[str]], Tally] | None


def compile_quantity(
    quantity: Decimal | str, template: Template, stream: Literal["last", "sum"] = "last"
) -> Quantity:
    """A constant or a valid expression. `stream` says which events of a stream count."""
    if isinstance(quantity, Decimal):
        return Quantity(frozenset(), quantity, lambda _facts, _segments: quantity, None)
    measure = _Measure(Expression.of(quantity), template, summed=stream == "sum")
    body_of = _BODIES.get((measure.expression.keys or ())[:_PART_NAMES]) if measure.keys else None
    read = measure.search if body_of is None else partial(measure.skim, body_of)
    piecewise = not measure.parts.isdisjoint(_NO_PIECES)
    return Quantity(measure.parts, None, read, measure.tally if piecewise else None)


class _Measure:
    """An expression under one template.

    `keys` lead to a place in one part, if the expression is nothing else and can be skimmed for.
    """

    __slots__ = ("_summed", "_template", "expression", "keys", "parts")

    def __init__(self, expression: Expression, template: Template, *, summed: bool) -> None:
        path = expression.keys or ()
        self.expression = expression
        self.keys = path[_PART_NAMES:] if can_be_skimmed(path) else ()
        self.parts = needed_parts(expression.text)
        self._template = template
        self._summed = summed

    @property
    def label(self) -> str:
        """What a reason calls the quantity."""
        text = self.expression.text
        return text if len(text) <= _LABEL_CHARS_MAX else "the quantity"

    def skim(self, body_of: _BodyOf, facts: Facts, segments: Sequence[str]) -> Decimal | Reason:
        """The usual case: one number at a fixed place of a body."""
        body, headers, label = body_of(facts)
        problem = body.unusable(label)
        if problem is not None:
            return problem
        text = json_text(body.data, headers, label)
        if text is None:  # a form
            return self.search(facts, segments)
        found = text if isinstance(text, Reason) else skim_json(text, self.keys, label)
        if found is None:
            return Reason(f"{self.label} is missing")
        return found if isinstance(found, Reason) else self.number(found)

    def search(self, facts: Facts, segments: Sequence[str]) -> Decimal | Reason:
        """The general case: the expression over a document of the parts that it takes."""
        document = self.document(facts, segments, {})
        if isinstance(document, Reason):
            return document
        if self.expression.keys is not None:
            return _member(document, self.expression.keys, self.label)
        return self.judged(self.expression.search(document, budget_of(facts)))

    def tally(self, facts: Facts, segments: Sequence[str]) -> Tally:
        """Begin to measure what comes piece by piece."""
        pieces = _Pieces(self, facts, segments)
        return Tally(pieces.read, pieces.none, summed=self._summed, needles=self._needles())

    def _needles(self) -> frozenset[bytes] | None:
        """The last names of the paths into a piece: without any of them there is no value."""
        paths = [path for pair in _NO_PIECES.keys() & self.parts for path in self.paths(pair)]
        return needles_of([path[-1] for path in paths]) if all(paths) else None

    def paths(self, pair: tuple[str, str]) -> list[tuple[str, ...]]:
        """The paths into one part; an empty one is all of it."""
        return [
            path[_PART_NAMES:]
            for path in self.expression.mentions
            if path[:_PART_NAMES] == pair[: len(path)]
        ]

    def document(
        self, facts: Facts, segments: Sequence[str], known: dict[tuple[str, str], JSON]
    ) -> JSON | Reason:
        """The parts that the expression takes. `known` has some, and is told what will stay."""
        document: dict[str, dict[str, JSON]] = {section: {} for section in PARTS}
        for pair in sorted(self.parts):
            value = (
                known[pair] if pair in known else read_part(pair, facts, self._template, segments)
            )
            if isinstance(value, Reason):
                return value
            if pair in LASTING:
                known[pair] = value
            document[pair[0]][pair[1]] = value
        return document

    def number(self, text: bytes) -> Decimal | Reason:
        """The quantity that this JSON text is, or why it is none."""
        if text.isdigit() and len(text) < _PLAIN_DIGITS:
            return Decimal(int(text))
        return _judged(decode_json(text, self.label), self.label)

    def judged(self, value: JSON | Reason) -> Decimal | Reason:
        """What the expression has found as a quantity, or why it is none."""
        if isinstance(value, Reason):
            return Reason(f"{self.label}: {value.text}")
        return _judged(value, self.label)


class _Pieces:
    """An expression over events or messages, each beside the facts of the exchange by then."""

    __slots__ = ("_facts", "_known", "_measure", "_segments")

    def __init__(self, measure: _Measure, facts: Facts, segments: Sequence[str]) -> None:
        self._measure = measure
        self._facts = facts
        self._segments = segments
        self._known: dict[tuple[str, str], JSON] = {}

    def read(self, data: bytes, piece: Piece, budget: Budget) -> Decimal | Reason | None:
        """What one piece is worth; None if none of the members is there, or it is no JSON."""
        pair = PIECES[piece]
        if pair not in self._measure.parts:
            return None
        if self._measure.keys:
            return self._skimmed(data, budget)
        return self._searched(data, pair, budget)

    def _skimmed(self, data: bytes, budget: Budget) -> Decimal | Reason | None:
        budget.steps -= _SKIM_STEPS + len(data) // _SKIM_BYTES_PER_STEP
        found = skim_json(data, self._measure.keys, "an event")
        if isinstance(found, Reason):
            return found if is_json(data) else None
        return None if found is None or found == b"null" else self._measure.number(found)

    def _searched(
        self, data: bytes, pair: tuple[str, str], budget: Budget
    ) -> Decimal | Reason | None:
        measure = self._measure
        lists = data.count(b"[") + data.count(b"{")
        budget.steps -= _SEARCH_STEPS + len(data) // _SEARCH_BYTES_PER_STEP + lists
        content = decode_json(data, "an event")
        if isinstance(content, Reason):
            return content if is_json(data) else None
        if all(value_at(path, content) is None for path in measure.paths(pair)):
            return None
        self._known |= {**_NO_PIECES, pair: content}
        document = measure.document(self._facts, self._segments, self._known)
        if isinstance(document, Reason):
            return measure.judged(document)
        value = measure.expression.search(document, budget)
        if budget.steps < 0:
            return TOO_MUCH_AT_ONCE
        return None if value is None else measure.judged(value)

    def none(self) -> Decimal | Reason:
        """What a stream is worth in which no event has any of the members that are asked for."""
        measure = self._measure
        document = measure.document(self._facts, self._segments, {**_NO_PIECES})
        value = document if isinstance(document, Reason) else measure.expression.search(document)
        if value is None or isinstance(value, Reason):
            whole = "event of the stream" if PIECES["body"] in measure.parts else "message"
            return Reason(f"{measure.label} is in no {whole}")
        return measure.judged(value)


def _member(document: JSON, keys: Sequence[str], label: str) -> Decimal | Reason:
    parent = value_at(keys[:-1], document)
    if not isinstance(parent, dict) or keys[-1] not in parent:
        return Reason(f"{label} is missing")
    return _judged(parent[keys[-1]], label)


def _judged(value: JSON, label: str) -> Decimal | Reason:
    """A JSON value as a quantity, or why it is none."""
    if type(value) is int and 0 <= value < _PLAIN_INT_MAX:
        return Decimal(value)
    if isinstance(value, Reason):
        return value
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return Reason(f"{label} is {_KINDS.get(type(value), 'not a number')}")
    number = Decimal(value)
    problem = quantity_problem(number)
    return Reason(f"{label}: {problem}") if problem else plain(number)


_KINDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "a boolean, not a number",
    str: "text, not a number",
    list: "a list, not a number",
    dict: "an object, not a number",
}
