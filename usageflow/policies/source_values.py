"""The names, tables, keys and URLs that an identity source may hold, each checked by itself.

Refuses what would store a secret in a policy or make one an identity. No message repeats a value
that may be a secret. How values go together is said in `sources`.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from usageflow.events import IDENTITY_CHARS_MAX
from usageflow.policies.environment import REFERENCE, secret_reference
from usageflow.policies.shapes import Name, counted, listed

TABLE_ROWS_MAX: Final = 10_000
"""Owners or tenants in one policy; about 1 MB of it."""
EXPECTED_MAX: Final = 20
"""Audiences or issuers one source may accept."""
URL_CHARS_MAX: Final = 500
PEM_CHARS_MAX: Final = 10_000
"""An RSA key of 16,384 bits has 2,900."""

_CREDENTIALS: Final = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
_SECRETS: Final = ("apikey", "token", "secret")
"""What the name of something that carries a secret contains, separators aside."""
_LOGINS: Final = ("session", "sessid", "passw", "csrf", "xsrf")
"""What the name of a cookie that proves a login contains as well ..."""
_LOGIN_WORDS: Final = frozenset(("sid", "sess", "jwt", "auth", "login"))
"""... or has as one of its words."""
_LOOPBACK: Final = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_PUBLIC_PEM = re.compile(r"\s*-----BEGIN (RSA )?PUBLIC KEY-----")


def _named(kind: str) -> Callable[[str], str]:
    """Headers, cookies and schemes are tokens: RFC 9110, sections 5.1 and 11.1; RFC 6265, 4.1.1."""

    def check(name: str) -> str:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of {kind}")
        return name

    return check


def _harmless(name: str) -> str:
    bare = re.sub(r"[-_.]", "", name.lower())
    if name.lower() in _CREDENTIALS or any(word in bare for word in _SECRETS):
        raise _credential(name)
    return name


def _harmless_cookie(name: str) -> str:
    words = re.split(r"[-_.]", name.lower())
    if not _LOGIN_WORDS.isdisjoint(words) or any(word in "".join(words) for word in _LOGINS):
        raise _credential(name)
    return _harmless(name)


def _credential(name: str) -> ValueError:
    return ValueError(
        f"{name!r} carries a credential, and an identity is stored and sent to Stripe as it is; "
        'use from = "jwt" or from = "api_key", which keep the credential to themselves'
    )


def _key_server(url: str) -> str:
    """Keys decide who pays: they come over TLS, or never leave the machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port  # an impossible port raises
    except ValueError:
        host, port = "", 0
    if not host or port == 0 or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be a URL such as https://issuer.example.com/jwks.json")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or a password")
    if parts.scheme != "https" and not (parts.scheme == "http" and _LOOPBACK.fullmatch(host)):
        raise ValueError("must begin with https://; http:// is for this machine only")
    return url


def _public_key(text: str) -> str:
    if "PRIVATE KEY" in text:
        raise ValueError("is a private key; a policy needs the public one")
    if not (REFERENCE.fullmatch(text) or _PUBLIC_PEM.match(text)):
        raise ValueError(
            "must be a PEM that begins with -----BEGIN PUBLIC KEY-----, or name an environment "
            'variable, such as "env:JWT_PUBLIC_KEY"'
        )
    return text


def _owner_digests(table: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    if not all(_DIGEST.fullmatch(name) for name, _ in table):
        raise ValueError(
            "has a name that is no digest of 64 hexadecimal digits; keys themselves do not belong "
            "in a policy: make digests with `usageflow policies hash-key`"
        )
    if len({name.lower() for name, _ in table}) != len(table):
        raise ValueError("has the same digest twice")
    return tuple((name.lower(), owner) for name, owner in table)


def _pairs(value: object) -> object:
    """A table as pairs in one order: a table cannot be hashed, and its order says nothing."""
    if not isinstance(value, dict):
        raise ValueError("must be a table")  # noqa: TRY004 - pydantic's
    if len(value) > TABLE_ROWS_MAX:
        raise ValueError(f"has {len(value)} rows; at most {TABLE_ROWS_MAX} are allowed")
    if not all(map(_is_identity, value.values())):
        raise ValueError(
            f"has an identity that is not a printable text of 1 to {IDENTITY_CHARS_MAX} characters"
        )
    return tuple(sorted(value.items(), key=lambda row: str(row[0])))


def _is_identity(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= IDENTITY_CHARS_MAX and value.isprintable()


def _identity(value: str) -> str:
    if not _is_identity(value):
        raise ValueError(f"must be a printable text of 1 to {IDENTITY_CHARS_MAX} characters")
    return value


HeaderName: TypeAlias = Annotated[
    Name, AfterValidator(_named("a header")), AfterValidator(str.lower)
]
"""In lower case, as ASGI gives them."""
PublicHeaderName: TypeAlias = Annotated[HeaderName, AfterValidator(_harmless)]
"""Of a header whose value may be stored and sent on."""
PublicQueryName: TypeAlias = Annotated[Name, AfterValidator(_harmless)]
CookieName: TypeAlias = Annotated[Name, AfterValidator(_named("a cookie"))]
PublicCookieName: TypeAlias = Annotated[CookieName, AfterValidator(_harmless_cookie)]
Scheme: TypeAlias = Annotated[Name, AfterValidator(_named("a scheme"))]
IdentityText: TypeAlias = Annotated[str, AfterValidator(_identity)]
Secret: TypeAlias = Annotated[str, AfterValidator(secret_reference)]
PublicKey: TypeAlias = Annotated[str, Field(max_length=PEM_CHARS_MAX), AfterValidator(_public_key)]
"""A PEM, or the variable that holds one."""
KeyServer: TypeAlias = Annotated[str, Field(max_length=URL_CHARS_MAX), AfterValidator(_key_server)]
"""The URL of a JWK set (RFC 7517, section 5)."""
Table: TypeAlias = Annotated[
    tuple[tuple[str, str], ...], BeforeValidator(_pairs), PlainSerializer(dict)
]
"""From what is sent to an identity."""
Owners: TypeAlias = Annotated[Table, AfterValidator(_owner_digests)]
"""From the digest of a key to an identity."""
Expected: TypeAlias = Annotated[
    tuple[Name, ...], BeforeValidator(listed), AfterValidator(counted(EXPECTED_MAX))
]
