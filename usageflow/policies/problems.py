"""What is wrong with a policy, in words for the person who wrote it.

Turns pydantic's errors into `field: message`. Decides nothing about validity.
"""

from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from usageflow.policies.shapes import NAME_CHARS_MAX
from usageflow.policies.sources import Source
from usageflow.policies.suggestions import did_you_mean

_SOURCES = {
    get_args(model.model_fields["from_"].annotation)[0]: model
    for model in get_args(get_args(Source)[0])
}
_TYPES = {
    "tuple_type": "a list",
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
"""TOML's words for pydantic's."""


def explain(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """(field, `field: message`) for each error; field is "" for the whole."""
    return [_explained(detail, model) for detail in error.errors(include_url=False)]


def title(table: object, number: int) -> str:
    """How a person finds the policy: `policy "chat" (#2)`, or without a name `policy (#2)`."""
    name = table.get("name") if isinstance(table, dict) else None
    if not isinstance(name, str) or not name.isprintable() or len(name) > NAME_CHARS_MAX:
        return f"policy (#{number})"
    return f'policy "{name}" (#{number})'


def _explained(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    place = list(detail["loc"])
    if place[:1] == ["identify"] and place[2:3] and place[2] in _SOURCES:
        model = _SOURCES[place.pop(2)]  # pydantic adds the kind of the source to the place
    message = _message(detail, model)
    field = str(place[0]) if place else ""
    where = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in place)
    return field, f"{where.lstrip('.')}: {message}" if where else message


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "missing":
            return "is required"
        case "extra_forbidden":
            known = [field.alias or name for name, field in model.model_fields.items()]
            return f"is not known{did_you_mean(str(detail['loc'][-1]), known)}"
        case "union_tag_invalid":
            tag = detail["ctx"]["tag"]
            hint = did_you_mean(tag, _SOURCES)
            return f'from: "{tag}" is not one of {", ".join(_SOURCES)}{hint}'
        case "union_tag_not_found":
            return f"from: is required; one of {', '.join(_SOURCES)}"
        case "string_pattern_mismatch":
            return "must start with a letter and have at most 64 letters, digits, '_', '.' or '-'"
        case "literal_error":
            return f"must be {detail['ctx']['expected']}"
        case kind if kind in _TYPES:
            return f"must be {_TYPES[kind]}"
        case _:
            return detail["msg"][:1].lower() + detail["msg"][1:]
