"""Bodies that change something: what they leave out stays as it is."""

from typing import Any

from pydantic import Field

from usageflow.api.exact_json import Body


class Patch(Body):
    """The base of such a body; its fields are `left_out()` unless a client names them."""

    def given(self) -> dict[str, Any]:
        """What the client named, by field."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def left_out() -> Any:
    """The value of a field that nobody named; it may not be null because of that."""
    return Field(default=None, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)
