"""Routes from an OpenAPI document: operations, forms of parameters, servers, references."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from usageflow.cli.app_routes import routes_of
from usageflow.cli.openapi import document_routes
from usageflow.errors import ConfigurationError
from usageflow.policies.app_routes import AppRoute

PATHS: dict[str, Any] = {
    "/items/{id}": {
        "parameters": [{"name": "id", "in": "path", "schema": {"type": "integer"}}],
        "get": {"operationId": "getItem"},
        "head": {},
        "delete": {
            "summary": "Remove",
            "parameters": [{"name": "id", "in": "path", "schema": {"format": "uuid"}}],
        },
    },
    "/items/prices": {"get": {"parameters": [{"name": "x", "in": "query"}]}},
    "/lang/{lang}.{kind}": {
        "head": {
            "parameters": [
                {"name": "lang", "in": "path", "schema": {"enum": ["de", "fr"]}},
                {"name": "kind", "in": "path"},
            ]
        }
    },
}


def routes(paths: dict[str, Any], *, served: bool = True, **document: Any) -> list[AppRoute]:
    """The routes of a document with these paths."""
    return document_routes({"openapi": "3.1.0", "paths": paths, **document}, served=served)


def test_operations_are_routes() -> None:
    """The most specific first; HEAD beside GET is no route of its own."""
    found = routes(PATHS)
    assert [(route.method, route.template, route.name) for route in found] == [
        ("GET", "/items/prices", ""),
        ("GET", "/items/{id}", "getItem"),
        ("DELETE", "/items/{id}", "Remove"),
        ("HEAD", "/lang/{lang}.{kind}", ""),
    ]
    assert routes({}) == []


def test_parameters_have_the_forms_of_their_schemas() -> None:
    """The operation's own parameter goes before the path's."""
    _, get, delete, head = routes(PATHS)
    assert get.pattern.fullmatch("/items/-7")
    assert not get.pattern.fullmatch("/items/x")
    assert delete.pattern.fullmatch("/items/0190a0b0-0000-7000-8000-000000000001")
    assert not delete.pattern.fullmatch("/items/7")
    assert head.pattern.fullmatch("/lang/fr.txt")
    assert not head.pattern.fullmatch("/lang/it.txt")


@pytest.mark.parametrize(
    ("servers", "host", "template"),
    [
        ([{"url": "https://api.example.com/v1/"}, {"url": "/v2"}], "api.example.com", "/v1/a"),
        ([{"url": "/v1"}], None, "/v1/a"),
        ([{"url": "/"}], None, "/a"),
        ([], None, "/a"),
        (
            [{"url": "https://{t}.example.com", "variables": {"t": {"default": "eu"}}}],
            "eu.example.com",
            "/a",
        ),
    ],
)
def test_the_first_server_says_host_and_prefix(
    servers: list[Any], host: str | None, template: str
) -> None:
    """For a file, which describes what clients ask for; not for what an app says of itself."""
    (route,) = routes({"/a": {"get": {}}}, servers=servers)
    assert (route.host, route.template) == (host, template)
    (own,) = routes({"/a": {"get": {}}}, servers=servers, served=False)
    assert (own.host, own.template) == (None, "/a")


def test_the_innermost_servers_count() -> None:
    """Of the operation, then of the path, then of the document."""
    item = {"servers": [{"url": "/path"}], "get": {"servers": [{"url": "/own"}]}, "put": {}}
    found = routes({"/a": item, "/b": {"get": {}}}, servers=[{"url": "/all"}])
    assert {route.template for route in found} == {"/own/a", "/path/a", "/all/b"}


def test_references_within_the_document_are_followed() -> None:
    """Of path items, parameters and schemas; names with slashes are escaped."""
    (route,) = routes(
        {"/a/{id}": {"$ref": "#/components/pathItems/a~1b"}},
        components={
            "pathItems": {"a/b": {"get": {"parameters": [{"$ref": "#/components/parameters/id"}]}}},
            "parameters": {
                "id": {"name": "id", "in": "path", "schema": {"$ref": "#/components/schemas/n"}}
            },
            "schemas": {"n": {"type": "number"}},
        },
    )
    assert route.pattern.fullmatch("/a/7.5")
    assert not route.pattern.fullmatch("/a/x")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"swagger": "2.0", "paths": {}}, "not an OpenAPI 3 document"),
        ([], "not an OpenAPI 3 document"),
        ({"openapi": "3.0.0", "paths": []}, "not a valid OpenAPI document"),
        ({"openapi": "3.0.0", "paths": {"/a": 5}}, "not a valid OpenAPI document"),
        ({"openapi": "3.0.0", "paths": {"/a": {"$ref": "b.json"}}}, "b.json is in another file"),
        ({"openapi": "3.0.0", "paths": {"/a": {"$ref": "#/x"}}}, "not a valid OpenAPI document"),
        ({"openapi": "3.0.0", "x": {"$ref": "#/x"}, "paths": {"/a": {"$ref": "#/x"}}}, "itself"),
    ],
)
def test_what_cannot_be_read_is_told(document: Any, message: str) -> None:
    """Rather than a coverage of half of an API."""
    with pytest.raises(ConfigurationError, match=message):
        document_routes(document, served=True)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON, and YAML if its reader is there."""
    document = {"openapi": "3.0.3", "paths": {"/a": {"get": {}}}}
    (tmp_path / "api.json").write_text(json.dumps(document))
    (tmp_path / "api.yaml").write_text("openapi: 3.0.3\npaths:\n  /a:\n    get: {}\n")
    (tmp_path / "bad.yml").write_text("a: [")
    for name in ("api.json", "api.yaml"):
        assert [route.template for route in routes_of(str(tmp_path / name))] == ["/a"]
    for name in ("none.json", "bad.yml"):
        with pytest.raises(ConfigurationError, match=f"{name}: cannot be read"):
            routes_of(str(tmp_path / name))
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigurationError, match="pip install pyyaml"):
        routes_of(str(tmp_path / "api.yaml"))
