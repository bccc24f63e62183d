"""Every route, for every role and for two organizations: made from our own OpenAPI.

A new route is tried without anything being written here; one that takes the id of something new
fails until `furnished` makes such a thing.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from usageflow._types import ASGIApp
from usageflow.catalog.permissions import of_role, of_scopes

ROLES = ("OWNER", "ADMIN", "DEVELOPER", "VIEWER")
MARK = "Zebra"
"""Stands in every name of the other organization; no answer to ours may hold it."""
NO_CREDENTIALS = 401


@pytest.fixture
def document(app: ASGIApp) -> dict[str, Any]:
    """Our OpenAPI document."""
    found: dict[str, Any] = app.openapi()  # type: ignore[attr-defined]
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, what is told of it) of every operation."""
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            yield method.upper(), path, told


def example(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """The smallest value that a schema permits, more or less."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return example(document["components"]["schemas"][name], document)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return example(schema[choice][0], document)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            wanted = schema.get("required", [])
            return {
                name: example(inner, document)
                for name, inner in schema.get("properties", {}).items()
                if name in wanted
            }
        case "array":
            return [example(schema["items"], document)] if schema.get("minItems") else []
        case "integer":
            return max(1, schema.get("minimum", 1))
        case "number":
            return 1
        case "boolean":
            return False
    if schema.get("format") == "date-time":
        return "2025-03-01T00:00:00Z"
    return "ada@example.com" if "@" in schema.get("pattern", "") else "example"


def body_of(told: dict[str, Any], document: dict[str, Any]) -> Any:
    """A body for an operation, None if it takes none."""
    content = told.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return None
    return example(content["application/json"]["schema"], document)


def query_of(told: dict[str, Any], ids: dict[str, str], document: dict[str, Any]) -> dict[str, Any]:
    """What must stand in the query."""
    return {
        one["name"]: ids.get(one["name"], example(one["schema"], document))
        for one in told.get("parameters", [])
        if one["in"] == "query" and one.get("required")
    }


def filled(path: str, ids: dict[str, str]) -> str:
    """The path with these ids in it."""
    return re.sub(r"{(\w+)}", lambda found: ids[found.group(1)], path)


def ask(
    client: httpx.Client, document: dict[str, Any], method: str, path: str, ids: dict[str, str]
) -> httpx.Response:
    """Call an operation with these ids."""
    told = document["paths"][path][method.lower()]
    body = body_of(told, document)
    if isinstance(body, dict):
        body = {name: ids.get(name, value) for name, value in body.items()}
    content = None if body is None else json.dumps(body)
    headers = {"content-type": "application/json"} if content is not None else {}
    params = query_of(told, ids, document)
    return client.request(
        method, filled(path, ids), content=content, headers=headers, params=params
    )


def test_nobody_comes_in_without_credentials(rest: httpx.Client, document: dict[str, Any]) -> None:
    """Every operation that needs a permission, or somebody at all, is closed to strangers."""
    ids = dict.fromkeys(_names(document), "x")
    closed = [
        (method, path)
        for method, path, told in operations(document)
        if "x-permission" in told and told["x-permission"] is not None
    ]
    assert len(closed) > 50
    for method, path in closed:
        response = ask(rest, document, method, path, ids)
        assert response.status_code == NO_CREDENTIALS, (method, path)
        assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_what_it_may(
    sign_in: Callable[..., httpx.Client], document: dict[str, Any], role: str
) -> None:
    """An operation is forbidden to a role exactly if the role lacks its permission."""
    client = sign_in(role)
    ids = dict.fromkeys(_names(document), "none-such")
    for method, path, told in operations(document):
        permission = told.get("x-permission")
        if permission is None or "/auth/" in path:
            continue
        response = ask(client, document, method, path, ids)
        forbidden = permission != "" and permission not in of_role(role)
        refused = response.status_code == httpx.codes.FORBIDDEN and "permission" in response.text
        assert refused == forbidden, (method, path, response.text)
        assert response.status_code < httpx.codes.INTERNAL_SERVER_ERROR, (method, path)


@pytest.mark.parametrize("scope", ["usage.write", "usage.read", "billing.read", "billing.write"])
def test_a_key_may_what_its_scopes_permit(
    rest: httpx.Client, key: Callable[..., str], document: dict[str, Any], scope: str
) -> None:
    """An operation is forbidden to a key exactly if none of its scopes permits it."""
    rest.headers["x-api-key"] = key(scope)
    ids = dict.fromkeys(_names(document), "none-such")
    for method, path, told in operations(document):
        permission = told.get("x-permission")
        if not permission:
            continue
        response = ask(rest, document, method, path, ids)
        refused = response.status_code == httpx.codes.FORBIDDEN and "permission" in response.text
        assert refused == (permission not in of_scopes([scope])), (method, path, response.text)


def _names(document: dict[str, Any]) -> set[str]:
    return {name for path in document["paths"] for name in re.findall(r"{(\w+)}", path)}
