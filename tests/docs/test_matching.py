"""The page about matching: every table is what the code does."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from usageflow.policies import PolicySet, parse_file
from usageflow.policies.paths import RULES, PathRules, route_path, split_path
from usageflow.policies.query import QUERY_BYTES_MAX
from usageflow.policies.routes import Router, parse_route

TABLES = {
    "root_row": "root path | path | compared",
    "rule_row": "rule | what it says | template | matches with it alone",
    "app_row": "app | rules | source",
    "condition_row": "host | headers | query | counted by",
}
"""Argument of a test -> the table it gets a row of."""
PAGE = Path(__file__).parents[2] / "docs" / "matching.md"


def rows_of(header: str) -> list[list[str]]:
    """The cells of a table on the page, each with the pieces of code in it."""
    _, found, rest = PAGE.read_text(encoding="utf-8").partition(f"| {header} |\n")
    assert found, header
    lines = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def spans(cell: str) -> list[str]:
    """The pieces of code in a cell."""
    return re.findall("`(.+?)`", cell)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of a table that a test asks for."""
    for argument, header in TABLES.items():
        if argument in metafunc.fixturenames:
            rows = rows_of(header)
            metafunc.parametrize(argument, rows, ids=[" ".join(row[:2]) for row in rows])


def test_the_root_path(root_row: list[str]) -> None:
    """What is compared where the app is mounted."""
    (root,), (path,), (compared,) = map(spans, root_row)
    assert route_path({"path": path, "root_path": root}) == compared


def test_each_rule_matches_what_the_default_does_not(rule_row: list[str]) -> None:
    """The rule alone is what makes its template match its path."""
    rule, template, target = (spans(rule_row[column])[0] for column in (0, 2, 3))
    for rules, wanted in ((rule, [template]), ("", [])):
        known = PathRules.parse(rules)
        path = unquote(target)
        segments = split_path(path, target.encode(), known)
        router = Router([(parse_route(template), template)], lambda found: found[0], known)
        assert router.find("GET", path, segments) == wanted


def test_every_rule_is_in_the_table() -> None:
    """In the order in which the error names them."""
    assert [spans(row[0])[0] for row in rows_of(TABLES["rule_row"])] == list(RULES)


def test_the_rules_of_an_app_exist(app_row: list[str]) -> None:
    """They can be copied into the setting."""
    for rules in spans(app_row[1]):
        assert PathRules.parse(rules)


def test_the_rules_of_an_app_are_those_that_are_tested(root: Path) -> None:
    """The proof about routing uses the names of the page."""
    proof = (root / "tests" / "middleware" / "test_routing.py").read_text(encoding="utf-8")
    rules = {row[0].partition(",")[0]: row[1] for row in rows_of(TABLES["app_row"])}
    assert spans(rules["Litestar"]) == re.findall('LITESTAR_RULES = "(.+)"', proof)
    assert spans(rules["Quart"]) == re.findall('QUART_RULES = "(.+)"', proof)
    assert spans(rules["Starlette"]) == []


def test_conditions(condition_row: list[str], blocks: Any) -> None:
    """Which of the example's policies counts a request."""
    (example,) = (b.text for b in blocks if b.page == "docs/matching.md" and b.language == "toml")
    parsed = parse_file(example, "policies.toml")
    assert parsed.problems == ()
    host, sent, query, (policy,) = map(spans, condition_row)
    headers = [(b"host", host[0].encode())]
    headers += [(name.encode(), value.strip().encode()) for name, value in split_headers(sent)]
    match = PolicySet.build(parsed.policies).match(
        "POST", "/v1/chat", headers, "".join(query).encode()
    )
    assert match is not None
    assert [compiled.policy.name for compiled in match.policies] == [policy]


def split_headers(sent: list[str]) -> list[list[str]]:
    """Names and values."""
    return [header.split(":", 1) for header in sent]


def test_the_longest_query_is_the_one_named(root: Path) -> None:
    """The page says the number."""
    assert f"{QUERY_BYTES_MAX:,} bytes" in PAGE.read_text(encoding="utf-8")
