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
