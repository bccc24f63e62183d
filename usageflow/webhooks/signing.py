"""The signature of a webhook, as Standard Webhooks (https://www.standardwebhooks.com) has it. Pure.

The library signs; which headers there are, and with how many secrets, is decided here.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
"""As long as the hash of HMAC-SHA256; the standard wants 24 to 64."""


def new_secret() -> str:
    """A random signing secret, `whsec_` and base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def headers(event_id: str, body: str, *, at: datetime, secrets: Sequence[str]) -> dict[str, str]:
    """The headers that sign `body`, sent at the aware moment `at`, with every valid secret.

    `webhook-id` is the event's: the same at every attempt, so that a receiver can tell repeats.
    """
    moment = at.astimezone(UTC)  # the library takes whatever zone there is for UTC
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(
            Webhook(secret).sign(event_id, moment, body) for secret in secrets
        ),
    }
