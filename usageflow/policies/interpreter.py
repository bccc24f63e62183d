"""Evaluates JMESPath with exact numbers and counted work.

The language is the `jmespath` package's; changed is only what billing needs: a Decimal is a number
everywhere and no binary float is ever made, there is arithmetic, and all work is charged to a
Budget. Compiles nothing and knows nothing of requests.
"""

import inspect
import operator
import re
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
from functools import reduce
from typing import Any, Final

import msgspec
from jmespath import functions, visitor

from usageflow._types import JSON
from usageflow.events import QUANTITY_DECIMALS_MAX

EVALUATION_STEPS_MAX: Final = 20_000
"""Steps of one evaluation; a step is about 0.3 µs and never more than 0.5. Unbounded, 265
characters can keep a processor busy for 11 s."""
EVALUATION_DIGITS_MAX: Final = 1_000
"""Digits of an exact intermediate result; far above what a quantity may have, far below a bomb."""

_EXACT: Final = Context(
    prec=EVALUATION_DIGITS_MAX, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow]
)
_ROUNDING: Final = Context(prec=EVALUATION_DIGITS_MAX, rounding=ROUND_HALF_UP)
_LAST_DECIMAL: Final = Decimal(1).scaleb(-QUANTITY_DECIMALS_MAX)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
"""RFC 8259, section 6; what JMESPath's to_number reads."""
_CALL_STEPS: Final = 6
"""The package looks a function up and checks its arguments before it is called."""
_COMPARISON_STEPS: Final = 2
"""The package asks of both sides what they are."""
_TEXT_CHARS_PER_STEP: Final = 128
"""Text is handled so much faster than nodes; one step covers this many characters."""
_INDIFFERENT: Final = frozenset(("length", "not_null", "to_array", "type"))
"""Functions that take no longer for more elements."""
_encoder = msgspec.json.Encoder(decimal_format="number")


class Budget:
    """The work that may still be done, in steps. Raises TimeoutError when it is spent.

    A few characters can ask for 2^n elements by taking one value twice, again and again. So what is
    built or compared is weighed as the tree it stands for; what is merely selected is not.
    """

    __slots__ = ("steps",)

    def __init__(self, steps: int = EVALUATION_STEPS_MAX) -> None:
        self.steps = steps

    def charge(self, steps: int) -> None:
        """Spend `steps`."""
        self.steps -= steps
        if self.steps < 0:
            raise TimeoutError

    def weigh(self, value: JSON) -> None:
        """Spend a step for each value in this one."""
        waiting = [value]
        while waiting:
            item = waiting.pop()
            self.charge(_size(item))
            if isinstance(item, list):
                waiting.extend(item)
            elif isinstance(item, dict):
                waiting.extend(item.values())


def evaluate(tree: JSON, document: JSON, budget: Budget) -> JSON:
    """The value that a syntax tree of the package yields for `document`.

    Raises TimeoutError where the budget ends, ArithmeticError for what cannot be exact,
    JMESPathTypeError for arguments of the wrong type, and whatever else the package raises.
    """
    with localcontext(_EXACT):
        return _Interpreter(budget).visit(tree, document)


def _size(value: JSON) -> int:
    """The steps that one look at each element takes."""
    if isinstance(value, str):
        return 1 + len(value) // _TEXT_CHARS_PER_STEP
    return len(value) if isinstance(value, list | dict) else 1


def _ordering(values: list[Any]) -> int:
    """The steps that comparing n·log n times takes."""
    return len(values) * len(values).bit_length() // 4


def _rounded(dividend: Decimal, divisor: Decimal) -> Decimal:
    """The quotient, rounded half up to the decimals of a quantity if it has more of them."""
    exact = _ROUNDING.divide(dividend, divisor)
    rounded = exact.quantize(_LAST_DECIMAL, context=_ROUNDING)
    return exact if exact == rounded else rounded


