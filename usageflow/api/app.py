"""The API as one ASGI app: routes, probes, and one answer shape for everything that goes wrong.

It opens nothing and owns nothing: the database and the settings are given, and whoever serves it
closes them.
"""

import logging
from collections.abc import Callable
from typing import Final

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from usageflow._version import __version__
from usageflow.api import track_openapi
from usageflow.api.access import Door, Rest
from usageflow.api.edge import EdgeEndpoints
from usageflow.api.invite import InvitePages
from usageflow.api.metrics import MetricsEndpoint
from usageflow.api.portal import PortalPages
from usageflow.api.problems import Problem, json_response
from usageflow.api.reference import reference_routes
from usageflow.api.requests import RequestIds
from usageflow.api.rest import create_rest
from usageflow.api.routers import routers
from usageflow.api.signup import SignupPages
from usageflow.api.stripe_connect import StripeConnectPages
from usageflow.api.stripe_webhooks import StripeWebhooks
from usageflow.api.track import TrackEndpoints
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.errors import DatabaseError
from usageflow.recorder.sink import EVENTS_PATH, POLICIES_PATH

RETRY_AFTER_S: Final = 2
"""What a client is told while the database does not answer; edges keep their events meanwhile."""

logger = logging.getLogger("usageflow.api")


def create_api(
    db: Database,
    settings: Settings,
    *,
    on_events: Callable[[], None] = lambda: None,
    on_meters: Callable[[str], None] = lambda _: None,
    on_billing: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The API over `db`. `on_events` is called whenever events were committed.

    `on_meters` gets the id of an account when Stripe tells that its meters have changed;
    `on_billing` is called when there may be something to close, or to tell to others.
    """
    app = create_rest(
        Rest(db, settings, Door(db, settings), on_events, on_billing),
        routers=routers(),
        routes=[
            Route("/", _about, methods=["GET"]),
            Route("/healthz", _alive, methods=["GET"]),
            Route("/readyz", _readiness(db), methods=["GET"]),
            *EdgeEndpoints(db, settings, on_events).routes(),
            *SignupPages(db).routes(),
            *InvitePages(db).routes(),
            *StripeConnectPages(db, settings).routes(),
            *StripeWebhooks(db, settings, on_meters).routes(),
            *MetricsEndpoint(db, settings).routes(),
            *PortalPages(db, settings).routes(),
            *TrackEndpoints(db, settings).routes(),
        ],
        paths=track_openapi.OPENAPI,
        exception_handlers={
            ClientDisconnect: _gone,
            DatabaseError: _unavailable,
            PoolTimeoutError: _unavailable,
            Exception: _failed,
        },
    )
    app.router.routes.extend(reference_routes(app))
    app.add_middleware(RequestIds)
    return app


async def _about(_: Request) -> Response:
    """Names the product and where to go from here."""
    return json_response(
        {
            "product": "UsageFlow",
            "version": __version__,
            "links": {
                "health": "/healthz",
                "readiness": "/readyz",
                "policies": POLICIES_PATH,
                "events": EVENTS_PATH,
            },
        }
    )


async def _alive(_: Request) -> Response:
    """The process is up; says nothing about the database."""
    return json_response({"status": "ok"})


def _readiness(db: Database) -> Callable[[Request], Response]:
    def ready(_: Request) -> Response:
        """The database answers; 503 otherwise, through the handlers below."""
        with db.reading() as tx:
            tx.session.connection().execute(text("SELECT 1"))
        return json_response({"status": "ok"})

    return ready


async def _gone(_: Request, __: Exception) -> Response:
    """The client left in the middle of its body: nothing was read in, nobody reads this."""
    return Problem(400, "client_disconnected", "the body ended early").response()


async def _unavailable(request: Request, error: Exception) -> Response:
    """The database did not answer, so nothing was taken; the client may send the same again."""
    logger.warning("%s: the database did not answer: %s", request.url.path, error)
    return Problem(
        503,
        "database_unavailable",
        "the database does not answer at the moment; send the same again later",
        {"retry-after": str(RETRY_AFTER_S)},
    ).response()


async def _failed(_: Request, __: Exception) -> Response:
    """A fault of ours. Starlette raises it again behind this answer, so the log has the place."""
    return Problem(500, "internal_error", "the server made a mistake; its log has more").response()
