"""JMESPath with exact numbers and bounded work.

The language is the `jmespath` package's; changed is only what billing needs: a Decimal is a number
everywhere and no binary float is ever made, an evaluation stops after EVALUATION_STEPS_MAX, and a
failure is a Reason that never quotes the document. Knows nothing of requests.
"""

import re
from collections.abc import Callable
from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    ROUND_HALF_UP,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    localcontext,
)
from typing import Any, Final

import jmespath
import msgspec
from jmespath import exceptions, functions, lexer, visitor

from usageflow._types import JSON
from usageflow.events import QUANTITY_DECIMALS_MAX
from usageflow.policies.reason import Reason
from usageflow.policies.suggestions import did_you_mean

EXPRESSION_CHARS_MAX: Final = 1_024
"""Longest expression; what a person can still read."""
EXPRESSION_DEPTH_MAX: Final = 50
"""Deepest syntax tree; evaluating a level takes three frames of Python's stack."""
EVALUATION_STEPS_MAX: Final = 100_000
"""Nodes visited and values built in one evaluation: about 30 ms. Unbounded, 265 characters can
keep a processor busy for 11 s."""
EVALUATION_DIGITS_MAX: Final = 1_000
"""Digits of an exact intermediate sum; far above what a quantity may have, far below a bomb."""

_EXACT: Final = Context(
    prec=EVALUATION_DIGITS_MAX, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow]
)
_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")

_LITERAL = re.compile(r"`((?:[^`\\]|\\.)*)`", re.DOTALL)
_NOT_JSON: Final = "text between backticks must be JSON; write '...' for a text"
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


class Expression:
    """A compiled expression.

    `keys` is the chain of member names if the expression is nothing else (`a.b.c`), else None.
    `mentions` are the first two names of each path into the document, None where it takes
    everything below: `response.body.n` gives ("response", "body"), `@` gives (None, None).
    """

    __slots__ = ("_tree", "keys", "mentions", "text")

    def __init__(self, text: str) -> None:
        """Compile. Raises ValueError with the column of what is wrong."""
        self.text = text
        self._tree = _compile(text)
        self.keys = _chain(self._tree)
        found: set[tuple[str | None, str | None]] = set()
        _mentions(self._tree, found)
        self.mentions = frozenset(found)

    def search(self, document: JSON) -> JSON | Reason:
        """The value in `document`, or why there is none. Never raises."""
        try:
            with localcontext(_EXACT):
                return _Interpreter().visit(self._tree, document)
        except TimeoutError:
            return Reason(f"the expression needs more than {EVALUATION_STEPS_MAX} steps")
        except exceptions.JMESPathTypeError as error:
            wanted = " or ".join(error.expected_types)
            return Reason(f"{error.function_name}() got {error.actual_type}, not {wanted}")
        except RecursionError:
            return Reason("the expression meets values nested too deeply")
        except ArithmeticError:
            return Reason(f"the result has more than {EVALUATION_DIGITS_MAX} digits")
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the app
            return Reason(f"the expression cannot be evaluated: {type(error).__name__}")


def _compile(text: str) -> JSON:
    """The syntax tree as jmespath makes it, its literals exact."""
    if len(text) > EXPRESSION_CHARS_MAX:
        raise ValueError(f"{len(text)} characters; at most {EXPRESSION_CHARS_MAX}")
    if not text.strip():
        raise ValueError("an empty expression")
    try:
        for token in lexer.Lexer().tokenize(text):
            if text[token["start"] : token["start"] + 1] == "`":
                _check_literal(text, token["start"], token["value"])
        tree = _exact(jmespath.compile(text).parsed)
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
    known = _Functions.FUNCTION_TABLE.get(name)
    if known is None:
        raise ValueError(
            f"there is no function {name}(){did_you_mean(name, _Functions.FUNCTION_TABLE)}"
        )
    wanted = len(known["signature"])
    variadic = known["signature"][-1].get("variadic", False)
    if given < wanted or (given > wanted and not variadic):
        least = "at least " if variadic else ""
        raise ValueError(f"wrong number of arguments for {name}(): {given}, not {least}{wanted}")


def _chain(tree: JSON) -> tuple[str, ...] | None:
    if tree["type"] == "field":
        return (tree["value"],)
    if tree["type"] == "subexpression" and all(c["type"] == "field" for c in tree["children"]):
        return tuple(child["value"] for child in tree["children"])
    return None


