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
from usageflow.policies.expressions import Expression
from usageflow.policies.facts import (
    REQUEST_BODY,
    RESPONSE_BODY,
    Facts,
    request_json,
    response_json,
)
from usageflow.policies.interpreter import Budget
from usageflow.policies.json_text import can_be_skimmed, decode_json, is_json, skim_json
from usageflow.policies.media import json_text
from usageflow.policies.parts import PARTS, needed_parts
from usageflow.policies.query import query_pairs
from usageflow.policies.reason import Reason
from usageflow.policies.routes import Template
from usageflow.policies.tally import PIECES, TOO_MUCH_AT_ONCE, Piece, Tally, needles_of

_PLAIN_INT_MAX: Final = 10**18
"""Below it an int needs no further check: it is in plain notation and has few enough digits."""
_LABEL_CHARS_MAX: Final = 100
"""An expression up to this length names itself in a reason."""
_EVENTS: Final = PIECES["body"]
_NO_PIECES: Final[Mapping[tuple[str, str], None]] = dict.fromkeys(PIECES.values())
_PART_NAMES: Final = 2
"""Names that lead to a part; those after them are members of it."""
_SKIM_STEPS, _SKIM_BYTES_PER_STEP = 8, 128
_SEARCH_STEPS, _SEARCH_BYTES_PER_STEP = 25, 16
"""What the shortest event takes in steps of an evaluation, and how much more JSON takes a step."""

