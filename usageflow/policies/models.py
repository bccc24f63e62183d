"""The policy: what a person writes, checked so that an invalid one cannot be built.

Used where text comes in (file, server document, dashboard); a request never touches these models,
it meets what `engine` compiled from them. Says nothing about how anything is found or measured.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from usageflow.events import quantity_problem
from usageflow.policies.expressions import Expression
from usageflow.policies.facts import plain
from usageflow.policies.routes import Route, parse_route
from usageflow.policies.suggestions import did_you_mean

NAME_CHARS_MAX: Final = 100
"""Longest name of a policy, header, parameter or Stripe event (Stripe: event_name, 100)."""
FIELD_CHARS_MAX: Final = 40
"""Longest identity field; it is a Stripe metadata key, of at most 40 characters."""
METRIC_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
ROUTES_MAX: Final = 100
"""Templates in one policy; more are several policies."""
SOURCES_MAX: Final = 10
"""Identity sources in one policy; each is tried for a request without any of them."""

PARTS: Final = {
    "request": ("method", "path", "headers", "query", "params", "body", "bytes"),
    "response": ("status", "headers", "body", "bytes", "duration_ms"),
}
"""What a quantity expression may take, by section of the document it is evaluated on."""

_CREDENTIALS: Final = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
_SECRETS: Final = ("apikey", "token", "secret")
"""What the name of a header that carries a secret contains, separators aside."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text


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


def _expression(text: str) -> str:
    Expression(text)
    return text


def _route_text(text: str) -> str:
    parse_route(text)
    return text


def _listed(value: object) -> object:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


Item = TypeVar("Item")


def _counted(most: int) -> Callable[[tuple[Item, ...]], tuple[Item, ...]]:
    """A list that is not empty and not too long; pydantic's own check counts the valid items."""

    def check(items: tuple[Item, ...]) -> tuple[Item, ...]:
        if not 1 <= len(items) <= most:
            raise ValueError(f"has {len(items)} entries; 1 to {most} are allowed")
        return items

    return check


def _number(value: object) -> Decimal | None:
    """The exact number `value` is, in plain notation; None if it is something else."""
    if isinstance(value, float):
        raise ValueError("a binary float is not exact; pass a Decimal")  # noqa: TRY004 - pydantic's
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    number = Decimal(value)
    problem = quantity_problem(number)
    if problem:
        raise ValueError(problem)
    return plain(number)


def _quantity(value: object) -> Decimal | str:
    number = _number(value)
    if number is not None:
        return number
    if not isinstance(value, str):
        raise ValueError("must be a number or a JMESPath expression")  # noqa: TRY004 - pydantic's
    for section, part in Expression(value).mentions:
        _check_mention(section, part)
    return value


def _check_mention(section: str | None, part: str | None) -> None:
    if section is None:
        return
    if section not in PARTS:
        raise ValueError(
            f'"{section}" is neither request nor response{did_you_mean(section, PARTS)}'
        )
    if part is not None and part not in PARTS[section]:
        raise ValueError(
            f"{section}.{part} does not exist; {section} has {', '.join(PARTS[section])}"
        )


def _when(value: object) -> str | tuple[int, ...]:
    if value in ("success", "response", "request"):
        return str(value)
    if isinstance(value, list | tuple) and value and all(map(_is_status, value)):
        return tuple(value)
    raise ValueError(
        'must be "success", "response", "request" or a list of HTTP statuses such as [200, 201]'
    )


def _is_status(value: object) -> bool:
    return isinstance(value, int) and 100 <= value <= 599  # noqa: PLR2004 - RFC 9110, section 15


def _on_missing(value: object) -> str | Decimal:
    if value in ("inbox", "skip"):
        return str(value)
    number = _number(value)
    if number is None:
        raise ValueError('must be "inbox", "skip" or a number')
    return number


