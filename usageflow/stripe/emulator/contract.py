"""The contract: which requests Stripe's published API description allows.

It reads `openapi-slice.json` (see NOTICE) once and checks names, types, lengths and required
parameters of every request. It knows no state; what a valid request does is its handler's business.
What the description leaves open is done as Stripe does it: a form value is text, read as the type
its schema names; a parameter that no schema names is refused everywhere, but for the `page` that
v2 puts into the address of a next page; v2 takes JSON alone and needs a `Stripe-Version`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any, Final

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from usageflow.stripe.emulator import forms
from usageflow.stripe.emulator.replies import Reply, error, invalid

FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"
_INTEGER: Final = re.compile(r"-?\d{1,18}\Z", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?\Z", re.ASCII)
_TEMPLATE: Final = re.compile(r"\{(\w+)\}\Z")
_METHODS: Final = frozenset({"get", "post", "delete"})

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One request that keeps the contract: which operation, on which objects, with what."""

    operation: str
    route: str
    path: dict[str, str]
    params: dict[str, Any]

    @property
    def version(self) -> str:
        """The version of the API it is made to, `v1` or `v2`."""
        return self.route.partition(" /")[2][:2]


class _StreamEvent(msgspec.Struct, forbid_unknown_fields=True):
    event_name: str
    payload: dict[str, str]
    identifier: str | msgspec.UnsetType = msgspec.UNSET
    timestamp: str | msgspec.UnsetType = msgspec.UNSET


class _Stream(msgspec.Struct, forbid_unknown_fields=True):
    events: list[_StreamEvent]


_FAST: Final = {"PostV2BillingMeterEventStream": msgspec.json.Decoder(_Stream)}
"""What comes ten thousand times a second is read by a type that says what its schema says; what
does not fit the type goes the long way, which finds the words.
"""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a query or a body may hold, compiled once."""

    schema: Schema
    validator: Draft202012Validator

    def refusal(self, value: Any) -> Reply | None:
        """Stripe's words for the worst that is wrong with `value`."""
        worst = best_match(self.validator.iter_errors(value))
        return None if worst is None else _worded(worst)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method and path of the description, and what its query and its body may hold."""

    name: str
    method: str
    segments: tuple[str, ...]
    query: Parameters
    body: Parameters | None
    media_type: str

    @property
    def route(self) -> str:
        """The operation for people: `GET /v1/billing/meters/{id}`."""
        return f"{self.method} /{'/'.join(self.segments)}"

    @property
    def placeholders(self) -> int:
        """How many segments are names of objects; a literal path is preferred over these."""
        return sum(_TEMPLATE.match(segment) is not None for segment in self.segments)

    def match(self, method: str, segments: tuple[str, ...]) -> dict[str, str] | None:
        """The path's parameters, or None if this is another operation."""
        if method != self.method or len(segments) != len(self.segments):
            return None
        found: dict[str, str] = {}
        for ours, given in zip(self.segments, segments, strict=True):
            template = _TEMPLATE.match(ours)
            if template and given:
                found[template[1]] = given
            elif ours != given:
                return None
        return found


@dataclass(frozen=True, slots=True)
class Target:
    """The operation a request means, and the objects in its path."""

    operation: Operation
    path: dict[str, str]

    def refused(self, headers: Mapping[str, str]) -> Reply | None:
        """The refusal of headers under which this operation cannot be called."""
        operation = self.operation
        v2 = operation.segments[0] == "v2"
        if v2 and not headers.get("stripe-version"):
            return invalid("API requests to v2 must have a Stripe-Version header.")
        given = headers.get("content-type", FORM).partition(";")[0].strip().lower()
        if operation.body is None or (given == JSON) == (operation.media_type == JSON):
            return None
        message = f"Invalid request: the content type must be {operation.media_type}."
        return error(415 if v2 else 400, message)

    def read(self, query: str, body: bytes) -> Call | Reply:
        """The call that is made with this query and body, or the refusal with its `param`."""
        operation = self.operation
        asked = coerce(operation.query.schema, forms.parse(query))
        refusal = operation.query.refusal(asked)
        if refusal is not None:
            return refusal
        sent = _fast(operation, body) or _body(operation, body)
        if isinstance(sent, Reply):
            return sent
        return Call(operation.name, operation.route, self.path, {**asked, **sent})


class Contract:
    """Every operation of one API description."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        operations = [
            _operation(method, path, item)
            for path, methods in document["paths"].items()
            for method, item in methods.items()
            if method in _METHODS
        ]
        self.operations = sorted(operations, key=lambda operation: operation.placeholders)

    def find(self, method: str, path: str) -> Target | Reply:
        """What this request means, or a 404; nothing of it is checked yet."""
        segments = tuple(path.strip("/").split("/"))
        for operation in self.operations:
            found = operation.match(method, segments)
            if found is not None:
                return Target(operation, found)
        return error(404, f"Unrecognized request URL ({method}: {path}).")

    def check(self, method: str, path: str, query: str, body: bytes) -> Call | Reply:
        """The call this request makes, or Stripe's refusal: 400 with `param`, 404 for no route."""
        target = self.find(method, path)
        return target if isinstance(target, Reply) else target.read(query, body)


