"""The whole HTTP API over a real database, called through ASGI, by keys and by people."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from usageflow._types import ASGIApp
from usageflow.api import create_api
from usageflow.catalog import organizations, sessions
from usageflow.catalog.keys import create_key
from usageflow.config import Settings
from usageflow.db.ids import new_id
from usageflow.db.session import Database
from usageflow.db.tables import MemberRow, PersonRow

EXAMPLES = {"end": "2025-04-01T00:00:00Z"}
"""Values of the query that an example of their type would not do for."""
ENCRYPTION_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


class InProcess(httpx.BaseTransport):
    """Calls an ASGI app without a server in between; a fault of the app shows as its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange in an event loop of its own."""

        async def exchange() -> httpx.Response:
            response = await self._app.handle_async_request(request)
            content = await response.aread()
            return httpx.Response(response.status_code, headers=response.headers, content=content)

        return asyncio.run(exchange())


@pytest.fixture
def settings() -> Settings:
    """Everything that needs a setting has one."""
    return Settings(encryption_keys=ENCRYPTION_KEY, public_url="http://api", webhooks_private="on")


@pytest.fixture
def app(database: Database, settings: Settings) -> ASGIApp:
    """The API over `database`."""
    return create_api(database, settings)


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Closes clients at the end."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def rest(app: ASGIApp, clients: ExitStack) -> httpx.Client:
    """A client that shows nothing of who it is."""
    return clients.enter_context(httpx.Client(transport=InProcess(app), base_url="http://api"))


@pytest.fixture
def organization_id(database: Database) -> str:
    """The default organization."""
    with database.transaction() as tx:
        return organizations.default_organization(tx)


@pytest.fixture
def sign_in(app: ASGIApp, database: Database, clients: ExitStack) -> Callable[..., httpx.Client]:
    """`sign_in("ADMIN", organization="default")`: a client of a new person with this role."""

    def signed_in(role: str = "OWNER", *, organization: str = "default") -> httpx.Client:
        with database.transaction() as tx:
            owner = organizations.organization(tx, organization) or (
                organizations.default_organization(tx)
                if organization == organizations.DEFAULT
                else organizations.create(tx, organization, actor="test")
            )
            person = PersonRow(
                id=new_id("person"),
                email=f"{new_id(role.lower())}@example.com",
                password_hash="$none$",
                created_at=tx.now,
            )
            tx.session.add(person)
            tx.session.flush()
            tx.session.add(
                MemberRow(
                    id=new_id("member"),
                    organization_id=owner,
                    person_id=person.id,
                    role=role,
                    created_at=tx.now,
                )
            )
            tx.session.flush()
            tokens = sessions.begin(tx, person.id, owner)
        client = httpx.Client(
            transport=InProcess(app),
            base_url="http://api",
            cookies={"access_token": tokens.access_token},
        )
        return clients.enter_context(client)

    return signed_in


@pytest.fixture
def key(database: Database) -> Callable[..., str]:
    """`key("usage.write")`: the secret of a new key of the default organization."""

    def create(*scopes: str) -> str:
        with database.transaction() as tx:
            return create_key(tx, organizations.default_organization(tx), "test", scopes).secret

    return create


class Calls:
    """Calls operations as our own OpenAPI document has them."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(method, path, what is told of it) of every operation."""
        for path, methods in self._document["paths"].items():
            for method, told in methods.items():
                yield method.upper(), path, told

    def names(self) -> set[str]:
        """The names that stand in paths."""
        return {name for path in self._document["paths"] for name in re.findall(r"{(\w+)}", path)}

    def ask(
        self, client: httpx.Client, method: str, path: str, ids: dict[str, str]
    ) -> httpx.Response:
        """Call an operation with these ids, in its path and its body, and else with examples."""
        told = self._document["paths"][path][method.lower()]
        schema = told.get("requestBody", {}).get("content", {}).get("application/json", {})
        body = self._example(schema["schema"]) if schema else None
        if isinstance(body, dict):
            body |= {name: ids[name] for name in body.keys() & ids.keys() if name.endswith("_id")}
        params = {
            one["name"]: ids.get(
                one["name"], EXAMPLES.get(one["name"], self._example(one["schema"]))
            )
            for one in told.get("parameters", [])
            if one["in"] == "query" and one.get("required")
        }
        filled = re.sub(r"{(\w+)}", lambda found: ids[found.group(1)], path)
        return client.request(method, filled, json=body, params=params)

    def _example(self, schema: dict[str, Any]) -> Any:
        """The smallest value that a schema permits, more or less."""
        if "$ref" in schema:
            return self._example(
                self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            )
        choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if choices:
            return self._example(choices[0])
        if "const" in schema or "enum" in schema:
            return schema.get("const") or schema["enum"][0]
        match schema.get("type"):
            case "object":
                known = schema.get("properties", {})
                return {name: self._example(known[name]) for name in schema.get("required", [])}
            case "array":
                return [self._example(schema["items"])] if schema.get("minItems") else []
            case "integer" | "number":
                return max(1, schema.get("minimum", 1))
            case "boolean":
                return False
        if schema.get("format") == "date-time":
            return "2025-03-01T00:00:00Z"
        return "ada@example.com" if "@" in schema.get("pattern", "") else "example"


@pytest.fixture
def calls(app: ASGIApp) -> Calls:
    """Every operation there is."""
    return Calls(app.openapi())  # type: ignore[attr-defined]