Name: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=NAME_CHARS_MAX), AfterValidator(_printable)
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HeaderSource(_Model):
    """The value of one request header; its name is kept in lower case.

    Never a header that carries a credential: identities are recorded and leave for Stripe.
    """

    from_: Literal["header"] = Field(alias="from")
    name: Annotated[Name, AfterValidator(_header_name)]


class QuerySource(_Model):
    """The value of one query parameter."""

    from_: Literal["query"] = Field(alias="from")
    name: Name


class PathSource(_Model):
    """The value of one parameter of the path template."""

    from_: Literal["path"] = Field(alias="from")
    name: Name


class BodySource(_Model):
    """What a JMESPath expression finds in the request's JSON body."""

    from_: Literal["body"] = Field(alias="from")
    path: Annotated[str, AfterValidator(_expression)]


Source: TypeAlias = Annotated[
    HeaderSource | QuerySource | PathSource | BodySource, Field(discriminator="from_")
]


class Policy(_Model):
    """Which requests, whose they are, how much, and under which metric and Stripe event name.

    - `match`: routes (`METHOD /template`) whose requests it concerns
    - `identify`: where the caller's identity is found; the first source that yields wins
    - `field`: what that identity is called, and the customer's metadata field at Stripe
    - `quantity`: an exact number, or JMESPath over {request, response}
    - `event_name`: the Stripe meter's event name; None is not forwarded
    - `when`: success (2xx, 3xx), any response, any request, or a list of statuses
    - `on_missing`: an unmeasurable quantity goes to the inbox, is skipped, or is this number
    - `on_abort`: an unfinished response counts as measured, as if finished, or not at all
    - `on_ledger_failure`: open serves what cannot be recorded, closed refuses it
    - `mode`: live, shadow (recorded, never billed), or off

    Raises pydantic.ValidationError; `problems.explain` puts it into words.
    """

    name: Name
    match: Annotated[
        tuple[Annotated[str, AfterValidator(_route_text)], ...],
        BeforeValidator(_listed),
        AfterValidator(_counted(ROUTES_MAX)),
    ]
    identify: Annotated[tuple[Source, ...], AfterValidator(_counted(SOURCES_MAX))]
    field: Annotated[
        str,
        StringConstraints(min_length=1, max_length=FIELD_CHARS_MAX),
        AfterValidator(_printable),
    ]
    metric: Annotated[str, StringConstraints(pattern=METRIC_PATTERN)]
    quantity: Annotated[Decimal | str, PlainValidator(_quantity)] = Decimal(1)
    event_name: Name | None = None
    when: Annotated[
        Literal["success", "response", "request"] | tuple[int, ...], PlainValidator(_when)
    ] = "success"
    on_missing: Annotated[Literal["inbox", "skip"] | Decimal, PlainValidator(_on_missing)] = "inbox"
    on_abort: Literal["measured", "full", "none"] = "measured"
    on_ledger_failure: Literal["open", "closed"] = "open"
    mode: Literal["live", "shadow", "off"] = "live"

    @property
    def routes(self) -> tuple[Route, ...]:
        """`match`, parsed."""
        return tuple(map(parse_route, self.match))

    @field_validator("identify")
    @classmethod
    def _path_sources_are_in_every_template(
        cls, identify: tuple[Source, ...], info: ValidationInfo
    ) -> tuple[Source, ...]:
        wanted = [source.name for source in identify if isinstance(source, PathSource)]
        # Without a valid `match` that error is enough.
        for text in info.data.get("match", ()) if wanted else ():
            template = parse_route(text).template
            for name in wanted:
                if name not in template.parameters:
                    hint = did_you_mean(name, template.parameters)
                    raise ValueError(f'the path "{template.text}" has no parameter "{name}"{hint}')
        return identify


class Metric(_Model):
    """A declared metric of a policy file. `name` and `unit` are for people."""

    key: Annotated[str, StringConstraints(pattern=METRIC_PATTERN)]
    name: Name | None = None
    unit: Name | None = None