def _mentions(node: JSON, found: set[tuple[str | None, str | None]]) -> None:
    """Collect the paths that `node` takes from the document it is evaluated on."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        found.add((node["value"], None))
    elif kind in ("current", "identity"):
        found.add((None, None))
    elif kind == "subexpression" and children[0]["type"] == children[1]["type"] == "field":
        found.add((children[0]["value"], children[1]["value"]))
    elif kind in _RESCOPING:
        _mentions(children[0], found)
    elif kind != "expref":  # an expref is evaluated on the elements of an array
        for child in children:
            _mentions(child, found)


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
"""RFC 8259, section 6; what JMESPath's to_number reads."""
_ROUNDING: Final = Context(prec=EVALUATION_DIGITS_MAX, rounding=ROUND_HALF_UP)
_LAST_DECIMAL: Final = Decimal(1).scaleb(-QUANTITY_DECIMALS_MAX)
_TEXT_CHARS_PER_STEP: Final = 32
"""Text is handled so much faster than nodes; one step covers this many characters."""


def _cost(value: JSON) -> int:
    if isinstance(value, str):
        return len(value) // _TEXT_CHARS_PER_STEP
    return len(value) if isinstance(value, list | dict) else 1


class _Functions(functions.Functions):
    """JMESPath's functions with Decimal as a number, and without a way to build a bomb."""

    def __init__(self, charge: Callable[[int], None]) -> None:
        self._charge = charge

    def call_function(self, function_name: str, resolved_args: Any) -> Any:
        self._charge(sum(map(_cost, resolved_args)))
        return super().call_function(function_name, resolved_args)

    def _get_allowed_pytypes(self, types: Any) -> tuple[list[str], list[tuple[str, ...]]]:
        # The package knows types by their names; whatever may be a float may be a Decimal.
        allowed, inner = super()._get_allowed_pytypes(types)  # type: ignore[misc]
        return (
            [*allowed, "Decimal"] if "float" in allowed else allowed,
            [(*names, "Decimal") if "float" in names else names for names in inner],
        )

    def _convert_to_jmespath_type(self, pyobject: str) -> str:
        if pyobject == "Decimal":
            return "number"
        return str(super()._convert_to_jmespath_type(pyobject))  # type: ignore[misc]

    @functions.signature({"types": ["array-number"]})
    def _func_avg(self, arg: list[int | Decimal]) -> Decimal | None:
        if not arg:
            return None
        total = sum(map(Decimal, arg), Decimal())
        mean = _ROUNDING.divide(total, Decimal(len(arg)))
        rounded = mean.quantize(_LAST_DECIMAL, context=_ROUNDING)
        return mean if mean == rounded else rounded

    @functions.signature({"types": ["number"]})
    def _func_ceil(self, arg: int | Decimal) -> Decimal:
        return Decimal(arg).to_integral_value(ROUND_CEILING)

    @functions.signature({"types": ["number"]})
    def _func_floor(self, arg: int | Decimal) -> Decimal:
        return Decimal(arg).to_integral_value(ROUND_FLOOR)

    @functions.signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, separator: str, array: list[str]) -> str:
        chars = len(separator) * len(array) + sum(map(len, array))
        self._charge(chars // _TEXT_CHARS_PER_STEP)
        return separator.join(array)

    @functions.signature({"types": []})
    def _func_to_string(self, arg: JSON) -> str:
        text = arg if isinstance(arg, str) else _encoder.encode(arg).decode()
        self._charge(len(text) // _TEXT_CHARS_PER_STEP)
        return text

    @functions.signature({"types": []})
    def _func_to_number(self, arg: JSON) -> int | Decimal | None:
        if isinstance(arg, str):
            return Decimal(arg) if _NUMBER.fullmatch(arg) else None
        return arg if isinstance(arg, int | Decimal) and not isinstance(arg, bool) else None

    @functions.signature({"types": []})
    def _func_type(self, arg: JSON) -> str:
        return self._convert_to_jmespath_type(type(arg).__name__)


class _Interpreter(visitor.TreeInterpreter):
    """Evaluates one expression once, counting what it does. Raises TimeoutError at the limit.

    A few characters can ask for 2^n elements by taking one value twice, again and again. So what is
    built is weighed as the tree it stands for; what is merely selected is not.
    """

    def __init__(self) -> None:
        self._steps_left = EVALUATION_STEPS_MAX
        super().__init__(visitor.Options(custom_functions=_Functions(self.charge)))

    def charge(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise TimeoutError

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self.charge(1)
        return super().visit(node, *args, **kwargs)

    def visit_flatten(self, node: Any, value: Any) -> Any:
        return self._charged(super().visit_flatten(node, value))

    def visit_multi_select_list(self, node: Any, value: Any) -> Any:
        return self._weighed(super().visit_multi_select_list(node, value))

    def visit_multi_select_dict(self, node: Any, value: Any) -> Any:
        return self._weighed(super().visit_multi_select_dict(node, value))

    def _charged(self, value: JSON) -> JSON:
        self.charge(_cost(value))
        return value

    def _weighed(self, value: JSON) -> JSON:
        waiting = [value]
        while waiting:
            item = self._charged(waiting.pop())
            if isinstance(item, list):
                waiting.extend(item)
            elif isinstance(item, dict):
                waiting.extend(item.values())
        return value
