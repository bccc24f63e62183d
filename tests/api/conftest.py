"""The API over a real database, called through ASGI by an ordinary HTTP client."""

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest

from usageflow._types import ASGIApp
from usageflow.api import create_api
from usageflow.catalog.keys import create_key
from usageflow.catalog.organizations import default_organization
from usageflow.config import Settings
from usageflow.db.session import Database


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
    """Small limits, so that tests can reach them."""
    return Settings(ingest_bytes_max=4_000, ingest_events_max=500)


@pytest.fixture
def told() -> list[None]:
    """One entry for each time the API said that events were committed."""
    return []


@pytest.fixture
def api(database: Database, settings: Settings, told: list[None]) -> Iterator[httpx.Client]:
    """A client of the API over one database."""
    app = create_api(database, settings, on_events=lambda: told.append(None))
    with httpx.Client(transport=InProcess(app), base_url="http://api") as client:
        yield client


@pytest.fixture
def key(database: Database) -> Callable[..., str]:
    """`key("usage.write")`: the secret of a new key of the default organization."""

    def create(*scopes: str) -> str:
        with database.transaction() as tx:
            return create_key(tx, default_organization(tx), "edge", scopes).secret

    return create
