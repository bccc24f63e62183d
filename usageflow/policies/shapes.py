"""The building blocks that the models of a policy are made of.

Checks of single values only; which keys there are is said in `models`, `sources` and `conditions`.
"""

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from usageflow.policies.expressions import Expression

NAME_CHARS_MAX: Final = 100
"""Longest name of a policy, header, parameter or Stripe event (Stripe: event_name, 100)."""

Item = TypeVar("Item")


class Model(BaseModel):
    """A table whose keys are all known, and which never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def printable(text: str) -> str:
    """Refuse control characters and the like."""
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text


def expression(text: str) -> str:
    """Refuse what is no JMESPath expression."""
    Expression(text)
    return text


def listed(value: object) -> object:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


def counted(most: int) -> Callable[[tuple[Item, ...]], tuple[Item, ...]]:
    """A list that is not empty and not too long; pydantic's own check counts the valid items."""

    def check(items: tuple[Item, ...]) -> tuple[Item, ...]:
        if not 1 <= len(items) <= most:
            raise ValueError(f"has {len(items)} entries; 1 to {most} are allowed")
        return items

    return check


Name: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=NAME_CHARS_MAX), AfterValidator(printable)
]
