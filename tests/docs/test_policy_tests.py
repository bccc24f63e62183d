"""The page about tests and coverage: its examples pass, its tables are what the code does."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from usageflow.cli.coverage import print_json, print_tables
from usageflow.middleware.rehearsal import rehearse
from usageflow.policies import PolicySet, parse_file
from usageflow.policies.app_routes import AppRoute
from usageflow.policies.coverage import Status, cover
from usageflow.policies.examples import Example, Expectation, differences, without_example
from usageflow.policies.shapes import Model

FORMS = {"{id}": "[^/]+", "{rest:path}": ".*"}
"""The parameters of the apps in the table, as Starlette has them."""
POLICY = """
[[policy]]
name = "p"
match = "{match}"
identify = [{{ from = "header", name = "x-account-id" }}]
field = "account_id"
metric = "M"
"""


@pytest.fixture
def written(root: Path) -> str:
    """The page."""
    return (root / "docs" / "policy-tests.md").read_text(encoding="utf-8")


def block(written: str, language: str, holding: str) -> str:
    """The first block of the language that holds a text."""
    found = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", written)
    return str(next(text for text in found if holding in text))


def rows(written: str, header: str) -> list[list[str]]:
    """The cells of the table with this header; code without its marks."""
    lines = written.partition(f"| {header} |\n")[2].splitlines()[1:]
    table = lines[: next(n for n, line in enumerate(lines) if not line.startswith("|"))]
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in table
    ]


def app_route(text: str) -> AppRoute:
    """The route of an app, as the table writes it."""
    method, _, template = text.partition(" ")
    parts = re.split(r"(\{[^}]*\})", template)
    pieces = [re.compile(FORMS[part]) if part in FORMS else part for part in parts if part]
    return AppRoute.of(method, template, "handler", pieces)


def test_the_examples_pass_as_shown(written: str) -> None:
    """The file of the page, run as the command runs it, gives the lines below it."""
    parsed = parse_file(block(written, "toml", "[[example]]"), "policies.toml")
    assert parsed.problems == ()
    policies = PolicySet.build(parsed.policies)
    now = datetime.now(UTC)
    for example in parsed.examples:
        assert differences(example, rehearse(policies, example, now=now)) == []
    assert without_example((policy for policy, _ in parsed.policies), parsed.examples) == []
    shown = block(written, "text", "0 failed").splitlines()
    assert shown[:-1] == [f"ok      {example.name}" for example in parsed.examples]
    assert shown[-1] == f"policies.toml: {len(parsed.examples)} examples, 0 failed"


def test_a_difference_is_told_as_shown(written: str) -> None:
    """With one number of the page's file changed."""
    text = block(written, "toml", "[[example]]").replace("quantity = 42 }", "quantity = 43 }")
    parsed = parse_file(text, "policies.toml")
    events = rehearse(PolicySet.build(parsed.policies), parsed.examples[0], now=datetime.now(UTC))
    (line,) = differences(parsed.examples[0], events)
    assert f"FAILED  {parsed.examples[0].name}\n        {line}\n" == block(
        written, "text", "FAILED"
    )


def test_the_table_of_routes_is_what_is_printed(
    written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """For an app with these four routes, two policies and an exemption."""
    texts = {
        "POST /v1/chat": "chat",
        "GET /v1/items/{id}": "item",
        "GET /health": "health",
        "GET /v1/new": "new",
    }
    routes = [app_route(text)._replace(name=name) for text, name in texts.items()]
    parsed = parse_file(
        POLICY.format(match="POST /v1/chat").replace('"p"', '"chat-tokens"')
        + POLICY.format(match="GET /v1/items/{id:int}").replace('"p"', '"items"')
        + '[[exempt]]\nmatch = "GET /health"\nreason = "the load balancer asks"\n',
        "policies.toml",
    )
    print_tables(cover(routes, parsed.policies, parsed.exemptions), shadow=())
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed == block(written, "text", "4 routes").splitlines()


@pytest.mark.parametrize(("model", "after"), [(Example, "## Examples"), (Expectation, "An event")])
def test_the_keys_are_the_model_s(written: str, model: type[Model], after: str) -> None:
    """All of them, in order, and required where they are."""
    found = rows(written.partition(after)[2], "key | | meaning")
    fields: Mapping[str, Any] = model.model_fields
    assert [row[0] for row in found] == list(fields)
    required = [name for name, field in fields.items() if field.is_required()]
    assert [row[0] for row in found if row[1] == "required"] == required


def test_the_statuses_are_those_of_the_code(written: str) -> None:
    """In their order."""
    assert [row[0] for row in rows(written, "status | meaning")] == list(get_args(Status))


def test_routes_are_judged_as_the_table_says(written: str) -> None:
    """Each row: a route, a policy, its status."""
    found = rows(written, "the app routes | a policy matches | status")
    assert len(found) > 10
    for route, match, status in found:
        parsed = parse_file(POLICY.format(match=match), "p.toml")
        assert parsed.problems == ()
        judged = cover([app_route(route)], parsed.policies, ()).routes[0]
        assert (route, match, judged.status) == (route, match, status)


def test_the_json_has_the_keys_that_are_shown(
    written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At each level."""
    shown = json.loads(block(written, "json", '"routes"'))
    parsed = parse_file(
        POLICY.format(match="GET /v1/items/{id:int}")
        + '[[exempt]]\nmatch = "GET /gone"\nreason = "was a page"\n',
        "p.toml",
    )
    item = app_route("GET /v1/items/{id}")._replace(name="item")
    print_json(cover([item], parsed.policies, parsed.exemptions))
    real = json.loads(capsys.readouterr().out)
    real["routes"][0]["policies"] = ["items"]
    assert real == shown
