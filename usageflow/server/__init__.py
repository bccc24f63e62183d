"""The composition root of a server: settings become one database, one ASGI app and its worker.

It decides nothing about usage. `Server` is everything but the socket, for programs that bring their
own; `serve` adds the socket, the signals and uvicorn.
"""

import logging
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from types import TracebackType
from typing import Final, Self

import uvicorn

from usageflow._types import ASGIApp
from usageflow.addresses import bound_socket
from usageflow.api import create_api
from usageflow.api.signup import PATH as SIGNUP_PATH
from usageflow.billing.publishing import publish
from usageflow.catalog.audit import SYSTEM
from usageflow.catalog.members import open_signup
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import current
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.errors import ConfigurationError
from usageflow.ledger.units import pending, recover
from usageflow.policies import PolicyFile
from usageflow.server.billing import Billing
from usageflow.server.cloudevents import CloudEventsAccount
from usageflow.server.connections import BoundedConnection
from usageflow.server.duties import for_all_accounts
from usageflow.server.ways import STOP_S, Ways
from usageflow.stripe.access import start
from usageflow.worker import Worker

DRAIN_S: Final = 10
"""Longest wait for requests in progress when the server is told to stop."""
logger = logging.getLogger("usageflow.server")


class Server:
    """One served database: entered, it is open, migrated and claimed, and its worker runs.

    `app` is the ASGI app to serve meanwhile; `signup_token`, if not None, opens its sign-up page to
    the owner, as long as there is none. `policies`, if given, become the default
    organization's policies first. Entering raises DatabaseError or ConfigurationError if it
    cannot be; then nothing stays open.
    """

    app: ASGIApp
    signup_token: str | None

    def __init__(self, settings: Settings, *, policies: PolicyFile | None = None) -> None:
        self._settings = settings
        self._policies = policies
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            db = opened.enter_context(closing(Database.open(self._settings.database)))
            db.claim_server()
            db.migrate()
            organization_id = self._prepare(db)
            ways = self._ways(db, organization_id)
            opened.callback(ways.close)
            opened.enter_context(
                Worker(for_all_accounts(db, self._settings, ways), stop_s_max=STOP_S)
            )
            billing = opened.enter_context(Billing(db, self._settings))
            self.app = create_api(
                db,
                self._settings,
                on_events=ways.wake,
                on_meters=ways.want_meters,
                on_billing=billing.wake,
            )
            self._resources = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the calls in progress end, for a bounded time, then close the database."""
        self._resources.close()

    def _prepare(self, db: Database) -> str:
        """Make what must be there before the first request; the default organization's id."""
        with db.transaction() as tx:
            organization_id = default_organization(tx)
            if db.dialect == "sqlite":
                recover(tx)  # the only server of this file: whoever held a lease is gone
            if self._policies is not None:
                policies = [policy for policy, _ in self._policies.policies]
                publish(tx, organization_id, policies, self._policies.metrics, actor=SYSTEM)
            in_use = len(current(tx, organization_id).items)
            self.signup_token = open_signup(tx, organization_id)
        logger.info("database %s, %d policies", db.name, in_use)
        return organization_id

    def _ways(self, db: Database, organization_id: str) -> Ways:
        settings, cloudevents = self._settings, None
        with db.transaction() as tx:
            if settings.forward_to is not None:
                if settings.stripe_api_key is not None:
                    raise ConfigurationError(
                        "USAGEFLOW_FORWARD_TO and USAGEFLOW_STRIPE_API_KEY are both set; usage "
                        "goes to one place"
                    )
                cloudevents = CloudEventsAccount.ensure(tx, organization_id, settings)
            start(tx, settings, organization_id)
            waiting = pending(tx)
        ways = Ways(db, settings, cloudevents=cloudevents)
        if not ways.follow():
            logger.info("no account to forward to yet: usage is recorded")
        logger.info("%d units waiting", waiting)
        return ways


def serve(
    settings: Settings,
    *,
    policies: PolicyFile | None = None,
    tell: Callable[[str], None] = logger.info,
) -> None:
    """Serve until SIGINT or SIGTERM; then requests and calls in progress end, and it returns.

    `tell` gets what a person must see: the link by which the owner signs up, while there is none.
    It waits at most DRAIN_S for requests and twice STOP_S for what the worker does.
    Raises ConfigurationError if the address is taken, and what `Server` raises.
    """
    # uvicorn stops gracefully and then sends itself the signal again. As an interrupt it unwinds
    # through the `with` below, so that the worker and the database are closed too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        listening_socket(settings.host, settings.port) as listener,
        Server(settings, policies=policies) as server,
    ):
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{settings.port}"
        logger.info("serving %s", url)
        if server.signup_token is not None:
            tell(f"Create the owner's account: {url}{SIGNUP_PATH}?token={server.signup_token}")
        config = uvicorn.Config(
            server.app,
            loop="uvloop",
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        uvicorn.Server(config).run(sockets=[listener])


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises ConfigurationError; see `bound_socket`."""
    return bound_socket(host, port, option="--port")
