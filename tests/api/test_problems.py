"""The one shape of error answers, and exact JSON."""

from decimal import Decimal

from usageflow.api.problems import Problem, json_response


def test_a_problem_becomes_one_json_shape() -> None:
    """Status, code and message arrive, with the problem's own headers beside them."""
    answer = Problem(503, "busy", "try later", {"retry-after": "2"}).response()
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "2"
    assert answer.body == b'{"error":{"code":"busy","message":"try later"}}'


def test_decimals_keep_every_digit() -> None:
    """A quantity in an answer is a JSON number with all its digits."""
    exact = Decimal("0.1000000000000000055511151231")
    assert json_response({"total": exact}).body == b'{"total":' + str(exact).encode() + b"}"
