"""Idempotency keys: the first answer is kept and replayed, in v1 a stored 500 included.

v1 keeps for 24 hours whatever came from a handler that began to run. Not kept: refused credentials,
429 and 503 (nothing ran), and requests that break the contract. v2 keeps for 30 days, and only what
went well: a failed request is run again. A key belongs to its version of the API.
"""

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final

from usageflow.stripe.emulator.replies import Reply, error
from usageflow.stripe.emulator.state import Account, Kept

KEPT_FOR: Final = {"v1": timedelta(hours=24), "v2": timedelta(days=30)}
KEY_CHARS_MAX: Final = 255
_NOT_KEPT: Final = frozenset({401, 403, 409, 429, 503})


Key = tuple[str, str]
"""The version of the API, and the text of the header."""


def begin(account: Account, key: Key, fingerprint: str, now: datetime) -> Reply | None:
    """The answer if the key was used before; None starts its first call."""
    version, text = key
    if len(text) > KEY_CHARS_MAX:
        message = f"Idempotency keys can have up to {KEY_CHARS_MAX} characters."
        return error(400, message, kind="idempotency_error")
    kept = account.kept.get(key)
    if kept is None or now - kept.since >= KEPT_FOR[version]:
        account.kept[key] = Kept(fingerprint, now)
        return None
    if kept.fingerprint != fingerprint:
        message = (
            "Keys for idempotent requests can only be used with the same parameters they were "
            f"first used with. Try using a key other than '{text}'."
        )
        return error(400, message, kind="idempotency_error")
    if kept.reply is None:
        message = "There is currently another in-progress request using this Idempotency Key."
        return error(409, message, code="idempotency_key_in_use")
    headers = {**kept.reply.headers, "Idempotent-Replayed": "true"}
    return Reply(kept.reply.status, kept.reply.body, headers)


def finish(account: Account, key: Key, reply: Reply | None) -> None:
    """Keep the answer of the first call, or forget the key if nothing ran or nothing is known."""
    failed = key[0] == "v2" and reply is not None and reply.status >= HTTPStatus.BAD_REQUEST
    if reply is None or failed or reply.status in _NOT_KEPT:
        del account.kept[key]
    else:
        kept = account.kept[key]
        account.kept[key] = Kept(kept.fingerprint, kept.since, reply)
