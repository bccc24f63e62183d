"""The policy: what a person writes, checked so that an invalid one cannot be built.

Used where text comes in (file, server document, dashboard); a request never touches these models,
it meets what `engine` compiled from them. Says nothing about how anything is found or measured.
"""

from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainValidator,
    StrictBool,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from usageflow.events import plain, quantity_problem
from usageflow.policies.conditions import FieldConditions, Hosts
from usageflow.policies.parts import quantity_expression, quantity_problem_for
from usageflow.policies.routes import Route, parse_route
from usageflow.policies.shapes import Model, Name, counted, listed, printable
from usageflow.policies.sources import PathSource, Source
from usageflow.policies.suggestions import did_you_mean

FIELD_CHARS_MAX: Final = 40
"""Longest identity field; it is a Stripe metadata key, of at most 40 characters."""
METRIC_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
ROUTES_MAX: Final = 100
"""Templates in one policy; more are several policies."""
SOURCES_MAX: Final = 10
"""Identity sources in one policy; each is tried for a request without any of them."""


def _route_text(text: str) -> str:
    parse_route(text)
    return text


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
    return quantity_expression(value)


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


class Policy(Model):
    """Which requests, whose they are, how much, and under which metric and Stripe event name.

    - `match`: routes (`METHOD /template`) whose requests it concerns
    - `host`, `header`, `query`: conditions a request must meet as well; none are met by all
    - `identify`: where the caller's identity is found; the first source that yields wins
    - `field`: what that identity is called, and the customer's metadata field at Stripe
    - `quantity`: an exact number, or JMESPath over {request, response}
    - `stream`: the quantity of an event stream is the last event's that has one, or their sum
    - `include_usage`: asks an OpenAI-style endpoint for usage in streams; changes the request
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
        BeforeValidator(listed),
        AfterValidator(counted(ROUTES_MAX)),
    ]
    host: Hosts = ()
    header: FieldConditions = ()
    query: FieldConditions = ()
    identify: Annotated[tuple[Source, ...], AfterValidator(counted(SOURCES_MAX))]
    field: Annotated[
        str,
        StringConstraints(min_length=1, max_length=FIELD_CHARS_MAX),
        AfterValidator(printable),
    ]
    metric: Annotated[str, StringConstraints(pattern=METRIC_PATTERN)]
    quantity: Annotated[Decimal | str, PlainValidator(_quantity)] = Decimal(1)
    stream: Literal["last", "sum"] = "last"
    include_usage: StrictBool = False
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

    @field_validator("quantity")
    @classmethod
    def _quantity_fits_every_route(
        cls, quantity: Decimal | str, info: ValidationInfo
    ) -> Decimal | str:
        routes = tuple(map(parse_route, info.data.get("match", ())))
        if isinstance(quantity, str) and (problem := quantity_problem_for(quantity, routes)):
            raise ValueError(problem)
        return quantity


class Metric(Model):
    """A declared metric of a policy file. `name` and `unit` are for people."""

    key: Annotated[str, StringConstraints(pattern=METRIC_PATTERN)]
    name: Name | None = None
    unit: Name | None = None
