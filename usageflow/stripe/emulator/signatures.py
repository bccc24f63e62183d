"""The signature of a webhook: `Stripe-Signature: t=...,v1=...` over the exact bytes of the body."""

import hashlib
import hmac
from datetime import datetime


def header(body: bytes, secret: str, now: datetime) -> str:
    """The header's value: HMAC-SHA256 with the endpoint's secret over `t.body`, in hex."""
    moment = int(now.timestamp())
    digest = hmac.new(secret.encode(), b"%d." % moment + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def secret_of(endpoint_id: str) -> str:
    """The signing secret of an endpoint. It follows from the id: the emulator keeps no secrets."""
    return "whsec_" + hashlib.sha256(endpoint_id.encode()).hexdigest()[:32]