_BodyOf: TypeAlias = Callable[[Facts], tuple[Body, Headers, str]]
_BODIES: Final[dict[tuple[str, ...], _BodyOf]] = {
    ("request", "body"): lambda facts: (
        facts.request_body,
        facts.request_headers,
        REQUEST_BODY,
    ),
    ("response", "body"): lambda facts: (
        facts.response_body,
        facts.response_headers,
        RESPONSE_BODY,
    ),
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
    def _label(self) -> str:
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
            return Reason(f"{self._label} is missing")
        return found if isinstance(found, Reason) else self._number(found)

    def search(self, facts: Facts, segments: Sequence[str]) -> Decimal | Reason:
        """The general case: the expression over a document of the parts that it takes."""
        document = self._document(facts, segments, {})
        if isinstance(document, Reason):
            return document
        if self.expression.keys is not None:
            return _member(document, self.expression.keys, self._label)
        return self._judged(self.expression.search(document))

    def tally(self, facts: Facts, segments: Sequence[str]) -> Tally:
        """What comes piece by piece, each beside the rest of the facts as they are by then."""
        return Tally(
            partial(self._piece, facts, segments),
            partial(self._without_pieces, facts, segments),
            summed=self._summed,
            needles=self._needles(),
        )

    def _piece(
        self, facts: Facts, segments: Sequence[str], data: bytes, piece: Piece, budget: Budget
    ) -> Decimal | Reason | None:
        pair = PIECES[piece]
        if pair not in self.parts:
            return None
        if self.keys:
            return self._skimmed(data, budget)
        return self._searched(facts, segments, pair, data, budget)

    def _skimmed(self, data: bytes, budget: Budget) -> Decimal | Reason | None:
        budget.steps -= _SKIM_STEPS + len(data) // _SKIM_BYTES_PER_STEP
        found = skim_json(data, self.keys, "an event")
        if isinstance(found, Reason):
            return found if is_json(data) else None
        return None if found is None or found == b"null" else self._number(found)

    def _searched(
        self,
        facts: Facts,
        segments: Sequence[str],
        pair: tuple[str, str],
        data: bytes,
        budget: Budget,
    ) -> Decimal | Reason | None:
        lists = data.count(b"[") + data.count(b"{")
        budget.steps -= _SEARCH_STEPS + len(data) // _SEARCH_BYTES_PER_STEP + lists
        content = decode_json(data, "an event")
        if isinstance(content, Reason):
            return content if is_json(data) else None
        if not any(_found(content, path) for path in self._paths(pair)):
            return None
        document = self._document(facts, segments, {**_NO_PIECES, pair: content})
        value = (
            document if isinstance(document, Reason) else self.expression.search(document, budget)
        )
        if budget.steps < 0:
            return TOO_MUCH_AT_ONCE
        return None if value is None else self._judged(value)

    def _without_pieces(self, facts: Facts, segments: Sequence[str]) -> Decimal | Reason:
        """What a stream is worth in which no event has any of the members that are asked for."""
        document = self._document(facts, segments, _NO_PIECES)
        value = document if isinstance(document, Reason) else self.expression.search(document)
        if value is None or isinstance(value, Reason):
            whole = "event of the stream" if _EVENTS in self.parts else "message"
            return Reason(f"{self._label} is in no {whole}")
        return self._judged(value)

    def _needles(self) -> frozenset[bytes] | None:
        """The last names of the paths into a piece: without any of them there is no value."""
        paths = [path for pair in _NO_PIECES.keys() & self.parts for path in self._paths(pair)]
        return needles_of([path[-1] for path in paths]) if all(paths) else None

    def _paths(self, pair: tuple[str, str]) -> list[tuple[str, ...]]:
        """The paths into one part; an empty one is all of it."""
        return [
            path[_PART_NAMES:]
            for path in self.expression.mentions
            if path[:_PART_NAMES] == pair[: len(path)]
        ]

    def _document(
        self, facts: Facts, segments: Sequence[str], given: Mapping[tuple[str, str], JSON]
    ) -> JSON | Reason:
        document: dict[str, dict[str, JSON]] = {section: {} for section in PARTS}
        for pair in sorted(self.parts):
            value = given[pair] if pair in given else _PARTS[pair](facts, self._template, segments)
            if isinstance(value, Reason):
                return value
            document[pair[0]][pair[1]] = value
        return document

    def _number(self, text: bytes) -> Decimal | Reason:
        return _judged(decode_json(text, self._label), self._label)

    def _judged(self, value: JSON | Reason) -> Decimal | Reason:
        if isinstance(value, Reason):
            return Reason(f"{self._label}: {value.text}")
        return _judged(value, self._label)


def _found(document: JSON, path: Sequence[str]) -> bool:
    """Whether there is something else than null at the end of this path."""
    for name in path:
        if not isinstance(document, dict):
            return False
        document = document.get(name)
    return document is not None


def _member(document: JSON, keys: Sequence[str], text: str) -> Decimal | Reason:
    value = document
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return Reason(f"{text} is missing")
        value = value[key]
    return _judged(value, text)


def _headers(headers: Headers) -> dict[str, str]:
    """Repeated fields are joined as RFC 9110, section 5.2, permits."""
    joined: dict[str, str] = {}
    for key, value in headers:
        name, text = key.decode("latin-1"), value.decode("latin-1")
        joined[name] = f"{joined[name]}, {text}" if name in joined else text
    return joined


def _query(facts: Facts) -> dict[str, JSON]:
    """A parameter is a text; one that occurs several times is a list of texts."""
    values: dict[str, list[str]] = {}
    for name, value in query_pairs(facts.query_string):
        values.setdefault(name, []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _params(_: Facts, template: Template, segments: Sequence[str]) -> dict[str, str]:
    return {name: template.value(name, segments) for name in template.parameters}


def _of_websocket(part: str, facts: Facts, _t: Template, _s: Sequence[str]) -> JSON | Reason:
    return facts.websocket.get(part, Reason(f"websocket.{part} is not of this request"))


_PARTS: Final[dict[tuple[str, str], Callable[[Facts, Template, Sequence[str]], JSON]]] = {
    ("request", "method"): lambda facts, _t, _s: facts.method,
    ("request", "path"): lambda facts, _t, _s: facts.path,
    ("request", "headers"): lambda facts, _t, _s: _headers(facts.request_headers),
    ("request", "query"): lambda facts, _t, _s: _query(facts),
    ("request", "params"): _params,
    ("request", "body"): lambda facts, _t, _s: request_json(facts),
    ("request", "bytes"): lambda facts, _t, _s: facts.request_body.bytes_total,
    ("response", "status"): lambda facts, _t, _s: facts.status,
    ("response", "headers"): lambda facts, _t, _s: _headers(facts.response_headers),
    ("response", "body"): lambda facts, _t, _s: response_json(facts),
    ("response", "bytes"): lambda facts, _t, _s: facts.response_body.bytes_total,
    ("response", "duration_ms"): lambda facts, _t, _s: facts.duration_ms,
} | {("websocket", part): partial(_of_websocket, part) for part in PARTS["websocket"]}


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
