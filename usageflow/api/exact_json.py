"""Bodies of the API as exact values: what comes in and what goes out, without a binary float.

FastAPI parses a body with `json.loads`, which makes floats of numbers; a route of `ExactRoute`
parses it with Decimals instead. Models of bodies inherit `Body`, whose fields are strict: `true` is
no number and "5" no count. Nothing here knows what a body is about.
"""

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    WithJsonSchema,
)

from usageflow.api.problems import json_response
from usageflow.events import QUANTITY_DECIMALS_MAX, QUANTITY_DIGITS_MAX

YEARS: Final = range(1970, 2200)
"""Years that an instant of a request may lie in: within what both databases and every time zone
can reckon with."""

_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)
_PLAIN: Final = re.compile(r"-?[0-9]{1,38}(\.[0-9]{1,12})?")


class ExactRequest(Request):
    """A request whose JSON numbers are ints and Decimals."""

    async def body(self) -> bytes:
        """The body; reading stops at `Settings.api_body_bytes_max`, with a 413."""
        if not hasattr(self, "_body"):
            limit_bytes = self.app.state.rest.settings.api_body_bytes_max
            body = bytearray()
            async for chunk in self.stream():
                body += chunk
                if len(body) > limit_bytes:
                    # FastAPI lets only its own exceptions through from here
                    raise HTTPException(413, f"the body is larger than {limit_bytes} bytes")
            self._body = bytes(body)
        return self._body

    async def json(self) -> Any:
        """The body. Raises json.JSONDecodeError, which FastAPI explains to the client."""
        try:
            return _decoder.decode(await self.body())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


class ExactRoute(APIRoute):
    """A route that reads its body exactly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given an exact request."""
        handler = super().get_route_handler()

        async def exact(request: Request) -> Response:
            return await handler(ExactRequest(request.scope, request.receive))

        return exact


def _exact(value: Any) -> Decimal:
    if isinstance(value, bool | float):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic explains ValueErrors
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise ValueError("must be a number in plain notation, such as 0.001")
    if not isinstance(value, int | str | Decimal):
        raise ValueError("must be a number")  # noqa: TRY004 - as above
    number = Decimal(value)
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError("must be a finite number")  # noqa: TRY004 - as above
    whole = max(0, len(digits) + exponent) if number else 0
    if -exponent > QUANTITY_DECIMALS_MAX or whole - min(0, exponent) > QUANTITY_DIGITS_MAX:
        raise ValueError(
            f"must have at most {QUANTITY_DIGITS_MAX} digits, {QUANTITY_DECIMALS_MAX} of them "
            "after the point"
        )
    return Decimal(f"{number:f}")


def _instant(value: Any) -> datetime:
    wanted = "must be an ISO 8601 time with an offset, such as 2025-03-01T00:00:00Z"
    if not isinstance(value, str):
        raise ValueError(wanted)  # noqa: TRY004 - pydantic explains ValueErrors
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(wanted) from None
    if instant.utcoffset() is None:
        raise ValueError(wanted)
    if instant.year not in YEARS:
        raise ValueError(f"must lie in the years {YEARS.start} to {YEARS.stop - 1}")
    return instant.astimezone(UTC)


def _visible(text: str) -> str:
    if not text.replace("\n", "").replace("\t", "").isprintable():
        raise ValueError("must consist of characters that can be seen")
    return text


def _line(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be one line of characters that can be seen")
    return text


Exact = Annotated[
    Decimal,
    BeforeValidator(_exact),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_PLAIN.pattern}$"}]}
    ),
]
"""A JSON number, or one in a string, with at most 38 digits, 12 of them after the point."""
Number = Annotated[Decimal, WithJsonSchema({"type": "number"})]
"""A JSON number of an answer, with every digit it has."""
Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An ISO 8601 time with an offset; UTC from here on."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_line)]
"""What people call something."""
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")]
"""What programs call something."""
Id = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_line)]
"""An id of ours, or one that somebody else gave."""
Line = Annotated[str, StringConstraints(max_length=500), AfterValidator(_visible)]
"""A short text, perhaps empty."""
Prose = Annotated[str, StringConstraints(max_length=5_000), AfterValidator(_visible)]
"""A long text, perhaps empty."""
Email = Annotated[
    str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254), AfterValidator(_line)
]
"""An address that can be mailed to (RFC 5321, section 4.5.3.1.3, bounds it)."""


class Body(BaseModel):
    """The base of what a request may hold: strict, and nothing beside what is declared."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answer(BaseModel):
    """The base of what an answer holds."""

    model_config = ConfigDict(frozen=True)


def answer(
    content: BaseModel | Mapping[str, Any],
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The content as JSON: Decimals as numbers with every digit, instants as ISO 8601 UTC."""
    plain = content.model_dump(by_alias=True) if isinstance(content, BaseModel) else content
    return json_response(plain, status=status, headers=headers)
