"""Where an identity is found: the sources a policy may name, as a person writes them.

Checked so that an invalid one cannot be built. How they are read is in `identity`.
"""

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from usageflow.policies.identity_values import normalizer
from usageflow.policies.shapes import Model, Name, expression
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

HMAC: Final = ("HS256", "HS384", "HS512")
"""Algorithms of a shared secret."""
ASYMMETRIC: Final = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "ES256K"),
    "EdDSA",
)
"""Algorithms of a key pair; the edge has the public half. RFC 7518, section 3.1; RFC 8037."""
LEEWAY_S_MAX: Final = 300
"""Clocks that are further apart than this are broken, and tokens would outlive their revocation."""


class _Source(Model):
    """`normalize` is what is done to the value that was found, in this order; nothing else is."""

    normalize: tuple[Literal["trim", "lower"], ...] = ()


class HeaderSource(_Source):
    """The value of one request header; its name is kept in lower case.

    Never a header that carries a credential: identities are recorded and leave for Stripe.
    """

    from_: Literal["header"] = Field(alias="from")
    name: PublicHeaderName


class QuerySource(_Source):
    """The value of one query parameter; not of one that is called like a credential."""

    from_: Literal["query"] = Field(alias="from")
    name: PublicQueryName


class PathSource(_Source):
    """The value of one parameter of the path template."""

    from_: Literal["path"] = Field(alias="from")
    name: Name


class BodySource(_Source):
    """What a JMESPath expression finds in the request's body."""

    from_: Literal["body"] = Field(alias="from")
    path: Annotated[str, AfterValidator(expression)]


class CookieSource(_Source):
    """The value of one cookie; not of one that is called like a login or a credential."""

    from_: Literal["cookie"] = Field(alias="from")
    name: PublicCookieName


class ApiKeySource(_Source):
    """Whose API key was sent. The key itself is never the identity.

    With `owners` (digest of a key -> identity) it is the owner, else the key's digest under
    `secret`. `scheme` is a word before the key, such as Bearer. Digests are of normalised keys.
    """

    from_: Literal["api_key"] = Field(alias="from")
    header: HeaderName | None = None
    query: Name | None = None
    cookie: CookieName | None = None
    scheme: Scheme | None = None
    owners: Owners = ()
    secret: Secret | None = None

    @model_validator(mode="after")
    def _one_place_and_one_meaning(self) -> Self:
        if len([place for place in (self.header, self.query, self.cookie) if place]) != 1:
            raise ValueError("needs one of header, query and cookie: where the key is sent")
        if self.scheme is not None and self.header is None:
            raise ValueError("scheme goes with header")
        if not self.owners and self.secret is None:
            raise ValueError(
                "needs owners, a table of whom each key belongs to, or a secret to hash keys with"
            )
        return self


class JwtSource(_Source):
    """A claim of a JSON Web Token that was verified with `secret`, `pem` or the keys at `keys`.

    `unverified` is the explicit alternative: then anyone can claim anything. No `algorithms` means
    HS256 for a secret, and those that the key can have otherwise.
    """

    from_: Literal["jwt"] = Field(alias="from")
    header: HeaderName | None = None
    cookie: CookieName | None = None
    claim: Annotated[str, AfterValidator(expression)]
    secret: Secret | None = None
    pem: PublicKey | None = None
    keys: KeyServer | None = None
    unverified: bool = Field(default=False, strict=True)
    algorithms: tuple[str, ...] = ()
    audience: Expected = ()
    issuer: Expected = ()
    leeway_s: int = Field(default=0, strict=True, ge=0, le=LEEWAY_S_MAX)

    @model_validator(mode="after")
    def _one_place_and_one_kind_of_key(self) -> Self:
        if self.header is not None and self.cookie is not None:
            raise ValueError("header and cookie exclude each other")
        if len([key for key in (self.secret, self.pem, self.keys, self.unverified) if key]) != 1:
            raise ValueError(
                "needs one of secret, pem and keys to verify tokens with, or unverified = true"
            )
        if self.unverified and self.algorithms:
            raise ValueError("algorithms mean nothing with unverified = true")
        # One kind of key never accepts the other's algorithms: a public key is no secret.
        fitting = HMAC if self.secret is not None else ASYMMETRIC
        if not set(self.algorithms).issubset(fitting):
            kind = "secret" if self.secret is not None else "pem and keys"
            raise ValueError(f"algorithms: {kind} can have {', '.join(fitting)}")
        return self


class MetadataSource(_Source):
    """What the app knows: its own `name` for it, one fixed `value`, or a `table` by a `header`."""

    from_: Literal["metadata"] = Field(alias="from")
    name: Name | None = None
    value: IdentityText | None = None
    header: PublicHeaderName | None = None
    table: Table = ()

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = [form for form in (self.name, self.value, self.header) if form]
        if len(forms) != 1 or (self.header is None) != (not self.table):
            raise ValueError("needs one of name, value, and header with a table")
        return self

    @model_validator(mode="after")
    def _every_row_can_match(self) -> Self:
        normal = normalizer(self.normalize)
        for sent, _ in self.table:
            if normal(sent) != sent:
                raise ValueError(
                    f"table: {sent!r} can never match, as normalize changes what is sent before "
                    f"it is looked up; write {normal(sent)!r}"
                )
        return self


Source: TypeAlias = Annotated[
    HeaderSource
    | QuerySource
    | PathSource
    | BodySource
    | CookieSource
    | ApiKeySource
    | JwtSource
    | MetadataSource,
    Field(discriminator="from_"),
]
