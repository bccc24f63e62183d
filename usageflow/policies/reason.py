"""Why there is no value. A value like any other: nothing in this room raises for a request."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Why there is no value, in words for a person. Never holds content of a request."""

    text: str
