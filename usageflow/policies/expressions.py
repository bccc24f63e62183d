"""JMESPath expressions: checked when they are written, evaluated to a value or a Reason.

What can never work is refused with its column; a failure is a Reason that never quotes the
document. What functions do, and what that costs, is in `interpreter`. Knows nothing of requests.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final

import jmespath
import msgspec
from jmespath import exceptions, lexer

from usageflow._types import JSON
from usageflow.policies.interpreter import (
    EVALUATION_DIGITS_MAX,
    EVALUATION_STEPS_MAX,
    FUNCTIONS,
    Budget,
    evaluate,
)
from usageflow.policies.reason import Reason
from usageflow.policies.suggestions import did_you_mean

EXPRESSION_CHARS_MAX: Final = 1_024
"""Longest expression; what a person can still read."""
EXPRESSION_DEPTH_MAX: Final = 50
"""Deepest syntax tree; evaluating a level takes three frames of Python's stack."""
EXPRESSIONS_KEPT: Final = 8_192
"""Compiled expressions remembered by their text; a usual one takes 2 KiB."""

_decoder = msgspec.json.Decoder(float_hook=Decimal)

_LITERAL = re.compile(r"`((?:[^`\\]|\\.)*)`", re.DOTALL)
_NOT_JSON: Final = "text between backticks must be JSON; write '...' for a text"
_NAMES = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
"""The usual expression. It needs no parser and no tree: of thousands, that is what takes time."""
_RESCOPING: Final = frozenset(
    (
        "filter_projection",
        "index_expression",
        "pipe",
        "projection",
        "subexpression",
        "value_projection",
    )
)
"""Nodes whose first child sees the document and whose other children see the first one's value."""
_KINDS: Final = {
    "comparator": "a boolean",
    "filter_projection": "a list",
    "flatten": "a list",
    "multi_select_dict": "an object",
    "multi_select_list": "a list",
    "not_expression": "a boolean",
    "projection": "a list",
    "value_projection": "a list",
}
"""What a node yields, null aside, where that is always the same."""
_FUNCTION_KINDS: Final = {
    **dict.fromkeys(("contains", "ends_with", "starts_with"), "a boolean"),
    **dict.fromkeys(("keys", "map", "sort", "sort_by", "to_array", "values"), "a list"),
    **dict.fromkeys(("join", "to_string", "type"), "text"),
    "merge": "an object",
}
"""What a function yields, if that is never a number."""


class Expression:
    """A compiled expression.

    `keys` is the chain of member names if the expression is nothing else (`a.b.c`), else None.
    `mentions` are the paths of names into the document, everything below the last name included:
    `response.body.n` gives ("response", "body", "n"), `@` gives (). `yields` says what every
    value is ("text", "a list", ...) if it can never be a number, else None.
    """

    __slots__ = ("_tree", "keys", "mentions", "text", "yields")

    def __init__(self, text: str) -> None:
        """Compile. Raises ValueError with the column of what is wrong."""
        self.text = text
        chain = len(text) <= EXPRESSION_CHARS_MAX and _NAMES.fullmatch(text)
        self._tree = None if chain else _compile(text)
        self.keys = tuple(text.split(".")) if chain else _path(self._tree) or None
        found = {self.keys} if self.keys else set[tuple[str, ...]]()
        if self.keys is None:
            _mentions(self._tree, found)
        self.mentions = frozenset(found)
        self.yields = None if self.keys else _kind(self._tree)

    @staticmethod
    @lru_cache(EXPRESSIONS_KEPT)
    def of(text: str) -> "Expression":
        """The compiled expression, the same object for the same text. Raises as `Expression`."""
        return Expression(text)

    def search(self, document: JSON, budget: Budget | None = None) -> JSON | Reason:
        """The value in `document`, or why there is none. Never raises.

        Spends `budget`; without one it may take EVALUATION_STEPS_MAX.
        """
        if self._tree is None:
            return value_at(self.keys or (), document)
        try:
            return evaluate(self._tree, document, budget or Budget())
        except TimeoutError:
            return Reason(f"the expression needs more than {EVALUATION_STEPS_MAX} steps")
        except exceptions.JMESPathTypeError as error:
            wanted = " or ".join(error.expected_types)
            return Reason(f"{error.function_name}() got {error.actual_type}, not {wanted}")
        except RecursionError:
            return Reason("the expression meets values nested too deeply")
        except ZeroDivisionError:
            return Reason("division by zero")
        except ArithmeticError:
            return Reason(f"the result has more than {EVALUATION_DIGITS_MAX} digits")
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the app
            return Reason(f"the expression cannot be evaluated: {type(error).__name__}")