class _Functions(functions.Functions):
    """JMESPath's functions with Decimal as a number, arithmetic, and no way to build a bomb."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def call_function(self, function_name: str, resolved_args: Any) -> Any:
        sizes = () if function_name in _INDIFFERENT else map(_size, resolved_args)
        self._budget.charge(_CALL_STEPS + sum(sizes))
        return super().call_function(function_name, resolved_args)

    def _type_check(self, actual: Any, signature: Any, function_name: str) -> None:
        # The package leaves all arguments unchecked that a signature does not name one by one.
        more = len(actual) - len(signature)
        super()._type_check(actual, (*signature, *signature[-1:] * more), function_name)  # type: ignore[misc]

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

    @functions.signature({"types": ["number"]}, {"types": ["number"], "variadic": True})
    def _func_add(self, *args: int | Decimal) -> Decimal:
        return reduce(operator.add, map(Decimal, args))

    @functions.signature({"types": ["number"]}, {"types": ["number"]})
    def _func_sub(self, minuend: int | Decimal, subtrahend: int | Decimal) -> Decimal:
        return Decimal(minuend) - Decimal(subtrahend)

    @functions.signature({"types": ["number"]}, {"types": ["number"], "variadic": True})
    def _func_mul(self, *args: int | Decimal) -> Decimal:
        return reduce(operator.mul, map(Decimal, args))

    @functions.signature({"types": ["number"]}, {"types": ["number"]})
    def _func_div(self, dividend: int | Decimal, divisor: int | Decimal) -> Decimal:
        if not divisor:
            raise ZeroDivisionError
        return _rounded(Decimal(dividend), Decimal(divisor))

    @functions.signature({"types": ["array-number"]})
    def _func_avg(self, arg: list[int | Decimal]) -> Decimal | None:
        return _rounded(sum(map(Decimal, arg), Decimal()), Decimal(len(arg))) if arg else None

    @functions.signature({"types": ["number"]})
    def _func_ceil(self, arg: int | Decimal) -> Decimal:
        return Decimal(arg).to_integral_value(ROUND_CEILING)

    @functions.signature({"types": ["array", "string"]}, {"types": []})
    def _func_contains(self, subject: list[JSON] | str, search: JSON) -> bool:
        self._budget.weigh(subject)
        return search in subject

    @functions.signature({"types": ["number"]})
    def _func_floor(self, arg: int | Decimal) -> Decimal:
        return Decimal(arg).to_integral_value(ROUND_FLOOR)

    @functions.signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, separator: str, array: list[str]) -> str:
        chars = len(separator) * len(array) + sum(map(len, array))
        self._budget.charge(chars // _TEXT_CHARS_PER_STEP)
        return separator.join(array)

    @functions.signature({"types": ["array-string", "array-number"]})
    def _func_sort(self, arg: list[Any]) -> list[Any]:
        self._budget.charge(_ordering(arg))
        return sorted(arg)

    @functions.signature({"types": ["array"]}, {"types": ["expref"]})
    def _func_sort_by(self, array: list[Any], expref: Any) -> list[Any]:
        self._budget.charge(_ordering(array))
        return list(super()._func_sort_by(array, expref))  # type: ignore[misc]

    @functions.signature({"types": []})
    def _func_to_string(self, arg: JSON) -> str:
        if isinstance(arg, str):
            return arg
        self._budget.weigh(arg)
        text = _encoder.encode(arg).decode()
        self._budget.charge(_size(text))
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
    """Evaluates syntax trees, spending a budget. Raises TimeoutError when that is spent."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        super().__init__(visitor.Options(custom_functions=_Functions(budget)))

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        budget = self._budget
        budget.steps -= 1
        if budget.steps < 0:
            raise TimeoutError
        return _VISITS[node["type"]](self, node, *args, **kwargs)

    def visit_field(self, node: Any, value: Any) -> Any:
        return value.get(node["value"]) if isinstance(value, dict) else None

    def visit_comparator(self, node: Any, value: Any) -> Any:
        self._budget.charge(_COMPARISON_STEPS)
        compared = [self.visit(child, value) for child in node["children"]]
        left, right = compared
        if isinstance(left, list | dict) and type(left) is type(right) and len(left) == len(right):
            self._budget.weigh(left)
        literals = [{"type": "literal", "value": found} for found in compared]
        settled: Any = {**node, "children": literals}
        return super().visit_comparator(settled, value)

    def visit_flatten(self, node: Any, value: Any) -> Any:
        flat = super().visit_flatten(node, value)
        self._budget.charge(_size(flat))
        return flat

    def visit_multi_select_list(self, node: Any, value: Any) -> Any:
        return self._weighed(super().visit_multi_select_list(node, value))

    def visit_multi_select_dict(self, node: Any, value: Any) -> Any:
        return self._weighed(super().visit_multi_select_dict(node, value))

    def _weighed(self, value: JSON) -> JSON:
        self._budget.weigh(value)
        return value


_VISITS: Final = {
    name.removeprefix("visit_"): method
    for name, method in inspect.getmembers(_Interpreter, inspect.isfunction)
    if name.startswith("visit_")
}
"""The method for each type of node; the package looks it up anew for every interpreter."""
FUNCTIONS: Final = _Functions.FUNCTION_TABLE
"""The functions that there are, with their signatures."""
