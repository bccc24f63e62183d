"""A body that changes something tells what was named from what was left out."""

import pytest
from pydantic import ValidationError

from usageflow.api.patches import Patch, left_out


class NamePatch(Patch):
    """One field that may be null and one that may not."""

    name: str = left_out()
    note: str | None = left_out()


def test_only_what_was_named_is_given() -> None:
    """Null is a value where the field allows it, and a mistake where it does not."""
    assert NamePatch.model_validate({}).given() == {}
    assert NamePatch.model_validate({"note": None}).given() == {"note": None}
    assert NamePatch.model_validate({"name": "a"}).given() == {"name": "a"}
    with pytest.raises(ValidationError):
        NamePatch.model_validate({"name": None})


def test_the_schema_promises_no_default() -> None:
    """A field that is left out has no value at all."""
    schema = NamePatch.model_json_schema()
    assert "required" not in schema
    assert all("default" not in field for field in schema["properties"].values())
