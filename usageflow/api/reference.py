"""The reference of the API as one page, made from its own OpenAPI: nothing is fetched from outside.

What a field means is said where it is declared; here it is only laid out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

PATH: Final = "/docs"
STYLE_PATH: Final = "/docs/reference.css"
DEPTH_MAX: Final = 4
"""Objects within objects that are laid out; none of ours goes deeper."""
_Schema: TypeAlias = Mapping[str, Any]
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value of a request or an answer: where it stands, its name, type and meaning."""

    place: str
    name: str
    type: str
    required: bool
    words: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    words: str
    permission: str
    parameters: tuple[Parameter, ...]
    answer: tuple[Parameter, ...]
    statuses: tuple[str, ...]

    @property
    def anchor(self) -> str:
        """What links on the page name it by."""
        plain = self.path.strip("/").replace("{", "").replace("}", "").replace("/", "-")
        return f"{self.method.lower()}-{plain}"


def reference_routes(app: FastAPI) -> list[Route]:
    """The page and its style, for the API of `app`."""

    def page(_: Request) -> Response:
        return HTMLResponse(_page(app), headers=_HEADERS)

    def style(_: Request) -> Response:
        css = files("usageflow.api").joinpath("templates", "reference.css").read_text()
        return Response(css, media_type="text/css", headers=_HEADERS)

    return [Route(PATH, page, methods=["GET"]), Route(STYLE_PATH, style, methods=["GET"])]


def operations(openapi: Mapping[str, Any]) -> dict[str, list[Operation]]:
    """Every operation of an OpenAPI document, by its first tag, in the order of the document."""
    schemas = openapi.get("components", {}).get("schemas", {})
    groups: dict[str, list[Operation]] = {}
    for path, methods in openapi["paths"].items():
        for method, told in methods.items():
            group = next(iter(told.get("tags", [])), "other")
            groups.setdefault(group, []).append(_operation(path, method, told, schemas))
    return groups


@cache
def _page(app: FastAPI) -> str:
    environment = Environment(
        loader=PackageLoader("usageflow.api"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    document = app.openapi()
    return environment.get_template("reference.html").render(
        groups=operations(document), version=document["info"]["version"], style=STYLE_PATH
    )


def _operation(path: str, method: str, told: Mapping[str, Any], schemas: _Schema) -> Operation:
    content = told.get("requestBody", {}).get("content", {})
    body: _Schema = next((one.get("schema", {}) for one in content.values()), {})
    answers = told.get("responses", {})
    good = next((status for status in answers if status.startswith("2")), "")
    given = answers.get(good, {}).get("content", {})
    answer: _Schema = next((one.get("schema", {}) for one in given.values()), {})
    return Operation(
        method=method.upper(),
        path=path,
        summary=told.get("summary", ""),
        words=told.get("description", ""),
        permission=told.get("x-permission") or "",
        parameters=(
            *(_parameter(one, schemas) for one in told.get("parameters", [])),
            *_fields("body", body, schemas),
        ),
        answer=tuple(_fields(good, answer, schemas)),
        statuses=tuple(answers),
    )


def _parameter(told: Mapping[str, Any], schemas: _Schema) -> Parameter:
    return Parameter(
        place=told["in"],
        name=told["name"],
        type=_type(told.get("schema", {}), schemas),
        required=told.get("required", False),
        words=told.get("description", ""),
    )


def _fields(
    place: str,
    schema: _Schema,
    schemas: _Schema,
    prefix: str = "",
    depth: int = 0,
) -> list[Parameter]:
    """The fields of an object, those of objects within it behind it."""
    schema = _resolved(schema, schemas)
    if "items" in schema:
        return _fields(place, schema["items"], schemas, f"{prefix}[]." if prefix else "", depth)
    found = []
    required = schema.get("required", ())
    for name, inner in schema.get("properties", {}).items():
        words = inner.get("description", "")
        full = f"{prefix}{name}"
        found.append(Parameter(place, full, _type(inner, schemas), name in required, words))
        if depth < DEPTH_MAX:
            inside = _resolved(inner, schemas)
            mark = "[]." if "items" in inside else "."
            inside = inside.get("items", inside)
            found += _fields(place, inside, schemas, f"{full}{mark}", depth + 1)
    return found


def _resolved(schema: _Schema, schemas: _Schema) -> _Schema:
    """The schema that is meant: through references, and through "or null"."""
    if "$ref" in schema:
        return _resolved(schemas.get(schema["$ref"].rpartition("/")[2], {}), schemas)
    choices = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return _resolved(choices[0], schemas) if len(choices) == 1 else schema


def _type(schema: _Schema, schemas: _Schema) -> str:
    if "$ref" in schema:
        return _type(_resolved(schema, schemas), schemas)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one, schemas) for one in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(str(one) for one in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), schemas)}"
    return str(schema.get("format") or schema.get("type", "any"))
