"""Which webhooks are genuine, and what they may be about."""

import base64
import itertools
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import stripe as stripe_sdk
from sqlmodel import select

from usageflow.catalog.organizations import default_organization
from usageflow.catalog.secrets import Keyring, Place
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import (
    OrganizationRow,
    StripeAccountRow,
    StripeEventRow,
    StripeWebhookRow,
)
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.stripe.client import WEBHOOK_AGE_S_MAX
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.webhooks_in import Signer, Webhooks, is_fresh

KEYS = base64.b64encode(bytes(32)).decode()
GIVEN = "whsec_given"
Post = Callable[..., bool]


def add_account(database: Database, account: str, *, organization: str, livemode: bool) -> str:
    """An account of an organization; its id."""
    with database.transaction() as tx:
        if tx.session.get(OrganizationRow, organization) is None:
            tx.session.add(OrganizationRow(id=organization, name=organization, created_at=tx.now))
            tx.session.flush()
        row_id = f"{organization}/{account}/{livemode}"
        tx.session.add(
            StripeAccountRow(
                id=row_id,
                organization_id=organization,
                kind="own" if account == "own" else "connect",
                account=account,
                livemode=livemode,
                state="active",
                created_at=tx.now,
            )
        )
    return row_id


def add_endpoint(database: Database, account_id: str, secret: str) -> None:
    """A webhook endpoint that was made for this account."""
    with database.transaction() as tx:
        account = tx.session.get_one(StripeAccountRow, account_id)
        row = StripeWebhookRow(
            id=secret,
            organization_id=account.organization_id,
            account_id=account_id,
            endpoint_id="we_1",
            kind="snapshot",
            url="http://127.0.0.1/stripe/webhooks",
            secret="",
            created_at=tx.now,
        )
        row.secret = Keyring.read(KEYS).seal(secret, Place.of(row))
        tx.session.add(row)


@pytest.fixture
def organization(database: Database) -> str:
    """The default organization."""
    with database.transaction() as tx:
        return default_organization(tx)


@pytest.fixture
def own(database: Database, organization: str) -> str:
    """Its own account, in test mode."""
    return add_account(database, "own", organization=organization, livemode=False)


@pytest.fixture
def settings(emulator: RemoteEmulator) -> Settings:
    """Those of a server with a key, and the secret of an endpoint made by hand."""
    return Settings(
        stripe_api_key=emulator.api_key,
        stripe_api_base=emulator.url,
        encryption_keys=KEYS,
        stripe_webhook_secrets=f"whsec_old, {GIVEN}",
    )


@pytest.fixture
def changed() -> list[str]:
    """The accounts whose meters have changed."""
    return []


@pytest.fixture
def post(database: Database, settings: Settings, changed: list[str]) -> Post:
    """`post(secret=...)`: whether an event that is signed so was taken to be genuine."""
    webhooks = Webhooks(database, settings, changed.append)
    numbers = itertools.count(1)

    def sign_and_take(secret: str = GIVEN, **changes: Any) -> bool:
        event = {
            "id": f"evt_{next(numbers)}",
            "object": "event",
            "type": "billing.meter.created",
            "created": int(time.time()),
            "livemode": False,
            "data": {"object": {"id": "mtr_1"}},
        }
        body = json.dumps(event | changes)
        header = stripe_sdk.WebhookSignature.generate_signature_header(body, secret)
        return webhooks.take(body.encode(), header)

    return sign_and_take


def test_a_genuine_event_is_dealt_with_once(
    database: Database, own: str, post: Post, changed: list[str]
) -> None:
    """Whichever of the given secrets it is signed with; a repeat is genuine, too."""
    assert post(id="evt_x")
    assert post(secret="whsec_old", id="evt_x")
    assert changed == [own]
    with database.reading() as tx:
        assert tx.session.exec(select(StripeEventRow.event_id)).all() == ["evt_x"]


@pytest.mark.usefixtures("own")
def test_what_is_not_signed_by_stripe_is_not_taken(
    database: Database, settings: Settings, post: Post, changed: list[str]
) -> None:
    """Another secret, none, nonsense, or no JSON under a good signature."""
    assert not post(secret="whsec_other")
    webhooks = Webhooks(database, settings, changed.append)
    header = stripe_sdk.WebhookSignature.generate_signature_header("no event", GIVEN)
    for body, signature in ((b"{}", ""), (b"\xff", "t=1,v1=x"), (b"no event", header)):
        assert not webhooks.take(body, signature)
    assert changed == []


