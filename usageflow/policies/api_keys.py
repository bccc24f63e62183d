"""Whose API key it is, without keeping the key: a table of digests, or a keyed digest itself.

A key is hashed when it arrives, normalised as its source says; neither it nor a piece of it is in
an identity or a Reason.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from usageflow.policies.environment import resolved
from usageflow.policies.reason import Reason
from usageflow.policies.sources import ApiKeySource

KEY_CHARS_MAX: Final = 4_096
"""Longest API key that is hashed; real ones have some 20 to 200 characters."""
IDENTITY_PREFIX: Final = "key_"
IDENTITY_DIGITS: Final = 32
"""Digits of a digest that are the identity: 128 bits, too many for two keys to meet by chance."""

Owner: TypeAlias = Callable[[str], str | Reason]
"""Whose key this is; takes the normalised key."""


def digest(key: str, secret: str | None) -> str:
    """What stands for `key` in a policy: hex HMAC-SHA256 under `secret`, or hex SHA-256 without."""
    sent = key.encode(errors="surrogateescape")  # query strings hold any bytes
    if secret is None:
        return hashlib.sha256(sent).hexdigest()
    return hmac.digest(secret.encode(errors="surrogateescape"), sent, "sha256").hex()


def compile_owner(source: ApiKeySource, environ: Mapping[str, str]) -> Owner | Reason:
    """The owner of a key as a function; a Reason if the secret is not there."""
    secret = None if source.secret is None else resolved(source.secret, environ)
    if isinstance(secret, Reason):
        return secret
    owners = dict(source.owners)

    def owner(key: str) -> str | Reason:
        if not key:
            return Reason("the key is empty")
        if len(key) > KEY_CHARS_MAX:
            return Reason(f"the key has more than {KEY_CHARS_MAX} characters")
        hashed = digest(key, secret)
        if not owners:
            return IDENTITY_PREFIX + hashed[:IDENTITY_DIGITS]
        return owners.get(hashed) or Reason("the key is in no row of the policy's owners")

    return owner
