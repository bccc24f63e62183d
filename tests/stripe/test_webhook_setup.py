"""The webhooks that Stripe is asked for, and the secrets they are signed with."""

import base64
import http.server
import threading
from collections.abc import Iterator

import pytest
import stripe as stripe_sdk
from sqlmodel import col, select

from usageflow.catalog.audit import CLI
from usageflow.catalog.organizations import default_organization, organization
from usageflow.catalog.secrets import Keyring, Place
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow, OrganizationRow, StripeWebhookRow
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.stripe import accounts
from usageflow.stripe.client import parse_webhook
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.events import DEAUTHORIZED, SNAPSHOTS
from usageflow.stripe.inbound import Endpoint
from usageflow.stripe.webhook_setup import (
    THIN_EVENTS,
    bringing,
    create,
    remove,
    webhooks,
)

KEYS = base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def received() -> Iterator[tuple[str, list[tuple[bytes, str]]]]:
    """The URL of a server, and (body, signature) of everything that was posted to it."""
    posts: list[tuple[bytes, str]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            posts.append((body, self.headers["stripe-signature"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", posts
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(emulator: RemoteEmulator, received: tuple[str, list[tuple[bytes, str]]]) -> Settings:
    """Those of a server in test mode, which the emulator reaches."""
    return Settings(
        stripe_api_key=emulator.api_key,
        stripe_api_base=emulator.url,
        public_url=received[0],
        encryption_keys=KEYS,
    )


def opened(database: Database) -> list[str]:
    """The secrets that are stored."""
    keyring = Keyring.read(KEYS)
    with database.reading() as tx:
        rows = tx.session.exec(select(StripeWebhookRow)).all()
        return [keyring.open(row.secret, Place.of(row)) for row in rows]


@pytest.fixture
def own(database: Database) -> str:
    """The id of the default organization's own account."""
    with database.transaction() as tx:
        return accounts.ensure_own(tx, default_organization(tx), livemode=False)


def test_both_are_made_once(
    database: Database, settings: Settings, own: str, sdk: stripe_sdk.StripeClient
) -> None:
    """A second time nothing is missing; each asks for what is read, in the SDK's version."""
    made = create(database, settings, own, actor=CLI)
    assert [row.kind for row in made] == ["snapshot", "thin"]
    assert create(database, settings, own, actor=CLI) == []
    (endpoint,) = sdk.v1.webhook_endpoints.list().data
    assert (endpoint.id, endpoint.url) == (
        made[0].endpoint_id,
        f"{settings.public_url}/stripe/webhooks",
    )
    assert tuple(endpoint.enabled_events) == SNAPSHOTS
    assert endpoint.api_version == stripe_sdk.api_version
    (destination,) = sdk.v2.core.event_destinations.list().data
    assert destination.id == made[1].endpoint_id
    assert tuple(destination.enabled_events) == THIN_EVENTS
    assert "invoice.created" not in SNAPSHOTS  # Stripe would wait for our answer to it


def test_what_arrives_is_signed_with_a_secret_of_ours(
    database: Database,
    settings: Settings,
    own: str,
    emulator: RemoteEmulator,
    received: tuple[str, list[tuple[bytes, str]]],
) -> None:
    """The secrets open again; in the database they are sealed."""
    create(database, settings, own, actor=CLI)
    emulator.seed([{"account_id": "a"}])
    emulator.settle()
    ((body, signature),) = received[1]
    event = parse_webhook(body, signature, opened(database))
    assert event is not None
    assert event.type == "customer.created"
    assert parse_webhook(body, signature, ["whsec_other"]) is None
    with database.reading() as tx:
        for row in tx.session.exec(select(StripeWebhookRow)):
            assert "whsec_" not in row.model_dump_json()


def test_a_platform_hears_all_that_are_connected(
    database: Database,
    settings: Settings,
    sdk: stripe_sdk.StripeClient,
    emulator: RemoteEmulator,
) -> None:
    """Once for all of them; and that one was disconnected."""
    platform = settings.with_changes(stripe_client_id="ca_1")
    ids = []
    with database.transaction() as tx:
        for name in ("a", "b"):
            tx.session.add(OrganizationRow(id=name, name=name, created_at=tx.now))
            tx.session.flush()
            ids.append(accounts.connect(tx, name, f"acct_{name}", livemode=False))
    assert [row.kind for row in create(database, platform, str(ids[0]), actor=CLI)] == [
        "snapshot",
        "thin",
    ]
    assert create(database, platform, str(ids[1]), actor=CLI) == []
    with database.reading() as tx:
        for account in accounts.accounts(tx):
            assert [row.kind for row in bringing(tx, account)] == ["snapshot", "thin"]
    (endpoint,) = sdk.v1.webhook_endpoints.list().data
    assert set(endpoint.enabled_events) == {*SNAPSHOTS, DEAUTHORIZED}
    (destination,) = sdk.v2.core.event_destinations.list().data
    assert destination.events_from == ["@accounts"]


def test_what_was_made_before_a_refusal_is_kept(
    database: Database, settings: Settings, own: str, emulator: RemoteEmulator
) -> None:
    """Its secret is shown once; the next try makes the other one."""
    emulator.fault("status", route="/v2/core/event_destinations", status=403)
    with pytest.raises(DeliveryError):
        create(database, settings, own, actor=CLI)
    assert len(opened(database)) == 1
    assert [row.kind for row in create(database, settings, own, actor=CLI)] == ["thin"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encryption_keys": None}, "USAGEFLOW_ENCRYPTION_KEYS"),
        ({"stripe_api_key": None}, "there is no key for it here"),
    ],
)
def test_what_could_not_be_kept_is_not_made(
    database: Database,
    settings: Settings,
    own: str,
    sdk: stripe_sdk.StripeClient,
    *,
    changes: dict[str, None],
    reason: str,
) -> None:
    """Stripe shows a secret once."""
    with pytest.raises(ConfigurationError, match=reason):
        create(database, settings.with_changes(**changes), own, actor=CLI)
    assert sdk.v1.webhook_endpoints.list().data == []


def test_live_webhooks_need_https(database: Database, settings: Settings) -> None:
    """Stripe sends to no other address."""
    with database.transaction() as tx:
        own = accounts.ensure_own(tx, default_organization(tx), livemode=True)
    live = settings.with_changes(stripe_api_key="sk_live_emulated")
    with pytest.raises(ConfigurationError, match="USAGEFLOW_PUBLIC_URL"):
        create(database, live, own, actor=CLI)
    https = live.with_changes(public_url="https://usage.example")
    assert len(create(database, https, own, actor=CLI)) == 2


def test_a_webhook_is_removed_on_both_sides(
    database: Database, settings: Settings, own: str, sdk: stripe_sdk.StripeClient
) -> None:
    """With its secret, and noted; another organization's is not seen."""
    create(database, settings, own, actor=CLI)
    with database.reading() as tx:
        organization_id = accounts.accounts(tx)[0].organization_id
        made = webhooks(tx, organization_id)
        assert webhooks(tx, "other") == []
    assert [(one.kind, one.for_all) for one in made] == [("snapshot", False), ("thin", False)]
    for one in (*made, made[0]):
        assert remove(database, settings, one, actor=CLI) is None
    assert sdk.v1.webhook_endpoints.list().data == []
    assert sdk.v2.core.event_destinations.list().data == []
    with database.reading() as tx:
        done = tx.session.exec(select(AuditRow.action).order_by(col(AuditRow.seq))).all()
    assert done == ["stripe.webhook.create"] * 2 + ["stripe.webhook.remove"] * 2
    assert opened(database) == []


@pytest.mark.parametrize("kind", ["snapshot", "thin"])
def test_a_webhook_that_stripe_keeps_is_forgotten_all_the_same(
    database: Database, settings: Settings, own: str, emulator: RemoteEmulator, kind: str
) -> None:
    """What it brings is refused, and who removed it is told why it is still there."""
    create(database, settings, own, actor=CLI)
    with database.reading() as tx:
        organization_id = accounts.accounts(tx)[0].organization_id
        (one,) = (each for each in webhooks(tx, organization_id) if each.kind == kind)
    route = "/v1/webhook_endpoints/" if kind == "snapshot" else "/v2/core/event_destinations/"
    emulator.fault("status", route=f"{route}{one.endpoint_id}", status=403)
    objection = remove(database, settings, one, actor=CLI)
    assert objection is not None
    assert objection.startswith("Stripe: ")
    assert len(opened(database)) == 1


def test_without_a_key_a_webhook_is_only_forgotten(
    database: Database, settings: Settings, own: str
) -> None:
    """The key may be gone for ever."""
    create(database, settings, own, actor=CLI)
    with database.reading() as tx:
        (first, _) = webhooks(tx, accounts.accounts(tx)[0].organization_id)
    keyless = settings.with_changes(stripe_api_key=None)
    assert "no key for it" in (remove(database, keyless, first, actor=CLI) or "")
    assert len(opened(database)) == 1


def test_those_of_the_platform_are_every_organizations(
    database: Database, settings: Settings, sdk: stripe_sdk.StripeClient
) -> None:
    """Each sees them, and can remove them with the platform's key."""
    platform = settings.with_changes(stripe_client_id="ca_1")
    with database.transaction() as tx:
        default_organization(tx)
        tx.session.add(OrganizationRow(id="a", name="a", created_at=tx.now))
        tx.session.flush()
        connected = accounts.connect(tx, "a", "acct_a", livemode=False)
    create(database, platform, str(connected), actor=CLI)
    with database.reading() as tx:
        seen = webhooks(tx, str(organization(tx, "default")))
        assert seen == webhooks(tx, "a")
    assert [one.for_all for one in seen] == [True, True]
    for one in seen:
        assert remove(database, platform, one, actor=CLI) is None
    assert sdk.v1.webhook_endpoints.list().data == []


def test_an_endpoint_does_not_show_its_secret() -> None:
    """Who logs it, logs no secret."""
    assert "whsec_S" not in repr(Endpoint("we_1", "whsec_S"))
