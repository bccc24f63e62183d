"""Passwords: what one must be, and what is kept instead of it. Pure, but for the time it takes."""

import hashlib
import secrets
import unicodedata
from base64 import b64encode
from typing import Final

PASSWORD_CHARS_MIN: Final = 12
"""Between what NIST SP 800-63B-4 asks for beside a second factor (8) and without one (15)."""
PASSWORD_CHARS_MAX: Final = 1_024
"""Nobody types more; whatever is hashed is bounded."""
_LOG2_N: Final = 15
_R: Final = 8
_P: Final = 1
"""32 MiB and about 0.1 s for each guess (scrypt, RFC 7914)."""
_MEMORY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Twice what scrypt needs; OpenSSL refuses just as much."""


def password_problem(password: str) -> str | None:
    """Why a password cannot be used, None if it can."""
    chars = len(unicodedata.normalize("NFC", password))
    if chars < PASSWORD_CHARS_MIN:
        return f"At least {PASSWORD_CHARS_MIN} characters, please."
    if chars > PASSWORD_CHARS_MAX:
        return f"At most {PASSWORD_CHARS_MAX} characters, please."
    return None


def hashed(password: str) -> str:
    """What is kept: `$scrypt$ln=15,r=8,p=1$SALT$HASH`, the PHC string format.

    It names the function and its costs, so that both can change while old ones are still read.
    """
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(
        unicodedata.normalize("NFC", password).encode(),
        salt=salt,
        n=2**_LOG2_N,
        r=_R,
        p=_P,
        maxmem=_MEMORY_BYTES_MAX,
        dklen=32,
    )
    return f"$scrypt$ln={_LOG2_N},r={_R},p={_P}${_base64(salt)}${_base64(digest)}"


def _base64(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")
