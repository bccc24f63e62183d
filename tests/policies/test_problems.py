"""What is wrong with a policy, in words; the words for each field are in test_models."""

import pytest
from pydantic import ValidationError

from usageflow.policies.models import Metric, Policy
from usageflow.policies.problems import explain, title


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"name": "chat"}, 'policy "chat" (#3)'),
        ({}, "policy (#3)"),
        ({"name": 5}, "policy (#3)"),
        ({"name": "a\nb"}, "policy (#3)"),
        ({"name": "x" * 101}, "policy (#3)"),
        ("x", "policy (#3)"),
    ],
)
def test_a_policy_is_called_by_its_name_if_it_has_one(table: object, found: str) -> None:
    """A name that cannot stand in one line is left to the number."""
    assert title(table, 3) == found


def test_every_error_is_told_with_its_field() -> None:
    """One pass finds all that is wrong; the field lets the file reader find the line."""
    with pytest.raises(ValidationError) as refused:
        Policy.model_validate({"name": "x", "identify": [{"from": "path"}], "whn": 1})
    told = explain(refused.value, Policy)
    assert [field for field, _ in told] == ["match", "identify", "field", "metric", "whn"]


def test_what_is_no_table_is_told_without_a_field() -> None:
    """A policy that is not even a table has one problem, of the whole."""
    with pytest.raises(ValidationError) as refused:
        Metric.model_validate("x")
    assert explain(refused.value, Metric) == [("", "must be a table")]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"from": "jwt", "claim": 5, "secret": "env:S"}, "identify[1].claim: must be text"),
        (
            {"from": "jwt", "claim": "sub", "unverified": 1},
            "identify[1].unverified: must be true or false",
        ),
        (
            {"from": "jwt", "claim": "sub", "secret": "env:S", "leeway_s": "60"},
            "identify[1].leeway_s: must be a whole number",
        ),
        (
            {"from": "api_key", "heder": "x-api-key", "secret": "env:S"},
            'identify[1].heder: is not known; did you mean "header"?',
        ),
    ],
)
def test_the_words_are_those_of_the_file(source: dict[str, object], text: str) -> None:
    """Of TOML, not of pydantic; a suggestion is a key of this kind of source."""
    policy = {"name": "x", "match": "GET /", "field": "f", "metric": "M", "identify": [source]}
    with pytest.raises(ValidationError) as refused:
        Policy.model_validate(policy)
    assert ("identify", text) in explain(refused.value, Policy)
