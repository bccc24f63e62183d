"""How much a request is worth: exact numbers, and reasons instead of guesses."""

import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow._types import Headers
from usageflow.policies.facts import Facts
from usageflow.policies.quantity import compile_quantity
from usageflow.policies.reason import Reason
from usageflow.policies.routes import parse_template

TOKENS = "response.body.usage.total_tokens"
SAME_THE_LONG_WAY = "response.body.[usage][0].total_tokens"


def measured(
    quantity: Decimal | str, seen: Facts, *, template: str = "/a/:id", path: str = "/a/1"
) -> Decimal | Reason:
    """What a quantity yields for these facts."""
    return compile_quantity(quantity, parse_template(template)).read(seen, path.split("/"))


def usage(value: str) -> bytes:
    """A response that reports this JSON as its tokens, among other things."""
    return b'{"id": "r", "usage": {"a": 1, "total_tokens": %s}, "n": [1, 2]}' % value.encode()


def test_a_constant_needs_nothing(facts: Callable[..., Facts]) -> None:
    """A number is that number, whatever was sent."""
    assert measured(Decimal("0.25"), facts(response=b"x")) == Decimal("0.25")


@pytest.mark.parametrize("expression", [TOKENS, SAME_THE_LONG_WAY])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("42", "42"),
        ("0", "0"),
        ("-0", "0"),
        ("0.1", "0.1"),
        ("1e3", "1000"),
        ("1.50", "1.50"),
        ("1.000000000001", "1.000000000001"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
    ],
)
def test_a_number_in_the_response_is_exact(
    facts: Callable[..., Facts], expression: str, value: str, text: str
) -> None:
    """The fast and the general way yield the same digits, without an exponent; 0 is 0."""
    found = measured(expression, facts(response=usage(value)))
    assert str(found) == text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "response body is empty"),
        (b"plain text", "response body is not JSON: JSON is malformed: invalid character (byte 0)"),
        (b'{"usage": {"total_tokens": NaN}}', "response body is not JSON: JSON is malformed"),
        (b'{"usage": {"total_tokens": 5}', "response body is not JSON: Input data was truncated"),
        (b'{"x": "\xff", "usage": {"total_tokens": 5}}', "response body is not JSON: it is not"),
        (
            b'{"x": 01, "usage": {"total_tokens": 5}}',
            "response body is not JSON: JSON is malformed",
        ),
        (b"[" * 10_000, "response body is nested too deeply"),
        (usage("1" * 5_000), f"{TOKENS} holds a number with too many digits"),
        (b"{}", f"{TOKENS} is missing"),
        (b"[1]", f"{TOKENS} is missing"),
        (b"null", f"{TOKENS} is missing"),
        (b'{"usage": null}', f"{TOKENS} is missing"),
        (b'{"usage": {}}', f"{TOKENS} is missing"),
        (usage("null"), f"{TOKENS} is null"),
        (usage("true"), f"{TOKENS} is a boolean, not a number"),
        (usage('"42"'), f"{TOKENS} is text, not a number"),
        (usage("[42]"), f"{TOKENS} is a list, not a number"),
        (usage('{"n": 42}'), f"{TOKENS} is an object, not a number"),
        (usage("-1"), f"{TOKENS}: negative"),
        (usage("-0.5"), f"{TOKENS}: negative"),
        (usage("1e400"), f"{TOKENS}: 401 digits; at most 38 are kept"),
        (usage("1" + "0" * 100), f"{TOKENS}: 101 digits; at most 38 are kept"),
        (usage("1" + "0" * 400), f"{TOKENS} holds a number with too many digits"),
        (usage("1e999999999"), f"{TOKENS}: 1000000000 digits"),
        (usage("0.0000000000001"), f"{TOKENS}: 13 digits after the point"),
    ],
)
def test_what_is_no_quantity_says_why(
    facts: Callable[..., Facts], body: bytes, reason: str
) -> None:
    """Nothing unmeasurable is counted as 0 or 1, and the reason names the place."""
    found = measured(TOKENS, facts(response=body))
    assert isinstance(found, Reason)
    assert found.text.startswith(reason)


def test_the_last_of_equal_keys_counts_on_both_ways(facts: Callable[..., Facts]) -> None:
    """Duplicate keys mean the same for the fast way as for every JSON parser."""
    body = b'{"usage": {"total_tokens": 1}, "usage": {"total_tokens": 2, "total_tokens": 3}}'
    for expression in (TOKENS, SAME_THE_LONG_WAY):
        assert measured(expression, facts(response=body)) == 3
    late = b'{"usage": {}, "usage": {"total_tokens": 4}}'
    gone = b'{"usage": {"total_tokens": 4}, "usage": {}}'
    assert measured(TOKENS, facts(response=late)) == 4
    assert measured(TOKENS, facts(response=gone)) == Reason(f"{TOKENS} is missing")


