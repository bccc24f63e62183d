"""The routes that an OpenAPI 3 document describes. Reads no other part of it."""

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from usageflow.errors import ConfigurationError
from usageflow.policies.app_routes import AppRoute, Piece

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
"""The operations of a path item (OpenAPI 3.2, section 4.9)."""
_PARAMETER: Final = re.compile(r"\{([^{}]+)\}")
_FORMS: Final = {
    "integer": r"-?[0-9]+",
    "number": r"-?[0-9]+(?:\.[0-9]+)?",
    "uuid": r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
"""What values of these types and formats look like in a path."""
_SEGMENT: Final = "[^/]+"
_REFERENCES_MAX: Final = 10
"""Steps from reference to reference; a circle has no end."""


def read_document(file: Path) -> Any:
    """The parsed file. Raises ConfigurationError if it cannot be read."""
    try:
        text = file.read_bytes()
        if file.suffix == ".json":
            return msgspec.json.decode(text)
        return importlib.import_module("yaml").safe_load(text)
    except ModuleNotFoundError:
        raise ConfigurationError(f"{file}: YAML needs PyYAML: pip install pyyaml") from None
    except Exception as error:  # PyYAML's own errors cannot be named without it
        raise ConfigurationError(f"{file}: cannot be read: {error}") from error


def document_routes(document: Any, *, served: bool) -> list[AppRoute]:
    """The operations of a document, the most specific first.

    `served`: host and path of the first of its `servers` go before its paths. An app's own
    description leaves that out, because the app routes what is below.

    Raises ConfigurationError if it is no OpenAPI 3 document, or refers to other files.
    """
    version = document.get("openapi") if isinstance(document, dict) else None
    if not str(version).startswith("3."):
        raise ConfigurationError("not an OpenAPI 3 document: it has no openapi = 3.x")
    try:
        routes = list(_operations(document, served=served))
    except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:
        raise ConfigurationError(f"not a valid OpenAPI document: {error!r}") from error
    return sorted(routes, key=lambda route: route.specificity)


def _operations(document: Mapping[str, Any], *, served: bool) -> Iterator[AppRoute]:
    for path, referred in document.get("paths", {}).items():
        item = _resolved(document, referred)
        for method in _METHODS:
            operation = item.get(method)
            if operation is None or (method == "head" and "get" in item):
                continue
            servers = [each.get("servers") for each in (operation, item, document)]
            host, base = _server(servers) if served else (None, "")
            parameters = [*(item.get("parameters") or ()), *(operation.get("parameters") or ())]
            forms = _forms(document, parameters)
            yield AppRoute.of(
                method.upper(),
                base + path,
                operation.get("operationId") or operation.get("summary") or "",
                _pieces(base + path, forms),
                host,
            )


def _server(declared: list[Any]) -> tuple[str | None, str]:
    """Host and path of the first server of the innermost list; variables are at their defaults."""
    if not any(declared):
        return None, ""
    server = next(filter(None, declared))[0]
    url = server["url"]
    for name, variable in (server.get("variables") or {}).items():
        url = url.replace(f"{{{name}}}", str(variable["default"]))
    parts = urlsplit(url)
    return parts.netloc or None, unquote(parts.path).rstrip("/")


def _forms(document: Mapping[str, Any], parameters: list[Any]) -> dict[str, str]:
    """The patterns of the path's parameters, as far as their schemas say."""
    forms = {}
    for parameter in (_resolved(document, each) for each in parameters):
        if parameter["in"] == "path":
            schema = _resolved(document, parameter.get("schema") or {})
            forms[parameter["name"]] = _form(schema)
    return forms


def _form(schema: Mapping[str, Any]) -> str:
    if schema.get("enum"):
        return "|".join(re.escape(str(value)) for value in schema["enum"])
    return _FORMS.get(str(schema.get("format")), _FORMS.get(str(schema.get("type")), _SEGMENT))


def _pieces(path: str, forms: Mapping[str, str]) -> Iterator[Piece]:
    """Fixed texts and parameters in turn; a template's fixed texts may be percent-encoded."""
    for index, part in enumerate(_PARAMETER.split(path)):
        if index % 2:
            yield re.compile(forms.get(part, _SEGMENT))
        else:
            yield unquote(part)


def _resolved(document: Mapping[str, Any], value: Any) -> Any:
    """What `value` refers to within the document, or the value itself."""
    for _ in range(_REFERENCES_MAX):
        reference = value.get("$ref")
        if reference is None:
            return value
        if not reference.startswith("#/"):
            raise ConfigurationError(f"{reference} is in another file: bundle the document first")
        value = document
        for step in reference[2:].split("/"):
            value = value[unquote(step).replace("~1", "/").replace("~0", "~")]
    raise ConfigurationError(f"{reference} refers to itself")
