"""The page about quantities: every table is what the code does."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.middleware.exchange import Exchange
from usageflow.middleware.limits import Limits
from usageflow.policies import PolicySet, evaluate, parse_file
from usageflow.policies.expressions import EXPRESSION_CHARS_MAX, EXPRESSION_DEPTH_MAX
from usageflow.policies.interpreter import EVALUATION_STEPS_MAX
from usageflow.policies.json_text import DECODE_NS_MAX, INTEGER_DIGITS_MAX, SKIM_BYTES_MAX
from usageflow.policies.streams import EVENT_LINES_MAX, STEPS_PER_CHUNK, open_splitter

PAGE = Path(__file__).parents[2] / "docs" / "quantities.md"
TEXT = PAGE.read_text(encoding="utf-8")
TABLES = {
    "number_row": "quantity | the app answers | counts",
    "mistake_row": "match | quantity | mistake",
    "type_row": "content type | an event is",
    "stream_row": "quantity | events | last | sum",
    "limit_row": "what | limit | reason",
}
"""Argument of a test -> the table it gets a row of."""
SPAN = re.compile(r"(`+)(.+?)\1(?!`)")
POLICY = """
[[policy]]
name = "p"
match = "{match}"
identify = [{{ from = "header", name = "x-account-id" }}]
field = "account_id"
metric = "METRIC"
quantity = '''{quantity}'''
stream = "{stream}"
"""


def rows_of(header: str) -> list[list[str]]:
    """The cells of a table on the page."""
    _, found, rest = TEXT.partition(f"| {header} |\n")
    assert found, header
    lines = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def spans(cell: str) -> list[str]:
    """The pieces of code in a cell."""
    return [found[2] for found in SPAN.finditer(cell)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of a table that a test asks for."""
    for argument, header in TABLES.items():
        if argument in metafunc.fixturenames:
            rows = rows_of(header)
            metafunc.parametrize(argument, rows, ids=["/".join(row[:2])[:60] for row in rows])


def policies_of(quantity: str, match: str = "ANY /a", stream: str = "last") -> Any:
    """What a file with this policy is read as."""
    return parse_file(POLICY.format(match=match, quantity=quantity, stream=stream), "p.toml")


def event_of(
    quantity: str, answer: bytes, content_type: bytes = b"application/json", stream: str = "last"
) -> UsageEvent:
    """What an exchange is recorded as."""
    parsed = policies_of(quantity, stream=stream)
    assert parsed.problems == ()
    match = PolicySet.build(parsed.policies).match("GET", "/a")
    assert match is not None
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/a",
        "headers": [(b"x-account-id", b"acct_42")],
    }
    exchange = Exchange(match, scope, "/a", Limits.of(Settings()), started_at_s=0)
    exchange.received({"type": "http.request"})
    headers = [(b"content-type", content_type)]
    exchange.sends({"type": "http.response.start", "status": 200, "headers": headers})
    exchange.sends({"type": "http.response.body", "body": answer})
    now = datetime.now(UTC)
    (event,) = evaluate(match, exchange, now=now, new_id=lambda: "1")
    return event


def agrees(event: UsageEvent, cell: str) -> bool:
    """Whether the event is what a cell says: a number, or the inbox with this reason."""
    if cell.startswith("inbox"):
        return (event.state, [event.reason]) == ("inbox", spans(cell))
    return (event.state, str(event.quantity)) == ("counted", cell)


def test_a_quantity_counts_as_the_table_says(number_row: list[str]) -> None:
    """The number, exactly, or the inbox with exactly this reason."""
    (quantity,), (answer,), counts = spans(number_row[0]), spans(number_row[1]), number_row[2]
    event = event_of(quantity, answer.encode())
    assert agrees(event, counts), event


def test_a_mistake_is_told_as_the_table_says(mistake_row: list[str]) -> None:
    """When the policy is read, in these words."""
    (match,), (quantity,), (mistake,) = map(spans, mistake_row)
    (problem,) = policies_of(quantity, match).problems
    assert problem.endswith(mistake)


def test_each_type_is_a_stream(type_row: list[str]) -> None:
    """Under all of its names."""
    for name in spans(type_row[0]):
        assert open_splitter(name.encode(), 1) is not None


def test_a_stream_counts_as_the_table_says(stream_row: list[str]) -> None:
    """In both ways to count, as server-sent events and as lines."""
    (quantity,), events = spans(stream_row[0]), spans(stream_row[1])
    sse = "".join(f"data: {event}\n\n" for event in events).encode()
    lines = "\n".join(events).encode()
    for way, counts in zip(("last", "sum"), stream_row[2:], strict=True):
        for content_type, body in ((b"text/event-stream", sse), (b"application/jsonl", lines)):
            event = event_of(quantity, body, content_type, way)
            assert agrees(event, counts), event


MANY = b'{"n": [%b]}' % b",".join([b"[]"] * 200_000)
LIMITS: dict[str, tuple[str, bytes, bytes]] = {
    "an evaluation": ("sum(response.body.n[].n)", b'{"n": [%b]}' % b",".join([b"1"] * 12_000), b""),
    "reading a whole body": ("length(response.body.n)", MANY, b""),
    "a number in a body": ("length(response.body)", b"[%b]" % (b"1" * 128), b""),
    "nesting of a body": ("length(response.body)", b"[" * 5_000, b""),
    "events in one chunk": ("response.body.n", b'{"n":1}\n' * 9_000, b"application/jsonl"),
}
"""How a row of the table of limits begins -> a quantity and an answer that go beyond it."""


def test_a_limit_has_the_reason_that_the_table_says(limit_row: list[str]) -> None:
    """What goes beyond it goes to the inbox."""
    for begins, (quantity, answer, content_type) in LIMITS.items():
        if limit_row[0].startswith(begins):
            event = event_of(quantity, answer, content_type)
            assert str(event.reason).endswith(spans(limit_row[2])[0])
            return
    assert limit_row[0] in ("an expression", "looking for a place in a body"), "tested elsewhere"


def test_the_numbers_are_the_code_s() -> None:
    """All limits that the page names."""
    page = " ".join(TEXT.split())
    for said in (
        f"{EXPRESSION_CHARS_MAX:,} characters, {EXPRESSION_DEPTH_MAX} levels",
        f"{EVALUATION_STEPS_MAX:,} steps, at most 10 ms",
        f"an estimate of {DECODE_NS_MAX // 1_000_000} ms",
        f"{SKIM_BYTES_MAX:,} bytes",
        f"{INTEGER_DIGITS_MAX} digits before the point",
        f"{STEPS_PER_CHUNK:,} steps, some 3,000",
        f"more than {EVENT_LINES_MAX:,} lines",
        f"({Settings().stream_event_bytes_max // 1_048_576} MiB)",
    ):
        assert said in page, said


def test_what_the_steps_are_enough_for() -> None:
    """A sum over 6,000 items, and a filter over 2,000."""
    items = b",".join([b'{"kind":"a","n":1}'] * 6_000)
    assert event_of("sum(response.body[].n)", b"[%b]" % items).quantity == 6_000
    items = b",".join([b'{"kind":"a","n":1}'] * 2_000)
    assert event_of("sum(response.body[?kind == 'a'].n)", b"[%b]" % items).quantity == 2_000
