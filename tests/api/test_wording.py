"""A refusal names fields as the request does."""

from usageflow.api.wording import reworded
from usageflow.catalog.refusals import Refused


def test_each_part_of_a_field_is_renamed() -> None:
    """Places in lists stay, other fields and the rest of the refusal too."""
    names = {"entitlements": "features", "value": "static_value"}
    refused = Refused("invalid", "the value is long", "entitlements[1].value")
    assert reworded(refused, names) == Refused(
        "invalid", "the value is long", "features[1].static_value"
    )
    assert reworded(refused, {}) == refused
    nameless = Refused("conflict", "no")
    assert reworded(nameless, names) is nameless
