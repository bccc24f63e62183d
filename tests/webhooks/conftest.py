"""Receivers of webhooks that are real servers, and a clock that a test moves."""

import asyncio
import base64
import json
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult

from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import Keyring
from usageflow.db import outbox
from usageflow.db.outbox_tables import WebhookEndpointRow
from usageflow.db.session import Database
from usageflow.webhooks import endpoints
from usageflow.webhooks.fan_out import fan_out_due
from usageflow.webhooks.posting import Poster
from usageflow.webhooks.sender import webhook_sender

ACTOR = Actor("owner@acme.example", "req_1")


@dataclass
class Receiver:
    """A server that keeps what it is sent, and answers as `reply` says: status and body."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0
    reply: Callable[[dict[str, Any]], tuple[int, bytes]] = lambda _: (200, b"ok")
    url: str = ""

    def take(self, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        """Keep one request; its answer."""
        lines = {name.lower(): value for name, value in headers.items()}
        request = {"path": path, "headers": lines, "body": body}
        self.requests.append(request)
        return self.reply(request)

    @property
    def ids(self) -> list[str]:
        """The events it was sent, in order, repeats as well."""
        return [one["headers"]["webhook-id"] for one in self.requests]

    @property
    def numbers(self) -> list[Any]:
        """The `number` in the data of each of them."""
        return [json.loads(one["body"])["data"]["number"] for one in self.requests]


@contextmanager
def receiving(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Receiver]:
    """A receiver that listens on a free port of this machine."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, content = receiver.take(self.path, self.headers, body)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if 300 <= status < 400:
                self.send_header("location", "/elsewhere")
            self.end_headers()
            self.wfile.write(content)
            receiver.answered += 1

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        receiver.url = f"{scheme}://{host}:{server.server_address[1]}/hook"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join(10)


@dataclass
class Clock:
    """The time of a database, which stands still until it is moved."""

    now: datetime = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        """What time it is."""
        return self.now

    def forward(self, **time: float) -> None:
        """Move on by a time, as `timedelta` has it."""
        self.now += timedelta(**time)


@dataclass
class Office:
    """An organization that tells of what happens, and what a test does with it."""

    db: Database
    clock: Clock
    keyring: Keyring
    poster: Poster
    organization_id: str

    def endpoint(self, url: str, **options: Any) -> tuple[str, str]:
        """A new endpoint's id and its secret."""
        with self.db.transaction() as tx:
            made = endpoints.create(
                tx, self.organization_id, url=url, keyring=self.keyring, actor=ACTOR, **options
            )
            assert not isinstance(made, Refused), made
            return made[0].id, made[1]

    def tell(self, number: int, kind: outbox.EventType = "invoice.paid") -> str:
        """Something happens; the event's id."""
        with self.db.transaction() as tx:
            return outbox.emit(tx, self.organization_id, kind, {"number": number})

    def send(self) -> None:
        """Fan out, and send everything that is due now."""
        while fan_out_due(self.db):
            pass
        sender = webhook_sender(self.db, self.keyring, self.poster, chance=lambda: 0.0)
        sender.begin()
        sender.wait(30)

    def row(self, endpoint_id: str) -> WebhookEndpointRow:
        """The endpoint as it is stored."""
        with self.db.reading() as tx:
            row = tx.session.get_one(WebhookEndpointRow, endpoint_id)
            tx.session.expunge(row)
            return row


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver over plain HTTP."""
    with receiving() as made:
        yield made


@pytest.fixture
def another_receiver() -> Iterator[Receiver]:
    """One more."""
    with receiving() as made:
        yield made


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """An authority that nobody trusts by itself."""
    return trustme.CA()


@pytest.fixture(scope="session")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def identity(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context for `hooks.example`, which answers on loopback here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example", "localhost").configure_cert(context)
    return context


@pytest.fixture
def tls_receiver(identity: ssl.SSLContext) -> Iterator[Receiver]:
    """A receiver over TLS, named `hooks.example`."""
    with receiving(identity, "hooks.example") as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    """The time of the test's database."""
    return Clock()


@pytest.fixture
def keyring() -> Keyring:
    """A key to seal with."""
    return Keyring.read(base64.b64encode(b"k" * 32).decode())


@pytest.fixture
def poster(trusting: ssl.SSLContext) -> Poster:
    """Posts to loopback as well."""
    return Poster(private=True, tls=trusting, total_s=5.0)


@pytest.fixture
def office(database_url: str, clock: Clock, keyring: Keyring, poster: Poster) -> Iterator[Office]:
    """The default organization, on both databases."""
    db = Database.open(database_url, clock=clock)
    with db.transaction() as tx:
        organization_id = default_organization(tx)
    yield Office(db, clock, keyring, poster, organization_id)
    db.close()


class PostOffice:
    """An SMTP server that keeps what it is sent, on a free port of this machine."""

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        security: str = "none",
        login: tuple[str, str] | None = None,
        replies: dict[str, str] | None = None,
    ) -> None:
        self.mails: list[Any] = []
        self.logins: list[str] = []
        self.replies = replies or {}
        self._login = login
        options: dict[str, Any] = {"tls_context": tls, "require_starttls": True}
        if security != "starttls":
            options = {"auth_require_tls": False}

        def protocol() -> SMTP:
            with warnings.catch_warnings(action="ignore"):  # it knows of no TLS but STARTTLS
                return SMTP(
                    self,
                    hostname="localhost",
                    authenticator=self._authenticate,
                    auth_required=login is not None,
                    loop=self._loop,
                    **options,
                )

        self._loop = asyncio.new_event_loop()
        listening = self._loop.create_server(
            protocol, "127.0.0.1", 0, ssl=tls if security == "tls" else None
        )
        self._server = self._loop.run_until_complete(listening)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; whoever is still connected is cut off."""
        asyncio.run_coroutine_threadsafe(self._cut_off(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _cut_off(self) -> None:
        self._server.close()
        conversations = asyncio.all_tasks() - {asyncio.current_task()}
        for one in conversations:
            one.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await asyncio.sleep(0)  # connections that were closed have their last word

    def _authenticate(self, *given: Any) -> AuthResult:
        data = given[-1]
        self.logins.append(data.login.decode())
        right = (data.login.decode(), data.password.decode()) == self._login
        return AuthResult(success=right, handled=False)

    async def handle_MAIL(self, *given: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """The sender."""
        given[2].mail_from = given[3]
        return self.replies.get("MAIL", "250 OK")

    async def handle_RCPT(self, *given: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """A recipient."""
        given[2].rcpt_tos.append(given[3])
        return self.replies.get("RCPT", "250 OK")

    async def handle_DATA(self, *given: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """The message."""
        if "DATA" not in self.replies:
            self.mails.append(message_from_bytes(given[2].content, policy=default))
        return self.replies.get("DATA", "250 OK")

    async def handle_QUIT(self, *given: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """The end, with or without a word."""
        if "QUIT" in self.replies:
            given[0].transport.abort()
        return "221 Bye"


@pytest.fixture
def post_offices(identity: ssl.SSLContext) -> Iterator[Callable[..., PostOffice]]:
    """Makes SMTP servers named `localhost`."""
    opened = []

    def made(**options: Any) -> PostOffice:
        opened.append(PostOffice(identity, **options))
        return opened[-1]

    yield made
    for one in opened:
        one.close()
