"""`did you mean`: a hint where one is likely, silence elsewhere."""

from usageflow.policies.suggestions import did_you_mean


def test_a_near_word_is_suggested() -> None:
    """A slip of the finger is recognised."""
    assert did_you_mean("quantty", ["quality", "quantity"]) == '; did you mean "quantity"?'


def test_nothing_is_suggested_for_something_else() -> None:
    """A hint that is a guess would mislead."""
    assert did_you_mean("zebra", ["quantity"]) == ""
    assert did_you_mean("", []) == ""
