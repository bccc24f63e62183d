"""What expressions evaluate to: exact numbers, bounded work, reasons instead of exceptions."""

from decimal import Decimal
from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.expressions import Expression
from usageflow.policies.interpreter import EVALUATION_STEPS_MAX, Budget
from usageflow.policies.reason import Reason

D = Decimal


@pytest.mark.parametrize(
    ("text", "document", "value"),
    [
        ("sum(@)", [D("0.1")] * 10, D(1)),
        ("sum(@)", [10**30, D("1E-12")], D("1000000000000000000000000000000.000000000001")),
        ("sum(@)", [], 0),
        ("max(@)", [1, D("1.0000000000000000001")], D("1.0000000000000000001")),
        ("min(@)", [D("0.1"), D("0.10000000000000000001")], D("0.1")),
        ("sort(@)[0]", [D("1.5"), 1], 1),
        ("avg(@)", [1, 2], D("1.5")),
        ("avg(@)", [D("0.1"), D("0.2"), D("0.3")], D("0.2")),
        ("avg(@)", [1, 2, 2], D("1.666666666667")),
        ("avg(@)", [], None),
        ("abs(@)", D("-0.3"), D("0.3")),
        ("ceil(@)", D("1.1"), 2),
        ("floor(@)", D("-1.1"), -2),
        ("ceil(@)", D("1E+999999999"), D("1E+999999999")),
        ("to_number(@)", "0.1", D("0.1")),
        ("to_number(@)", "1e400", D("1E+400")),
        ("to_number(@)", "1_000", None),
        ("to_number(@)", "NaN", None),
        ("to_number(@)", "", None),
        ("to_number(@)", True, None),
        ("to_number(@)", D("0.1"), D("0.1")),
        ("to_number(@)", [1], None),
        ("to_string(@)", D("0.10"), "0.10"),
        ("to_string(@)", "x", "x"),
        ("to_string(@)", {"a": [1, D("0.1")]}, '{"a":[1,0.1]}'),
        ("type(@)", D("0.1"), "number"),
        ("type(@)", True, "boolean"),
        ("type(@)", None, "null"),
        ("join('-', @)", ["a", "b"], "a-b"),
        ("max_by(@, &n).n", [{"n": D("1.5")}, {"n": 1}], D("1.5")),
        ("sort_by(@, &n)[0].n", [{"n": D("1.5")}, {"n": 1}], 1),
        ("@ > `0.1`", D("0.10000000000000000001"), True),
        ("@ == `0.1`", D("0.1"), True),
        ("@ == `true`", 1, False),
        ("`0.1`", None, D("0.1")),
        ('`[0.5, {"a": 1.5}]`', None, [D("0.5"), {"a": D("1.5")}]),
        ("'\\\\`'", None, "\\\\`"),
        ('`"a\\`b"`', None, "a`b"),
        ("a[*].b[]", {"a": [{"b": [1]}, {"b": [2]}]}, [1, 2]),
        ("{x: a, y: [a]}", {"a": 1}, {"x": 1, "y": [1]}),
        ("length(@)", "x" * 1_000_000, 1_000_000),
        ("length(@)", [1] * 100_000, 100_000),
        ("sum(@[].qty)", [{"qty": D("0.5")}] * 5_000, 2_500),
        ("add(@, `1`)", D("0.1"), D("1.1")),
        ("add(@, `1`, `2`, `3`)", 4, 10),
        ("sub(@, `0.3`)", D("0.1"), D("-0.2")),
        ("mul(@, `0.1`, `0.1`)", 3, D("0.03")),
        ("mul(@, @)", 10**30, 10**60),
        ("div(@, `3`)", 2, D("0.666666666667")),
        ("div(@, `8`)", 1, D("0.125")),
        ("div(@, `2000000000000`)", D("0.5"), 0),
        ("div(@, `200000000000`)", D("0.1"), D("0.000000000001")),
        ("div(@, `-3`)", 2, D("-0.666666666667")),
        ("contains(@, `2`)", [1, 2], True),
        ("contains(@, 'b')", "abc", True),
        ("[?@ != `1`] | length(@)", [1, 2, 3], 2),
        ("a < b", {"a": "x", "b": "y"}, True),
        ("a < b", {"a": [1], "b": "y"}, None),
        ("a == b", {"a": [1, {"x": 2}], "b": [1, {"x": 2}]}, True),
        ("not_null(@, `1`)", None, 1),
        ("type(@)", [1], "array"),
    ],
)
def test_numbers_are_exact(text: str, document: Any, value: Any) -> None:
    """A Decimal is a number in every function and comparison, and no result is a binary float."""
    found = Expression(text).search(document)
    assert found == value
    assert not isinstance(found, float)


