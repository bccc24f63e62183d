"""JMESPath: what is refused when it is written, and what an expression is known to take."""

from decimal import Decimal

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.expressions import Expression

D = Decimal


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
        ("add(a)", r"arguments for add\(\): 1, not at least 2"),
        ("div(a, b, c)", r"arguments for div\(\): 3, not 2"),
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
        ("response.body.usage.n", {("response", "body", "usage", "n")}),
        ("request.bytes", {("request", "bytes")}),
        ("@.request.bytes", {("request", "bytes")}),
        ("sum(response.body.items[*].n)", {("response", "body", "items")}),
        ("sum(response.body.i[?n > `1`].request.body)", {("response", "body", "i")}),
        ("response.body.i[0].n", {("response", "body", "i")}),
        ("response.body.i[:2].n", {("response", "body", "i")}),
        (
            "response.body.a || request.body.b",
            {("response", "body", "a"), ("request", "body", "b")},
        ),
        ("response.body | usage.n", {("response", "body")}),
        ("response | body.n", {("response",)}),
        ("response.*", {("response",)}),
        ("length(response)", {("response",)}),
        ("response.{a: body}", {("response",)}),
        ("response.body.{a: n}.a", {("response", "body")}),
        ("max_by(response.body, &request.body).n", {("response", "body")}),
        ("{a: request.bytes, b: [response.bytes]}", {("request", "bytes"), ("response", "bytes")}),
        ("length(@)", {()}),
        ("*.body", {()}),
        ("`5`", set()),
    ],
)
def test_mentions_are_the_paths_into_the_document(
    text: str, mentions: set[tuple[str, ...]]
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
        ("@", None),
        ("@.a", ("a",)),
    ],
)
def test_a_chain_of_names_is_recognised(text: str, keys: tuple[str, ...] | None) -> None:
    """Only a chain of member names may take the fast way."""
    assert Expression(text).keys == keys


@pytest.mark.parametrize(
    ("text", "yields"),
    [
        ("a.b", None),
        ("sum(a)", None),
        ("a || 'x'", None),
        ("a[0]", None),
        ("`5`", None),
        ("'x'", "text"),
        ("`true`", "a boolean"),
        ("`null`", "no number"),
        ("a[*].b", "a list"),
        ("a.*", "a list"),
        ("a[]", "a list"),
        ("a[?b]", "a list"),
        ("a | [b, c]", "a list"),
        ("a.{b: c}", "an object"),
        ("a > b", "a boolean"),
        ("!a", "a boolean"),
        ("to_string(a)", "text"),
        ("keys(a)", "a list"),
        ("merge(a, b)", "an object"),
        ("a[*].b || 'x'", "a list"),
        ("'x' && a", None),
    ],
)
def test_what_can_never_be_a_number_is_known(text: str, yields: str | None) -> None:
    """From the expression alone, whatever the document holds."""
    assert Expression(text).yields == yields


DOCUMENTS = [{"a": {"b": {"c": 5}}}, {"a": {"b": 5}}, {"a": [{"b": 1}]}, {}, [], "a", None]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_chain_finds_what_the_package_does(document: object) -> None:
    """The short cut past the parser changes nothing but the time."""
    assert Expression("a.b.c").search(document) == jmespath.search("a.b.c", document)


def test_the_same_text_is_compiled_once() -> None:
    """Policies that share a quantity share its compiled expression."""
    assert Expression.of("sum(a[].b)") is Expression.of("sum(a[].b)")


@given(st.text(alphabet="ab.[]*?@&`'\"|{}:,()!=<>01 sum", max_size=40))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    """No expression escapes with another exception, and what compiles can be evaluated."""
    try:
        expression = Expression(text)
    except ValueError:
        return
    expression.search({"a": [1, D("0.5"), {"b": "s"}], "b": None})
    if expression.yields is not None:
        found = expression.search({"a": 5})
        assert isinstance(found, bool) or not isinstance(found, int | Decimal)