def test_a_body_that_was_not_kept_is_no_guess(facts: Callable[..., Facts]) -> None:
    """The edge's problem is the reason, even where the expression has something to fall back on."""
    seen = facts(response=b"x" * 2_000_000)
    for expression in (TOKENS, f"{TOKENS} || `1`"):
        assert measured(expression, seen) == Reason(
            "response body: larger than body_bytes_max (1048576 bytes)"
        )


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("sum(response.body.items[].n)", "0.3"),
        ("length(response.body.items)", "2"),
        ("max(response.body.items[*].n)", "0.2"),
        ("response.body.items[?name=='b'].n | [0]", "0.2"),
        ('response.body."odd key"', "7"),
        ("to_number(request.query.n)", "5"),
        ("length(request.query.twice)", "2"),
        ('to_number(request.headers."x-units")', "2.5"),
        ('length(request.headers."x-two")', "4"),
        ("to_number(response.headers.cost)", "9"),
        ("to_number(request.params.id)", "1"),
        ("length(request.method)", "4"),
        ("length(request.path)", "4"),
        ("request.bytes", "16"),
        ("response.bytes", "78"),
        ("response.status", "200"),
        ("response.duration_ms", "12"),
        ("request.body.batch[0]", "8"),
        ("request.body.missing || `3`", "3"),
        ("length(response)", "5"),
    ],
)
def test_the_document_holds_the_request_and_the_response(
    facts: Callable[..., Facts], expression: str, value: str
) -> None:
    """Everything the documentation names can be used in an expression."""
    seen = facts(
        path="/a/1",
        query_string=b"n=5&twice=a&twice=b",
        request=b'{"batch": [8]}  ',
        response=b'{"items": [{"name": "a", "n": 0.1}, {"name": "b", "n": 0.2}], "odd key": 7}   ',
        request_headers=[(b"x-units", b"2.5"), (b"x-two", b"a"), (b"x-two", b"b")],
        response_headers=[(b"cost", b"9")],
    )
    assert str(measured(expression, seen)) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("sum(response.body.items[].name)", "sum(response.body.items[].name): sum() got str"),
        ("response.body.items[9].n", "response.body.items[9].n is null"),
        ("response.body.items", "response.body.items is a list"),
        ("response.body.items[0].name", "response.body.items[0].name is text"),
        ("request.body.n", "request body is empty"),
        ("request.params.nope", "request.params.nope is missing"),
        ("to_number(request.headers.nope)", "to_number(request.headers.nope) is null"),
        ("response.body.items[9].n" + " " * 100, "the quantity is null"),
        ("avg(response.body.items[].nope)", "avg(response.body.items[].nope) is null"),
    ],
)
def test_an_expression_that_yields_no_number_says_why(
    facts: Callable[..., Facts], expression: str, reason: str
) -> None:
    """Whatever an expression ends in, it is a quantity or a reason that names it."""
    seen = facts(request=b"", response=b'{"items": [{"name": "a", "n": 1}]}')
    found = measured(expression, seen)
    assert isinstance(found, Reason)
    assert found.text.startswith(reason)


def test_a_status_that_never_came_is_null(facts: Callable[..., Facts]) -> None:
    """Without a response there is no status to count by."""
    assert measured("response.status", facts(status=None)) == Reason("response.status is null")


FORM = [(b"content-type", b"application/x-www-form-urlencoded")]


@pytest.mark.parametrize(
    ("expression", "headers", "body", "value"),
    [
        ("request.body.usage.n", [], b'{"usage": {"n": 0.5}}', "0.5"),
        ("to_number(request.body.n)", FORM, b"n=7", "7"),
        ("request.body.n", FORM, b"n=7", "request.body.n is text, not a number"),
        ("request.body.m", FORM, b"n=7", "request.body.m is missing"),
        (
            "request.body.n",
            [(b"content-type", b"application/json; charset=utf-16")],
            '{"n": 7}'.encode("utf-16-le"),
            "7",
        ),
        ("request.body.n", [(b"content-type", b"x/y; charset=?")], b'{"n": 7}', "request body has"),
        ('request.body."a\\"b"', [], b'{"a\\"b": 7}', "7"),
        ("request.body", [], b"7", "7"),
    ],
)
def test_the_request_is_read_like_the_response(
    facts: Callable[..., Facts], expression: str, headers: Headers, body: bytes, value: str
) -> None:
    """By its content type, which says whether there is a number to be found at once."""
    found = measured(expression, facts(request=body, request_headers=headers))
    text = found.text if isinstance(found, Reason) else str(found)
    assert text.startswith(value)


def test_a_large_body_is_measured_where_the_number_has_a_place(
    facts: Callable[..., Facts],
) -> None:
    """What is too costly to read as a whole is a reason only for what needs the whole."""
    seen = facts(
        response=b'{"x": [%b], "usage": {"total_tokens": 7}}' % b",".join([b"[]"] * 200_000)
    )
    assert measured(TOKENS, seen) == 7
    too_many = Reason("response body holds too many values to be measured")
    assert measured(SAME_THE_LONG_WAY, seen) == too_many


