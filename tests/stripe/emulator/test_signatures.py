"""The signature of webhooks, judged by the official SDK."""

from datetime import UTC, datetime

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.signatures import header, secret_of

BODY = b'{"object":"event","name":"\xc3\xa9"}'


def test_the_sdk_accepts_the_signature() -> None:
    """Over exactly these bytes, with the endpoint's secret and the moment of sending."""
    now = datetime.now(UTC)
    secret = secret_of("we_1")
    assert secret.startswith("whsec_")
    signed = header(BODY, secret, now)
    assert stripe_sdk.WebhookSignature.verify_header(BODY, signed, secret, 300)
    for body, other in ((BODY + b" ", secret), (BODY, secret_of("we_2"))):
        with pytest.raises(stripe_sdk.SignatureVerificationError):
            stripe_sdk.WebhookSignature.verify_header(body, signed, other, 300)
