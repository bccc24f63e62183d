"""What Stripe knows a unit by. Pure."""

import hashlib
from base64 import b32encode
from datetime import datetime

import msgspec


def identifier(
    installation: str,
    account_id: str,
    *,
    customer_id: str,
    event_name: str,
    hour: datetime,
    sequence: int,
) -> str:
    """56 characters, never the same for two units, and the same for one for ever."""
    parts = [installation, account_id, customer_id, event_name, hour.isoformat(), sequence]
    digest = hashlib.sha256(msgspec.json.encode(parts)).digest()
    return "uf1_" + b32encode(digest).decode().rstrip("=").lower()
