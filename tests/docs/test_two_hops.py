"""The page about two hops: each row of its tables is what two edges do."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.middleware.hops import Hops
from usageflow.policies import PolicySet, parse_file
from usageflow.policies.hops import HOP_HEADER, HOP_HEADERS, SKEW_S_MAX, claim, hop_header, hop_key

PAGE = Path(__file__).parents[2] / "docs" / "two-hops.md"
TABLES = {
    "key_row": "key of the first edge | key of the second edge | billed | second edge warns",
    "metric_row": (
        "the first edge has | the second edge has | the first records | the second records"
    ),
    "header_row": "header | believed",
}
"""Argument of a test -> the table it gets a row of."""
POLICY = """
[[policy]]
name = "{metric}"
match = "GET /metered"
identify = [ {{ from = "header", name = "x-account" }} ]
field = "account_id"
metric = "{metric}"
mode = "{mode}"
"""
SHARED = Settings(hop_key="a" * 32)
CALLS = frozenset({"CALL"})


def rows_of(header: str) -> list[list[str]]:
    """The cells of a table on the page."""
    _, found, rest = PAGE.read_text(encoding="utf-8").partition(f"| {header} |\n")
    assert found, header
    lines = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of a table that a test asks for."""
    for argument, header in TABLES.items():
        if argument in metafunc.fixturenames:
            rows = rows_of(header)
            metafunc.parametrize(argument, rows, ids=[" | ".join(row) for row in rows])


def spans(cell: str) -> list[str]:
    """The pieces of code in a cell; none where it says `nothing` or `none` in words."""
    return re.findall("`(.+?)`", cell)


def policies(claims: list[str]) -> PolicySet:
    """The policies that claim these."""
    tables = []
    for one in claims:
        mode, _, metric = one.rpartition(":")
        tables.append(POLICY.format(metric=metric, mode=mode or "live"))
    parsed = parse_file("# policies\n" + "\n".join(tables), "policies.toml")
    assert parsed.problems == ()
    return PolicySet.build(parsed.policies)


def recorded(hops: Hops, own: PolicySet, scope: dict[str, Any]) -> list[str]:
    """What an edge with these policies records of the request."""
    match = own.match(scope["method"], scope["path"])
    left = hops.unclaimed(own, match, scope["method"], scope, trusted=True)
    return [claim(compiled.policy) for compiled in left.policies] if left else []


def request(*fields: tuple[bytes, bytes]) -> dict[str, Any]:
    """The scope of one with these fields."""
    return {
        "method": "GET",
        "path": "/metered",
        "raw_path": b"/metered",
        "query_string": b"a=1",
        "headers": list(fields),
    }


def through(first: Hops, second: Hops, has: list[list[str]]) -> list[list[str]]:
    """What each of two edges records, of which the first sends on a header at most."""
    scope = request()
    one = recorded(first, policies(has[0]), scope)
    value = first.header("GET", scope)
    fields = [] if value is None else [(HOP_HEADER, value)]
    return [one, recorded(second, policies(has[1]), request(*fields))]


def settings(cell: str) -> Settings:
    """Of an edge with the keys of a cell, which are named there by a letter."""
    words = (word.split("=") for word in " ".join(spans(cell)).split())
    return Settings(**{name: key * 32 for name, key in words})  # type: ignore[arg-type]  # keys only


def test_keys(key_row: list[str]) -> None:
    """How often two edges with the same policy bill, and whether the second knows."""
    first, second = (Hops(settings(cell)) for cell in key_row[:2])
    billed = through(first, second, [["CALL"], ["CALL"]])
    assert billed == [["CALL"], {"once": [], "twice": ["CALL"]}[key_row[2]]]
    assert second.unverified == {"no": 0, "yes": 1}[key_row[3]]


def test_metrics(metric_row: list[str]) -> None:
    """Which of two edges records what."""
    cells = [spans(cell) for cell in metric_row]
    assert through(Hops(SHARED), Hops(SHARED), cells[:2]) == cells[2:]


def test_headers(header_row: list[str]) -> None:
    """What a header of each kind is worth."""
    key = hop_key(SHARED)
    assert key is not None
    now_s = int(time.time())

    def field(
        key: bytes = key, method: str = "GET", target: bytes = b"/metered?a=1", late_s: int = 0
    ) -> tuple[bytes, bytes]:
        return HOP_HEADER, hop_header(
            key, method=method, target=target, claims=CALLS, now_s=now_s - late_s
        )

    name, value = field()
    (other,) = HOP_HEADERS - {HOP_HEADER}
    kinds = {
        "signed with": [[field()], [field(late_s=SKEW_S_MAX - 5)]],
        "changed": [[(name, value[:-1])], [(name, b"2" + value[1:])], [field(b"other")]],
        "of another": [[field(method="PUT")], [field(target=b"/metered")]],
        "older": [[field(late_s=2 * SKEW_S_MAX)], [field(late_s=-2 * SKEW_S_MAX)]],
        "sent twice": [[field(), field()]],
        f"`{other.decode()}`": [[(other, value)]],
    }
    (sent,) = (each for words, each in kinds.items() if header_row[0].startswith(words))
    for fields in sent:
        left = recorded(Hops(SHARED), policies(["CALL"]), request(*fields))
        assert left == {"yes": [], "no": ["CALL"]}[header_row[1]]


def test_the_clocks() -> None:
    """The page says by how much they may differ."""
    assert f"Clocks may differ by {SKEW_S_MAX} s." in PAGE.read_text(encoding="utf-8")