@cache
def stripe_contract() -> Contract:
    """The contract of the slice that is shipped beside this module."""
    text = resources.files(__package__).joinpath("openapi-slice.json").read_text("utf-8")
    return Contract(json.loads(text))


def coerce(schema: Schema, value: Any) -> Any:
    """Form text as the type its schema names; what does not fit stays text and fails validation."""
    if "anyOf" in schema:
        candidates = [(branch, coerce(branch, value)) for branch in schema["anyOf"]]
        fitting = (
            item for branch, item in candidates if Draft202012Validator(branch).is_valid(item)
        )
        return next(fitting, value)
    kind = schema.get("type")
    if isinstance(value, dict):
        return _coerce_object(schema, value)
    if kind == "integer" and _INTEGER.match(value):
        return int(value)
    if kind == "number" and _NUMBER.match(value):
        return Decimal(value)
    if kind == "boolean" and value in ("true", "false"):
        return value == "true"
    return value


def _coerce_object(schema: Schema, value: dict[str, Any]) -> Any:
    if schema.get("type") == "array" and all(key.isdecimal() for key in value):
        return [coerce(schema["items"], value[key]) for key in sorted(value, key=int)]
    known = schema.get("properties", {})
    other = schema.get("additionalProperties") or {}
    return {key: coerce(known.get(key, other), item) for key, item in value.items()}


def _operation(method: str, path: str, item: Mapping[str, Any]) -> Operation:
    parameters = [one for one in item.get("parameters", []) if one["in"] == "query"]
    properties = {one["name"]: one["schema"] for one in parameters}
    if path.startswith("/v2/") and "limit" in properties:
        properties["page"] = {"type": "string"}
    query = {
        "type": "object",
        "properties": properties,
        "required": [one["name"] for one in parameters if one.get("required")],
    }
    content = item.get("requestBody", {}).get("content", {})
    media_type = next(iter(content), JSON if path.startswith("/v2/") else FORM)
    body = content[media_type]["schema"] if content else None
    return Operation(
        name=item["operationId"],
        method=method.upper(),
        segments=tuple(path.strip("/").split("/")),
        query=_compiled(query),
        body=_compiled(body) if body else None,
        media_type=media_type,
    )


def _compiled(schema: Schema) -> Parameters:
    closed = _closed(schema)
    return Parameters(closed, Draft202012Validator(closed))


def _closed(schema: Schema) -> Schema:
    """The schema with every object that lists its properties closed to others."""
    closed: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            closed[key] = {name: _closed(item) for name, item in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            closed[key] = _closed(value)
        elif key == "anyOf":
            closed[key] = [_closed(branch) for branch in value]
        else:
            closed[key] = value
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _fast(operation: Operation, body: bytes) -> dict[str, Any] | None:
    """The body, if it is right and its operation has a type to read it by."""
    decoder = _FAST.get(operation.name)
    if decoder is None:
        return None
    try:
        found: dict[str, Any] = msgspec.to_builtins(decoder.decode(body))
    except msgspec.MsgspecError:
        return None
    return found


def _body(operation: Operation, body: bytes) -> dict[str, Any] | Reply:
    """The parameters in the body, checked; ignored where the description has no body."""
    if operation.body is None:
        return {}
    try:
        if operation.media_type == FORM:
            document = coerce(operation.body.schema, forms.parse(body.decode()))
        else:
            document = json.loads(body or b"{}")
    except ValueError:
        return invalid(f"The request body is not {operation.media_type}.")
    if not isinstance(document, dict):
        return invalid("The request body is no object.")
    return operation.body.refusal(document) or document


def _worded(fault: ValidationError) -> Reply:
    place = list(fault.absolute_path)
    given: Any = fault.instance
    schema: Any = fault.schema
    if fault.validator == "additionalProperties":
        extra = next(key for key in given if key not in schema["properties"])
        name = forms.parameter([*place, extra])
        return invalid(f"Received unknown parameter: {name}", param=name, code="parameter_unknown")
    if fault.validator == "required":
        absent = next(key for key in schema["required"] if key not in given)
        name = forms.parameter([*place, absent])
        return invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")
    name = forms.parameter(place)
    if fault.validator == "type" and schema["type"] == "integer":
        code = "parameter_invalid_integer"
        return invalid(f"Invalid integer: {given}", param=name, code=code)
    return invalid(f"Invalid {name}: {fault.message}", param=name)
