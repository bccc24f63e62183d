"""The whole HTTP API over a real database, called through ASGI, by keys and by people."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

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