def test_a_websocket_has_counters(facts: Callable[..., Facts]) -> None:
    """Under the names of the documentation; other requests have none."""
    seen = facts(websocket={"messages": 3, "seconds": Decimal("1.5")})
    assert measured("websocket.messages", seen) == 3
    assert measured("mul(websocket.seconds, `2`)", seen) == 3
    assert measured("websocket.messages", facts()) == Reason(
        "websocket.messages is not of this request"
    )


@pytest.mark.parametrize(
    ("expression", "taken"),
    [
        ("websocket.sent.n", Decimal(3)),
        ("websocket.received.n", Decimal(10)),
        ("websocket.sent.n || websocket.received.n", Decimal(13)),
        ("length(websocket.sent)", Decimal(3)),
        ("websocket.sent.s", Reason("websocket.sent.s is text, not a number")),
        ("websocket.sent.nope", None),
        ("add(websocket.sent.m, `1`)", None),
    ],
)
def test_messages_are_measured_one_by_one(
    facts: Callable[..., Facts], expression: str, taken: Decimal | Reason | None
) -> None:
    """In the direction that the expression names; what is no JSON has no value."""
    begin = compile_quantity(expression, parse_template("/"), "sum").tally
    assert begin is not None
    tally = begin(facts(), [""])
    tally.add(b'{"n": 10}', "received")
    tally.add(b'{"n": 1}', "sent")
    tally.add(b'{"n": 2, "s": "x"}', "sent")
    tally.add(b"binary", "sent")
    assert tally.take() == taken
    assert tally.take() is None
    assert tally.result() == Reason(f"{expression} is in no message")


@pytest.mark.parametrize("quantity", [Decimal(1), "request.body.n", "response.bytes", "`5`"])
def test_what_takes_nothing_piece_by_piece_has_no_tally(quantity: Decimal | str) -> None:
    """It is read from the complete exchange, stream or not."""
    compiled = compile_quantity(quantity, parse_template("/"))
    assert compiled.tally is None
    assert compiled.constant == (quantity if isinstance(quantity, Decimal) else None)


def test_each_event_is_measured_beside_the_facts_as_they_are_by_then(
    facts: Callable[..., Facts],
) -> None:
    """What grows is read anew; what a request was once is read once."""
    seen = facts(query_string=b"n=2", response=b"")
    expression = "mul(response.body.n, response.bytes, to_number(request.query.n))"
    begin = compile_quantity(expression, parse_template("/"), "sum").tally
    assert begin is not None
    tally = begin(seen, [""])
    for size in (1, 10, 100):
        seen.response_body.bytes_total = size
        tally.add(b'{"n": 1}')
    assert tally.take() == 222
    seen.query_string = b"n=1000"  # which cannot happen: nobody looks again
    tally.add(b'{"n": 1}')
    assert tally.take() == 200


def test_an_event_beyond_our_limits_is_not_passed_over(facts: Callable[..., Facts]) -> None:
    """What is JSON but too deep or too large may hold the value: nobody knows."""
    for event in (b'{"n": %b}' % (b"[" * 9_000 + b"]" * 9_000), b'{"n": %b}' % (b"1" * 200)):
        for expression in ("response.body.n", "add(response.body.n, `0`)"):
            begin = compile_quantity(expression, parse_template("/")).tally
            assert begin is not None
            tally = begin(facts(), [""])
            tally.add(event)
            assert isinstance(tally.take(), Reason)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.decimals(allow_nan=False, allow_infinity=False).map(float),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["usage", "total_tokens", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values)
def test_the_fast_way_agrees_with_the_general_one(
    facts: Callable[..., Facts], document: object
) -> None:
    """Skipping what is not needed changes no number, and finds one exactly where there is one."""
    seen = facts(response=json.dumps(document).encode())
    fast, slow = measured(TOKENS, seen), measured(SAME_THE_LONG_WAY, seen)
    if isinstance(slow, Decimal):
        assert fast == slow
    else:
        assert isinstance(fast, Reason)


@given(st.decimals(0, 10**25, allow_nan=False, allow_infinity=False, places=12))
def test_exact_decimals_survive(facts: Callable[..., Facts], number: Decimal) -> None:
    """What the app reported is what is counted, to the last digit."""
    seen = facts(response=usage(f"{number:f}"))
    assert str(measured(TOKENS, seen)) == str(Decimal(f"{number:f}"))


@given(body=st.binary(max_size=80), headers=st.lists(st.tuples(st.binary(), st.binary())))
def test_nothing_makes_a_quantity_raise(
    facts: Callable[..., Facts], body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Any bytes in bodies, headers and query are a number or a reason."""
    seen = facts(
        request=body,
        response=body,
        request_headers=headers,
        response_headers=headers,
        query_string=body,
    )
    for expression in (TOKENS, "sum(response.body)", "length(@)", "to_number(request.query.a)"):
        assert isinstance(measured(expression, seen), Decimal | Reason)
