"""How metadata is merged."""

from usageflow.stripe.emulator.metadata import merged

OLD = {"a": "1", "b": "2"}


def test_metadata_is_merged_key_by_key() -> None:
    """Given keys are set, empty ones deleted, others stay; an empty metadata clears all."""
    assert merged(OLD, {}) == OLD
    assert merged(OLD, {"metadata": {"b": "", "c": "3"}}) == {"a": "1", "c": "3"}
    assert merged(OLD, {"metadata": ""}) == {}