def test_what_no_secret_can_have_signed_opens_none(
    database: Database, own: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a signature, with a misshapen one or an old one, nothing is read or opened."""
    add_endpoint(database, own, "whsec_ours")
    webhooks = Webhooks(database, settings, lambda _: None)
    opened: list[str] = []
    monkeypatch.setattr(Keyring, "open", lambda *given: opened.append(str(given)))
    old = int(time.time()) - WEBHOOK_AGE_S_MAX - 1
    for header in (
        "",
        "t=,v1=",
        f"t={int(time.time())}",
        f"t={int(time.time())},v1=zz",
        f"t={'9' * 5_000},v1={'0' * 64}",
        stripe_sdk.WebhookSignature.generate_signature_header("{}", "whsec_ours", old),
    ):
        assert not webhooks.take(b"{}", header)
    assert opened == []


@pytest.mark.parametrize(
    ("signature", "fresh"),
    [
        (f"t=1000,v1={'0' * 64}", True),
        (f"t=1000,v0=ff,v1={'0' * 64},v1={'1' * 64}", True),
        (f"v1={'0' * 64},t=1000", True),
        (f"t=999,v1={'0' * 64}", False),
        (f"t=-1000,v1={'0' * 64}", False),
        (f"xt=1000,v1={'0' * 64}", False),
        (f"t=1000,v1={'0' * 63}", False),
        (f"t=1000,v1={'0' * 65}", False),
    ],
    ids=["usual", "several", "reversed", "old", "negative", "other", "short", "long"],
)
def test_the_form_of_a_signature(signature: str, fresh: bool) -> None:  # noqa: FBT001 - a case
    """Stripe signs again at each attempt, so an old one is a replay."""
    assert is_fresh(signature, 1_000.0 + WEBHOOK_AGE_S_MAX) is fresh


def test_one_secret_that_no_key_opens_keeps_no_other_from_speaking(
    database: Database, own: str, post: Post, changed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of once, and used as soon as it is sealed anew."""
    add_endpoint(database, own, "whsec_ours")
    with database.transaction() as tx:
        row = tx.session.exec(select(StripeWebhookRow)).one()
        row.secret, sealed = "v1.lost.key", row.secret
    assert post()
    assert not post(secret="whsec_ours")
    assert changed == [own]
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith("webhooks of we_1 are refused: ")
    with database.transaction() as tx:
        tx.session.exec(select(StripeWebhookRow)).one().secret = sealed
    assert post(secret="whsec_ours")


def test_a_secret_is_opened_once(
    database: Database, own: str, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its row changes; one whose row is gone speaks no more, and none is ever shown."""
    opened: list[str] = []
    real = Keyring.open

    def counted(self: Keyring, sealed: str, place: Place) -> str:
        opened.append(sealed)
        return real(self, sealed, place)

    monkeypatch.setattr(Keyring, "open", counted)
    add_endpoint(database, own, "whsec_ours")
    assert [post(secret="whsec_ours") for _ in range(3)] == [True] * 3
    assert len(opened) == 1
    with database.transaction() as tx:
        tx.session.delete(tx.session.exec(select(StripeWebhookRow)).one())
    assert not post(secret="whsec_ours")
    assert "whsec" not in repr(Signer("whsec_ours", own))


def test_others_accounts_and_modes_are_ignored(
    own: str, post: Post, changed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A Connect endpoint gets both modes; each that is not ours is told of once."""
    caplog.set_level(logging.WARNING, "usageflow.stripe")
    for _ in range(2):
        assert post(livemode=True)
        assert post(account="acct_stranger")
    assert changed == []
    assert [record.getMessage().partition(" are")[0] for record in caplog.records] == [
        'webhooks of "one\'s own account" in live mode',
        "webhooks of 'acct_stranger' in test mode",
    ]
    assert post()
    assert changed == [own]


def test_an_own_secret_speaks_for_its_account_alone(
    database: Database, own: str, post: Post, changed: list[str]
) -> None:
    """One organization cannot tell anything about another's account."""
    theirs = add_account(database, "own", organization="other", livemode=False)
    connected = add_account(database, "acct_1", organization="third", livemode=False)
    add_endpoint(database, own, "whsec_ours")
    add_endpoint(database, theirs, "whsec_theirs")
    assert post(secret="whsec_ours")
    assert post(secret="whsec_theirs")
    assert post(secret="whsec_theirs", account="acct_1")
    assert changed == [own, theirs]
    add_endpoint(database, connected, "whsec_platform")
    assert post(secret="whsec_platform", account="acct_1")
    assert changed == [own, theirs, connected]


def test_of_several_own_accounts_none_is_guessed(
    database: Database, own: str, post: Post, changed: list[str]
) -> None:
    """A secret from the settings does not tell whose own account is meant."""
    add_account(database, "own", organization="other", livemode=False)
    assert post()
    assert changed == []


def test_stripe_is_asked_by_the_accounts_key(
    database: Database, own: str, emulator: RemoteEmulator, post: Post
) -> None:
    """Where an event alone does not tell what happened."""
    (customer,) = emulator.seed([{"account_id": "a"}])
    assert post(
        object="v2.core.event",
        type="v1.customer.updated",
        created="2026-11-21T12:00:00.000Z",
        related_object={"id": customer, "type": "customer", "url": f"/v1/customers/{customer}"},
    )
    (account,) = emulator.state()["accounts"]
    assert account["calls"]["GET /v1/customers/{customer}"] == {"200": 1}
    with database.reading() as tx:
        assert tx.session.exec(select(StripeEventRow.account_id)).all() == [own]


def test_without_its_key_it_must_come_again(database: Database, organization: str) -> None:
    """The account cannot be asked from here now; perhaps another server can, or later."""
    add_account(database, "own", organization=organization, livemode=False)
    webhooks = Webhooks(database, Settings(stripe_webhook_secrets=GIVEN), lambda _: None)
    body = json.dumps(
        {
            "id": "evt_1",
            "object": "v2.core.event",
            "type": "v1.customer.updated",
            "created": "2026-11-21T12:00:00.000Z",
            "livemode": False,
            "related_object": {"id": "cus_1"},
        }
    )
    header = stripe_sdk.WebhookSignature.generate_signature_header(body, GIVEN)
    with pytest.raises(DeliveryError, match="no key for it here"):
        webhooks.take(body.encode(), header)


def test_keys_that_are_none_are_told_at_once(database: Database) -> None:
    """Not when the first webhook comes."""
    with pytest.raises(ConfigurationError):
        Webhooks(database, Settings(encryption_keys="x"), lambda _: None)
