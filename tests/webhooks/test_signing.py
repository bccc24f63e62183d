"""Signatures, verified as a receiver does: with the library of the standard."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from usageflow.webhooks.signing import headers, new_secret


def test_the_signature_is_the_standard_s() -> None:
    """HMAC-SHA256 of `id.timestamp.body` with the decoded secret, in base64."""
    key = b"k" * 32
    secret = "whsec_" + base64.b64encode(key).decode()
    at = datetime(2026, 11, 21, 10, 30, 0, 987_654, UTC)
    made = headers("evt_1", '{"a":1.50}', at=at, secrets=[secret])
    digest = hmac.new(key, b'evt_1.1795257000.{"a":1.50}', hashlib.sha256).digest()
    assert made == {
        "webhook-id": "evt_1",
        "webhook-timestamp": "1795257000",
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


@given(body=st.text(st.characters(codec="utf-8")), hours=st.integers(-12, 14))
def test_any_body_verifies_from_any_time_zone(body: str, hours: int) -> None:
    """What is signed is the text as it is, and the moment, however it is written."""
    secret = new_secret()
    now = datetime.now(UTC).astimezone(timezone(timedelta(hours=hours)))
    made = headers("evt_1", body, at=now, secrets=[secret])
    Webhook(secret).verify(body.encode(), made, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body.encode(), made, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.encode() + b" ", made, json_parse=False)


def test_two_secrets_make_two_signatures() -> None:
    """While a secret is being replaced, a receiver with either of them is content."""
    new, old = new_secret(), new_secret()
    made = headers("evt_1", "{}", at=datetime.now(UTC), secrets=[new, old])
    assert len(made["webhook-signature"].split(" ")) == 2
    for secret in (new, old):
        assert Webhook(secret).verify("{}", made) == {}


def test_secrets_are_random_and_long() -> None:
    """32 bytes behind the standard's prefix, never the same."""
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
