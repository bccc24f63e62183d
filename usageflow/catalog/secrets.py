"""Secrets at rest: sealed with a key from the environment, and bound to the row they are in.

A sealed secret is `v1.KEY.DATA`: the id of the key that sealed it, and nonce and AES-256-GCM
ciphertext in base64url. What it is authenticated with names the table, the organization and the
row, so that nobody who can write to the database can move it elsewhere. Using a secret is not done
here.
"""

import base64
import binascii
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self, TypeAlias, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlmodel import col, select

from usageflow.catalog import audit
from usageflow.db.columns import table
from usageflow.db.outbox_tables import SmtpRow, WebhookEndpointRow
from usageflow.db.session import Tx
from usageflow.db.tables import StripeAccountRow, StripeWebhookRow
from usageflow.errors import ConfigurationError

KEY_BYTES: Final = 32
"""AES-256."""
NONCE_BYTES: Final = 12
"""What GCM is made for; random ones of this length are safe for 2^32 secrets under one key."""
KEY_ID_CHARS: Final = 8
VERSION: Final = "v1"
NO_KEY: Final = (
    "storing a secret needs a key to seal it with: set USAGEFLOW_ENCRYPTION_KEYS, which "
    "`openssl rand -base64 32` makes"
)

Sealed: TypeAlias = StripeAccountRow | StripeWebhookRow | WebhookEndpointRow | SmtpRow
"""A row that may have a sealed secret."""
COLUMNS: Final[tuple[tuple[type[Sealed], str], ...]] = (
    (StripeAccountRow, "secret"),
    (StripeWebhookRow, "secret"),
    (WebhookEndpointRow, "secret"),
    (WebhookEndpointRow, "previous_secret"),
    (SmtpRow, "secret"),
)
"""Where sealed secrets are; all of them are rotated."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed secret belongs: it opens nowhere else."""

    purpose: str
    organization_id: str
    row_id: str

    @classmethod
    def of(cls, row: Sealed, column: str = "secret") -> Self:
        """The place of a row's secret, in this column."""
        return cls(f"{row.__tablename__}.{column}", row.organization_id, row.id)

    def __bytes__(self) -> bytes:
        """What is authenticated with the secret; different for different places."""
        return msgspec.json.encode([VERSION, self.purpose, self.organization_id, self.row_id])


class Keyring:
    """The keys that secrets are sealed with: the first seals, all open. It shows none of them."""

    def __init__(self, keys: list[bytes]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}

    @classmethod
    def read(cls, text: str | None) -> Self:
        """The keys of USAGEFLOW_ENCRYPTION_KEYS; none is an empty keyring, for who needs none.

        Raises ConfigurationError, which names a wrong key by its position alone.
        """
        given = [part.strip() for part in (text or "").split(",") if part.strip()]
        return cls([_key(number, part) for number, part in enumerate(given, start=1)])

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._ciphers)})"

    def __iter__(self) -> Iterator[str]:
        """The ids of the keys; the first seals."""
        return iter(self._ciphers)

    @property
    def sealing(self) -> str:
        """The id of the key that seals. Raises ConfigurationError if there is none."""
        for key_id in self._ciphers:
            return key_id
        raise ConfigurationError(NO_KEY)

    def require(self) -> None:
        """Raises ConfigurationError if nothing can be sealed."""
        _ = self.sealing

    def seal(self, secret: str, place: Place) -> str:
        """`secret` as it is stored at `place`. Raises ConfigurationError without a key."""
        key_id, nonce = self.sealing, os.urandom(NONCE_BYTES)
        data = nonce + self._ciphers[key_id].encrypt(nonce, secret.encode(), bytes(place))
        return f"{VERSION}.{key_id}.{base64.urlsafe_b64encode(data).decode().rstrip('=')}"

    def open(self, sealed: str, place: Place) -> str:
        """The secret that was sealed for `place`.

        Raises ConfigurationError if its key is not among ours, or if it was changed or moved.
        """
        key_id, data = _parts(sealed, place)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise ConfigurationError(
                f"{_named(place)} is sealed with the key {key_id}, which is not in "
                f"USAGEFLOW_ENCRYPTION_KEYS"
            )
        try:
            return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bytes(place)).decode()
        except (InvalidTag, ValueError):
            raise _damaged(place) from None


def rotate(tx: Tx, keyring: Keyring, *, actor: str) -> int:
    """Seal every secret with the first key that is not yet; how many were.

    Every secret is opened, so that none is left behind that no key opens. Raises
    ConfigurationError for one that cannot be; then none is changed.
    """
    changed: Counter[str] = Counter()
    for row, column, sealed in _sealed(tx, locked=True):
        place = Place.of(row, column)
        secret = keyring.open(sealed, place)
        if key_id_of(sealed, place) != keyring.sealing:
            setattr(row, column, keyring.seal(secret, place))
            changed[row.organization_id] += 1
    for organization_id, number in sorted(changed.items()):
        audit.record(
            tx,
            organization_id,
            actor=actor,
            action="secrets.rotate",
            subject=keyring.sealing,
            after={"sealed": number},
        )
    return changed.total()


def by_key(tx: Tx) -> dict[str, int]:
    """How many stored secrets are sealed with each key, by the key's id."""
    ids = Counter(key_id_of(sealed, Place.of(row, column)) for row, column, sealed in _sealed(tx))
    return dict(sorted(ids.items()))


def key_id_of(sealed: str, place: Place) -> str:
    """The id of the key a secret is sealed with. Raises ConfigurationError if it is none."""
    return _parts(sealed, place)[0]


def _sealed(tx: Tx, *, locked: bool = False) -> Iterator[tuple[Sealed, str, str]]:
    for row_class, column in COLUMNS:
        kind = cast("type[StripeAccountRow]", row_class)  # whose id all of them have
        secret = table(row_class).c[column]
        with_secret = select(kind).where(secret.is_not(None)).order_by(col(kind.id))
        for row in tx.session.exec(with_secret.with_for_update() if locked else with_secret):
            yield row, column, getattr(row, column)


def _key(number: int, text: str) -> bytes:
    try:
        key = base64.b64decode(
            text, altchars=b"-_" if set(text) & set("-_") else None, validate=True
        )
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"key {number} of USAGEFLOW_ENCRYPTION_KEYS must be {KEY_BYTES} bytes in base64; make "
            f"one with `openssl rand -base64 32`"
        )
    return key


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:KEY_ID_CHARS]


def _parts(sealed: str, place: Place) -> tuple[str, bytes]:
    """Key id and data. Only the one spelling of the data that `seal` writes is taken."""
    version, _, rest = sealed.partition(".")
    key_id, _, text = rest.partition(".")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    spelled = base64.urlsafe_b64encode(data).decode().rstrip("=") == text
    if version != VERSION or not spelled or len(data) <= NONCE_BYTES:
        raise _damaged(place)
    return key_id, data


def _damaged(place: Place) -> ConfigurationError:
    return ConfigurationError(
        f"{_named(place)} is not as it was sealed: it was changed, or belongs to another row"
    )


def _named(place: Place) -> str:
    return f"{place.purpose} of {place.row_id}"