@pytest.mark.parametrize(
    ("text", "document", "reason"),
    [
        ("sum(@)", ["secret"], "sum() got str, not array-number"),
        ("sum(@)", None, "sum() got null, not array-number"),
        ("max_by(@, &n)", [{"n": True}], "max_by() got boolean, not number or string"),
        ("max_by(@, &n)", [{"n": 1}, {"n": "x"}], "cannot be evaluated: TypeError"),
        ("contains(@, `1`)", "secret", "cannot be evaluated: TypeError"),
        ("sum(@)", [D("1E+2000"), 1], "more than 1000 digits"),
        ("to_number(@)", "1e99999999999999999999999", "more than 1000 digits"),
        ("sum(@)", [D("sNaN")], "more than 1000 digits"),
        ("add(@, 'secret')", 1, "add() got string, not number"),
        ("add(@, @, 'secret')", 1, "add() got string, not number"),
        ("add(@, @, `true`)", 1, "add() got boolean, not number"),
        ("sub(@, n)", 1, "sub() got null, not number"),
        ("merge(@, @, 'secret')", {}, "merge() got string, not object"),
        ("div(@, `0`)", 1, "division by zero"),
        ("div(@, `0`)", 0, "division by zero"),
        ("div(`1`, @)", D("-0.0"), "division by zero"),
        ("add(@, `1`)", D("1E+2000"), "more than 1000 digits"),
        ("mul(@, @)", 10**700 + 1, "more than 1000 digits"),
    ],
)
def test_what_fails_is_a_reason_that_quotes_nothing(text: str, document: Any, reason: str) -> None:
    """A wrong type or size is a value with words; the document's content stays private."""
    found = Expression(text).search(document)
    assert isinstance(found, Reason)
    assert reason in found.text
    assert "secret" not in found.text


def test_a_document_that_is_too_deep_is_a_reason() -> None:
    """Comparing what is nested beyond Python's stack ends in words."""
    deep: list[Any] = []
    other: list[Any] = []
    for _ in range(10_000):
        deep, other = [deep], [other]
    found = Expression("a == b").search({"a": deep, "b": other})
    assert found == Reason("the expression meets values nested too deeply")


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("[@,@]|" * 40 + "@", 1),
        ("[@,@][]|" * 40 + "length(@)", 1),
        ("{a:@,b:@}|" * 40 + "@", 1),
        ("join('',[@,@])|" * 40 + "@", "x"),
        ("to_string([@,@])|" * 40 + "@", "x"),
        ("map(&map(&map(&[@,@],@),@),@)", [[[1] * 40] * 40] * 40),
        ("join(to_string(@), @)", ["x" * 10] * 20_000),
        ("[*][*][*]", [[[1] * 60] * 60] * 60),
        ("[@,@][]|" * 40 + "@", "x"),
        ("[?qty > `1` && p < `1` || s == 'a'].qty", [{"qty": D(2), "p": 3}] * 9_000),
        ("(@ == @ && @ == @) && (@ == @ && @ == @) && @", [[1] * 100] * 100),
        ("(contains(@, `2`) || `1`) && contains(@, `2`)", [[1] * 150] * 100),
        ("sort(@)|" * 3 + "@", [D(n) / 7 for n in range(3_000)]),
        ("sort_by(@, &@)|" * 2 + "@", list(range(3_000))),
        ("[].div(@, `7`)", [D("0.5")] * 9_000),
    ],
)
def test_an_expression_cannot_keep_the_processor(text: str, document: Any) -> None:
    """Doubling a value again and again, and looking at much in turn, stop at the limit of steps."""
    found = Expression(text).search(document)
    assert found == Reason(f"the expression needs more than {EVALUATION_STEPS_MAX} steps")


def test_the_package_is_left_as_it_was() -> None:
    """An app that uses jmespath itself sees none of our changes."""
    Expression("max([`0.5`])").search({})
    assert jmespath.search("max([`0.5`])", {}) == 0.5
    assert isinstance(jmespath.search("`0.5`", {}), float)


@given(st.integers(), st.integers().filter(bool))
def test_a_quotient_is_the_nearest_quantity(dividend: int, divisor: int) -> None:
    """Rounded half away from zero at the twelfth decimal, as an invoice would."""
    found = Expression("div(a, b)").search({"a": dividend, "b": divisor})
    scaled = abs(dividend) * 10**12
    nearest = (2 * scaled + abs(divisor)) // (2 * abs(divisor))
    sign = -1 if (dividend < 0) != (divisor < 0) else 1
    assert found == D(f"{sign * nearest}E-12")


def test_a_budget_is_shared() -> None:
    """What one evaluation spends, the next one has not."""
    budget = Budget(10)
    expression = Expression("a.b.c || @")
    assert expression.search({"a": {"b": {"c": 1}}}, budget) == 1
    assert expression.search({"a": {"b": {"c": 1}}}, budget) == 1
    assert isinstance(expression.search({"a": {"b": {"c": 1}}}, budget), Reason)
