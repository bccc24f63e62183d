"""Passwords: what one must be, and what is kept instead of it. Pure, but for the time it takes.

Hashing takes long on purpose: never do it inside a transaction. Whose password it is, is `people`.
"""

import hashlib
import hmac
import re
import secrets
import unicodedata
from base64 import b64decode
from functools import cache
from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

PASSWORD_CHARS_MIN: Final = 12
"""Between what NIST SP 800-63B-4 asks for beside a second factor (8) and without one (15)."""
PASSWORD_CHARS_MAX: Final = 1_024
"""Nobody types more; whatever is hashed is bounded."""
AT_ONCE_MAX: Final = 4
"""Passwords hashed at a time: a crowd at the door takes its turn, not all the memory."""

_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""Argon2id with 19 MiB, twice: OWASP Password Storage Cheat Sheet, 2025."""
_SCRYPT: Final = re.compile(r"\$scrypt\$ln=(\d+),r=(\d+),p=(\d+)\$([\w+/]+)\$([\w+/]+)")
"""What was kept before, the PHC string format; it is replaced when its owner signs in."""
_SCRYPT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Twice what those take; OpenSSL refuses just as much."""
_turns: Final = BoundedSemaphore(AT_ONCE_MAX)


def password_problem(password: str) -> str | None:
    """Why a password cannot be used, None if it can."""
    chars = len(unicodedata.normalize("NFC", password))
    if chars < PASSWORD_CHARS_MIN:
        return f"At least {PASSWORD_CHARS_MIN} characters, please."
    if chars > PASSWORD_CHARS_MAX:
        return f"At most {PASSWORD_CHARS_MAX} characters, please."
    return None


def hashed(password: str) -> str:
    """What is kept: `$argon2id$v=19$m=...,t=...,p=...$SALT$HASH`, the PHC string format.

    It names the function and its costs, so that both can change while old ones are still read.
    """
    with _turns:
        return _HASHER.hash(_typed(password))


def matches(password: str, kept: str | None) -> bool:
    """Whether this is the password of which `kept` is kept.

    For nobody's (None) it is False after the time that a wrong one takes, so that an answer does
    not tell who has an account.
    """
    if kept is not None and (old := _SCRYPT.fullmatch(kept)):
        return _matches_scrypt(_typed(password), old)
    with _turns:
        try:
            return _HASHER.verify(kept or _nobodys(), _typed(password))
        except (VerificationError, InvalidHashError):
            return False


def outdated(kept: str) -> bool:
    """Whether a password should be hashed anew, now that it is known: function or costs differ."""
    return bool(_SCRYPT.fullmatch(kept)) or _HASHER.check_needs_rehash(kept)


def _typed(password: str) -> bytes:
    """An accent may be a character of its own or not: keyboards differ."""
    return unicodedata.normalize("NFC", password).encode(errors="surrogatepass")


def _matches_scrypt(password: bytes, kept: re.Match[str]) -> bool:
    log2_n, block, parallel, salt, digest = kept.groups()
    expected = _decoded(digest)
    with _turns:
        given = hashlib.scrypt(
            password,
            salt=_decoded(salt),
            n=2 ** int(log2_n),
            r=int(block),
            p=int(parallel),
            maxmem=_SCRYPT_BYTES_MAX,
            dklen=len(expected),
        )
    return hmac.compare_digest(given, expected)


@cache
def _nobodys() -> str:
    """What would be kept of a password that nobody has."""
    return _HASHER.hash(secrets.token_urlsafe())


def _decoded(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4))