def value_at(keys: Sequence[str], document: JSON) -> JSON:
    """The value that a chain of member names leads to; None if there is none."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _compile(text: str) -> JSON:
    """The syntax tree as jmespath makes it, its literals exact."""
    if len(text) > EXPRESSION_CHARS_MAX:
        raise ValueError(f"{len(text)} characters; at most {EXPRESSION_CHARS_MAX}")
    if not text.strip():
        raise ValueError("an empty expression")
    try:
        for token in lexer.Lexer().tokenize(text) if "`" in text else ():
            if text[token["start"] : token["start"] + 1] == "`":
                _check_literal(text, token["start"], token["value"])
        tree = jmespath.compile(text).parsed
        if "`" in text:
            tree = _exact(tree)
    except exceptions.LexerError as error:
        raise ValueError(f"column {error.lexer_position + 1}: {error.message}") from None
    except exceptions.ParseError as error:
        incomplete = error.lex_position >= len(text)
        what = "the expression is incomplete" if incomplete else error.msg
        raise ValueError(f"column {error.lex_position + 1}: {what}") from None
    except PendingDeprecationWarning:
        raise ValueError(_NOT_JSON) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_nodes(tree)
    return tree


def _check_literal(text: str, start: int, value: JSON) -> None:
    """Refuse a literal that the package reads otherwise than it is written."""
    literal = _LITERAL.match(text, start)
    assert literal is not None  # noqa: S101 - the lexer has found it
    try:
        exact = _decoder.decode(literal[1].replace("\\`", "`"))
    except (msgspec.DecodeError, ArithmeticError):
        raise ValueError(f"column {start + 1}: {_NOT_JSON}") from None
    if exact != _exact(value):
        raise ValueError(
            f"column {start + 1}: a number with too many digits; write to_number('...')"
        )


def _exact(value: JSON) -> JSON:
    """A copy with each float as the shortest decimal that reads as this float."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    return value


def _check_nodes(node: JSON, depth: int = 1) -> None:
    """Refuse what would fail for every request: too much depth, wrong function calls."""
    if depth > EXPRESSION_DEPTH_MAX:
        raise ValueError("nested too deeply")
    children = [child for child in node["children"] if isinstance(child, dict)]
    if node["type"] == "function_expression":
        _check_call(node["value"], len(children))
    for child in children:
        _check_nodes(child, depth + 1)


def _check_call(name: str, given: int) -> None:
    known = FUNCTIONS.get(name)
    if known is None:
        raise ValueError(f"there is no function {name}(){did_you_mean(name, FUNCTIONS)}")
    wanted = len(known["signature"])
    variadic = known["signature"][-1].get("variadic", False)
    if given < wanted or (given > wanted and not variadic):
        least = "at least " if variadic else ""
        raise ValueError(f"wrong number of arguments for {name}(): {given}, not {least}{wanted}")


def _path(node: JSON) -> tuple[str, ...] | None:
    """The member names of a chain, from the document on; None if the node is no chain."""
    match node["type"]:
        case "field":
            return (node["value"],)
        case "current" | "identity":
            return ()
        case "subexpression":
            paths = [_path(child) for child in node["children"]]
            return None if None in paths else tuple(name for path in paths for name in path or ())
    return None


def _mentions(node: JSON, found: set[tuple[str, ...]]) -> None:
    """Collect the paths that `node` takes from the document it is evaluated on."""
    head = node
    while _path(head) is None and head["type"] in _RESCOPING:
        head = head["children"][0]
    if _path(head) is not None:
        found.add(_leading_path(node))
    elif head["type"] != "expref":  # an expref is evaluated on the elements of an array
        for child in head["children"]:
            _mentions(child, found)


def _leading_path(node: JSON) -> tuple[str, ...]:
    """The names that evaluating `node` begins with."""
    path = _path(node)
    if path is not None:
        return path
    names: tuple[str, ...] = ()
    if node["type"] in _RESCOPING:
        for child in node["children"]:
            names += _leading_path(child)
            if node["type"] != "subexpression" or _path(child) is None:
                break
    return names


def _kind(node: JSON) -> str | None:
    """What the values of `node` are, if they can never be a number."""
    kind, children = node["type"], node["children"]
    if kind in ("pipe", "subexpression"):
        return _kind(children[-1])
    if kind == "literal":
        return _literal_kind(node["value"])
    if kind == "function_expression":
        return _FUNCTION_KINDS.get(node["value"])
    if kind in ("and_expression", "or_expression"):
        kinds = [_kind(child) for child in children]
        return None if None in kinds else kinds[0]
    return _KINDS.get(kind)


def _literal_kind(value: JSON) -> str | None:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "text"
    return None if isinstance(value, int | Decimal) else "no number"
