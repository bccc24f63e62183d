"""JMESPath: exact numbers, bounded work, reasons instead of exceptions."""

import time
from decimal import Decimal
from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.expressions import EVALUATION_STEPS_MAX, Expression
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
    for _ in range(100_000):
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
    ],
)
def test_an_expression_cannot_keep_the_processor(text: str, document: Any) -> None:
    """Doubling a value again and again stops at the limit, long before it hurts."""
    before = time.process_time()
    found = Expression(text).search(document)
    assert found == Reason(f"the expression needs more than {EVALUATION_STEPS_MAX} steps")
    assert time.process_time() - before < 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("a" * 1_025, "1025 characters; at most 1024"),
        ("a[", "^column 3: the expression is incomplete"),
        ("a.", "^column 3: the expression is incomplete"),
        ("a b", "^column 3: Unexpected token: b"),
        ("a.$", "^column 3: Unknown token"),
        ('"\\ud8"', "^column 1: Invalid"),
        ("a == `NaN`", "^column 6: text between backticks must be JSON"),
        ("`x`", "text between backticks must be JSON"),
        ("a>`1e400`", "^column 3: a number with too many digits"),
        ("`0.10000000000000000001`", "a number with too many digits"),
        ("`1e99999999999999999999`", "text between backticks must be JSON"),
        ("summ(a)", r'no function summ\(\); did you mean "sum"'),
        ("a[?nope(b)]", r"no function nope\(\)$"),
        ("sum(a, b)", r"arguments for sum\(\): 2, not 1"),
        ("not_null()", r"arguments for not_null\(\): 0, not at least 1"),
        ("!" * 60 + "a", "nested too deeply"),
        ("!" * 1_000 + "a", "nested too deeply"),
    ],
)
def test_a_wrong_expression_is_refused_with_its_column(text: str, message: str) -> None:
    """What can never yield a value is found when the policy is written."""
    with pytest.raises(ValueError, match=message):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("response.body.usage.n", {("response", "body")}),
        ("request.bytes", {("request", "bytes")}),
        ("sum(response.body.items[*].n)", {("response", "body")}),
        ("sum(response.body.items[?n > `1`].request.body)", {("response", "body")}),
        ("response.body.a || request.body.b", {("response", "body"), ("request", "body")}),
        ("response.body | usage.n", {("response", "body")}),
        ("response | body.n", {("response", None)}),
        ("response.*", {("response", None)}),
        ("length(response)", {("response", None)}),
        ("response.{a: body}", {("response", None)}),
        ("max_by(response.body, &request.body).n", {("response", "body")}),
        ("{a: request.bytes, b: [response.bytes]}", {("request", "bytes"), ("response", "bytes")}),
        ("length(@)", {(None, None)}),
        ("*.body", {(None, None)}),
        ("`5`", set()),
    ],
)
def test_mentions_are_the_paths_into_the_document(
    text: str, mentions: set[tuple[str | None, str | None]]
) -> None:
    """What an expression may take from the document is known without evaluating it."""
    assert Expression(text).mentions == mentions


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a", ("a",)),
        ("a.b.c", ("a", "b", "c")),
        ('a."b-c"', ("a", "b-c")),
        ("a[0].b", None),
        ("a.b || c", None),
    ],
)
def test_a_chain_of_names_is_recognised(text: str, keys: tuple[str, ...] | None) -> None:
    """Only a chain of member names may take the fast way."""
    assert Expression(text).keys == keys


def test_the_package_is_left_as_it_was() -> None:
    """An app that uses jmespath itself sees none of our changes."""
    Expression("max([`0.5`])").search({})
    assert jmespath.search("max([`0.5`])", {}) == 0.5
    assert isinstance(jmespath.search("`0.5`", {}), float)


@given(st.text(alphabet="ab.[]*?@&`'\"|{}:,()!=<>01 sum", max_size=40))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    """No expression escapes with another exception, and what compiles can be evaluated."""
    try:
        expression = Expression(text)
    except ValueError:
        return
    expression.search({"a": [1, D("0.5"), {"b": "s"}], "b": None})
