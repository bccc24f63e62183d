"""What a quantity may take, and what is refused when it is written."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from usageflow.policies.parts import (
    PARTS,
    needed_parts,
    quantity_expression,
    quantity_problem_for,
)
from usageflow.policies.routes import parse_route


@pytest.mark.parametrize(
    "text",
    [
        "response.body.usage.total_tokens",
        "request.bytes",
        "response.body",
        'to_number(request.headers."x-units")',
        "to_number(request.query.n)",
        "length(request.path)",
        "length(response)",
        "websocket.messages",
        "websocket.received.n",
        "websocket.sent.n || websocket.received.n",
        "mul(websocket.seconds, `2`)",
        "response.body.text || `1`",
        "`5`",
    ],
)
def test_what_can_be_a_number_is_taken_as_it_is(text: str) -> None:
    """A check never changes an expression."""
    assert quantity_expression(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("respons.body", '"respons" is none of request, response, websocket; did you mean "resp'),
        (
            "response.bod.n",
            "response.bod does not exist; response has status, headers, body, .*did",
        ),
        ("websocket.foo", "websocket.foo does not exist"),
        ("length(websocket)", "takes the whole WebSocket; name its part"),
        ("add(websocket.sent.n, websocket.bytes)", "single messages; count them alone"),
        ("request.method", r"is text, never a number; write to_number\(request.method\)"),
        ("request.path", "is text"),
        ('request.headers."x-units"', r'write to_number\(request.headers."x-units"\)'),
        ("response.headers.cost", "is text"),
        ("request.params.id", "is text"),
        ("request.query.n", "is text"),
        (
            'to_number(request.headers."X-Units")',
            'lower case here: write request.headers."x-units"',
        ),
        ('to_number(response.headers."X-Units")', 'write response.headers."x-units"'),
        ("'5'", "yields text, never a number"),
        ("`null`", "yields no number"),
        ("response.body.items[*].n", "yields a list, never a number"),
        ("response.body.a > `1`", "yields a boolean"),
        ("to_string(response.body.n)", "yields text"),
        ("summ(a)", r"no function summ\(\)"),
    ],
)
def test_what_can_never_be_measured_is_refused(text: str, message: str) -> None:
    """With what is wrong and what to write instead."""
    with pytest.raises(ValueError, match=message):
        quantity_expression(text)


@pytest.mark.parametrize(
    ("text", "routes", "problem"),
    [
        ("to_number(request.params.id)", ["GET /a/:id", "GET /b/{id}"], None),
        ("length(request.params)", ["GET /a"], None),
        (
            "to_number(request.params.idd)",
            ["GET /a/:id"],
            'the path "/a/:id" has no parameter "idd"; did you mean "id"?',
        ),
        (
            "to_number(request.params.id)",
            ["GET /a/:id", "GET /b/:name"],
            'the path "/b/:name" has no parameter "id"',
        ),
        ("websocket.bytes", ["WEBSOCKET /live"], None),
        ("websocket.bytes", ["ANY /live"], None),
        ("response.body.n", ["ANY /live"], None),
        ("response.body.n", ["GET /live"], None),
        (
            "websocket.bytes",
            ["WEBSOCKET /live", "GET /live"],
            'websocket.bytes is of WebSockets only, and "GET /live" is not',
        ),
        (
            "websocket.bytes",
            ["GET, WEBSOCKET /live"],
            'websocket.bytes is of WebSockets only, and "GET, WEBSOCKET /live" is not',
        ),
        (
            "response.body.n",
            ["WEBSOCKET /live"],
            "a WebSocket has no response.body; write websocket.sent",
        ),
        (
            "response.duration_ms",
            ["WEBSOCKET /live"],
            "a WebSocket has no response.duration_ms; write websocket.seconds",
        ),
        (
            "request.bytes",
            ["WEBSOCKET /live"],
            "a WebSocket has no request.bytes; write websocket.bytes_in",
        ),
    ],
)
def test_what_its_routes_do_not_have_is_found(
    text: str, routes: Sequence[str], problem: str | None
) -> None:
    """A parameter of each template, and what there is of a WebSocket or of a response."""
    found = quantity_problem_for(text, [parse_route(route) for route in routes])
    assert found == problem


@pytest.mark.parametrize(
    ("quantity", "parts"),
    [
        (Decimal(1), set()),
        ("response.body.usage.n", {("response", "body")}),
        ("request.bytes", {("request", "bytes")}),
        ("websocket.sent.n", {("websocket", "sent")}),
        ("length(keys(response))", {("response", part) for part in PARTS["response"]}),
    ],
)
def test_only_what_is_mentioned_is_needed(
    quantity: Decimal | str, parts: set[tuple[str, str]]
) -> None:
    """The edge keeps a body only if an expression may look at it."""
    assert needed_parts(quantity) == parts


def test_the_whole_document_is_what_every_request_has() -> None:
    """An expression over all of it keeps both bodies."""
    assert len(needed_parts("length(keys(@))")) == len(PARTS["request"]) + len(PARTS["response"])
