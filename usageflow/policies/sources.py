"""Where an identity is found: the sources a policy may name, as a person writes them.

Checked so that an invalid one cannot be built. How they are read is in `identity`.
"""

import re
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field

from usageflow.policies.shapes import Model, Name, expression

_CREDENTIALS: Final = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
_SECRETS: Final = ("apikey", "token", "secret")
"""What the name of a header that carries a secret contains, separators aside."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def _header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header")
    name = name.lower()
    bare = name.replace("-", "").replace("_", "")
    if name in _CREDENTIALS or any(word in bare for word in _SECRETS):
        raise ValueError(
            f"{name!r} carries a credential, and an identity is stored and sent to Stripe as it "
            "is; JWT and API key sources come in a later release"
        )
    return name


class HeaderSource(Model):
    """The value of one request header; its name is kept in lower case.

    Never a header that carries a credential: identities are recorded and leave for Stripe.
    """

    from_: Literal["header"] = Field(alias="from")
    name: Annotated[Name, AfterValidator(_header_name)]


class QuerySource(Model):
    """The value of one query parameter."""

    from_: Literal["query"] = Field(alias="from")
    name: Name


class PathSource(Model):
    """The value of one parameter of the path template."""

    from_: Literal["path"] = Field(alias="from")
    name: Name


class BodySource(Model):
    """What a JMESPath expression finds in the request's JSON body."""

    from_: Literal["body"] = Field(alias="from")
    path: Annotated[str, AfterValidator(expression)]


Source: TypeAlias = Annotated[
    HeaderSource | QuerySource | PathSource | BodySource, Field(discriminator="from_")
]
