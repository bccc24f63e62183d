"""What single values of a source may be; no message repeats what may be a secret."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from usageflow.policies.source_values import (
    CookieName,
    Expected,
    HeaderName,
    IdentityText,
    KeyServer,
    Owners,
    PublicCookieName,
    PublicHeaderName,
    PublicKey,
    PublicQueryName,
    Scheme,
    Secret,
    Table,
)

DIGEST = "ab" * 32
PEM = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
NOT_PUBLIC = "carries a credential, and an identity is stored and sent to Stripe as it is; use from"
NO_IDENTITY = "has an identity that is not a printable text of 1 to 500 characters"


def read(kind: Any, value: object) -> Any:
    """The value as this kind keeps it."""
    return TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        (HeaderName, "X-Api-Key", "x-api-key"),
        (PublicHeaderName, "X-Author", "x-author"),
        (PublicHeaderName, "x-auth-request-user", "x-auth-request-user"),
        (PublicQueryName, "Account Id", "Account Id"),
        (CookieName, "Session", "Session"),
        (PublicCookieName, "author_side", "author_side"),
        (Scheme, "Bearer", "Bearer"),
        (IdentityText, "Z\u00fcrich 1", "Z\u00fcrich 1"),
        (Secret, "env:A_1", "env:A_1"),
        (PublicKey, PEM, PEM),
        (PublicKey, "\n" + PEM, "\n" + PEM),
        (PublicKey, "-----BEGIN RSA PUBLIC KEY-----\n", "-----BEGIN RSA PUBLIC KEY-----\n"),
        (PublicKey, "env:PEM", "env:PEM"),
        (Table, {"b": "2", "a": "1"}, (("a", "1"), ("b", "2"))),
        (Owners, {DIGEST.upper(): "acct_1"}, ((DIGEST, "acct_1"),)),
        (Expected, "api", ("api",)),
        (Expected, ["a", "b"], ("a", "b")),
        *(
            (KeyServer, url, url)
            for url in (
                "https://issuer.example/.well-known/jwks.json?a=b",
                "https://10.0.0.1:8443/",
                "http://localhost/jwks",
                "http://127.9.9.9:1/jwks",
                "http://[::1]:1/jwks",
            )
        ),
    ],
)
def test_a_good_value_is_kept(kind: Any, value: object, kept: object) -> None:
    """As it is written, but for case where that says nothing."""
    assert read(kind, value) == kept


URL = "must be a URL such as https://issuer.example.com/jwks.json"
TLS = "must begin with https://; http:// is for this machine only"


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (HeaderName, "a b", "'a b' is not the name of a header"),
        (CookieName, "a;b", "'a;b' is not the name of a cookie"),
        (Scheme, "a b", "'a b' is not the name of a scheme"),
        *(
            (PublicHeaderName, name, f"{name.lower()!r} {NOT_PUBLIC}")
            for name in ("Authorization", "cookie", "X_Api_Key", "x-auth-token", "client-secret")
        ),
        *(
            (PublicQueryName, name, f"{name!r} {NOT_PUBLIC}")
            for name in ("apiKey", "access_token", "Authorization")
        ),
        *(
            (PublicCookieName, name, f"{name!r} {NOT_PUBLIC}")
            for name in (
                *("sid", "connect.sid", "PHPSESSID", "sessionid", "__Host-session", "auth"),
                *("my-jwt", "login", "csrftoken", "XSRF", "refresh_token", "api_key"),
            )
        ),
        (IdentityText, "", "must be a printable text of 1 to 500 characters"),
        (IdentityText, "a\n", "must be a printable text of 1 to 500 characters"),
        (IdentityText, "x" * 501, "must be a printable text of 1 to 500 characters"),
        (Secret, "hunter2", "must name an environment variable"),
        (PublicKey, "hunter2", "must be a PEM that begins with -----BEGIN PUBLIC KEY-----"),
        (PublicKey, "-----BEGIN CERTIFICATE-----", "must be a PEM that begins with"),
        (PublicKey, "-----BEGIN PRIVATE KEY-----\nhunter2", "is a private key; a policy needs"),
        (Table, ["hunter2"], "must be a table"),
        (Table, {"a": ""}, NO_IDENTITY),
        (Table, {"a": 5}, NO_IDENTITY),
        (Table, {"a": "\x00"}, NO_IDENTITY),
        (Table, dict.fromkeys(map(str, range(10_001)), "a"), "has 10001 rows; at most 10000 are"),
        (Owners, {"hunter2": "acct_1"}, "has a name that is no digest of 64 hexadecimal digits"),
        (Owners, {DIGEST: "a", DIGEST.upper(): "b"}, "has the same digest twice"),
        (Expected, [], "has 0 entries; 1 to 20 are allowed"),
        (Expected, ["a"] * 21, "has 21 entries; 1 to 20 are allowed"),
        *(
            (KeyServer, url, URL)
            for url in (
                *("", "jwks.json", "https://", "https:///jwks", "https://a:0/", "https://a:x/"),
                *("https://a:99999/", "https://a/jw ks", "https://a/\njwks", "https://\u00e4/"),
                "https://[::1/jwks",
            )
        ),
        *(
            (KeyServer, url, TLS)
            for url in (
                *("http://a/", "http://localhost.a/", "http://127.0.0.1.a/", "ftp://localhost/"),
                *("file://localhost/etc/passwd", "http://169.254.169.254/"),
            )
        ),
        (KeyServer, "https://hunter2@a/", "must not hold a user name or a password"),
        (KeyServer, "https://:hunter2@a/", "must not hold a user name or a password"),
    ],
)
def test_a_bad_value_is_refused(kind: Any, value: object, problem: str) -> None:
    """With what is wrong and what to write instead."""
    with pytest.raises(ValidationError) as refused:
        read(kind, value)
    (error,) = refused.value.errors(include_input=False)
    message = str(error["ctx"]["error"])
    assert message.startswith(problem)
    assert "hunter2" not in message


def test_a_table_is_written_as_it_was_read() -> None:
    """A table, for people and for other programs."""
    adapter: TypeAdapter[Any] = TypeAdapter(Table)
    assert adapter.dump_python(read(Table, {"b": "2", "a": "1"})) == {"a": "1", "b": "2"}
