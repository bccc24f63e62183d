"""A unit as a CloudEvent (version 1.0, structured JSON). Pure.

The same unit gives the same bytes, for ever. Receivers tell repeats by `source` and `id`.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from usageflow.forwarding.sink import Parcel

EVENT_TYPE: Final = "com.usageflow.usage"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"

OPENING: Final = b'{"specversion":"1.0",'
"""What each event begins with here."""

_encode = msgspec.json.Encoder().encode


def source_of(installation_id: str, account_id: str) -> str:
    """The `source` of an account's units: a URN that no other installation has."""
    return f"urn:usageflow:{installation_id}:{account_id}"


def encoded(parcel: Parcel, source: str) -> bytes:
    """One event, as one line of JSON. `quantity` is a JSON number with every digit it has."""
    return _encode(_event(parcel, source))


def encoded_batch(parcels: Sequence[Parcel], source: str) -> bytes:
    """Several events, as a JSON array."""
    return _encode([_event(parcel, source) for parcel in parcels])


def _event(parcel: Parcel, source: str) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": parcel.identifier,
        "source": source,
        "type": EVENT_TYPE,
        "subject": parcel.customer,
        "time": parcel.occurred_at,
        "datacontenttype": "application/json",
        "data": {
            "event_name": parcel.event_name,
            "quantity": msgspec.Raw(format(parcel.quantity, "f").encode()),
            "identity": {"field": parcel.identity_field, "value": parcel.identity_value},
        },
    }
