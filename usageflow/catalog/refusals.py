"""Why something asked for is not done: a value, for whoever asked to tell a person."""

from dataclasses import dataclass
from typing import Literal

RefusalCode = Literal["not_found", "conflict", "invalid", "forbidden"]
"""not_found: there is none in this organization · conflict: what is there now forbids it ·
invalid: the request itself is wrong · forbidden: not for this person."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was changed. `message` says why and what to do; `field` names what is wrong."""

    code: RefusalCode
    message: str
    field: str | None = None
