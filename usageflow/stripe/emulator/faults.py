"""Faults on demand: calls of a route fail in the way a test asks for, in turn or by chance.

A fault strikes a valid, authenticated request, before or after it took effect. Chance is drawn
from a seed, one row of draws for each fault: the n-th request of its route has always the same
fate. How a connection is broken is the shell's craft.
"""

from dataclasses import dataclass
from random import Random
from typing import Annotated, Literal

import msgspec

from usageflow.stripe.emulator.replies import Reply, error

_WORDS = {
    401: ("invalid_request_error", None, "Invalid API Key provided."),
    403: ("invalid_request_error", "account_invalid", "This key does not have access."),
    409: ("invalid_request_error", "lock_timeout", "Another request is being processed."),
    429: ("invalid_request_error", "rate_limit", "Too many requests made to the API too quickly."),
}


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happens to the next `count` requests whose "METHOD /path" contains `route`; null means
    every one. With a `rate` below 1 each is struck by that chance.

    `status` answers with that status; `reset` breaks the connection; `slow` answers properly, but
    `seconds` later. `after_commit` lets the request take effect before the fault.
    """

    route: str
    kind: Literal["status", "reset", "slow"]
    count: int | None = 1
    rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    status: int = 500
    seconds: float = 0.0
    after_commit: bool = False

    def reply(self) -> Reply:
        """The answer of a `status` fault. No Retry-After: Stripe sends none."""
        if self.status not in _WORDS:
            return error(self.status, "An error occurred on our side.", kind="api_error")
        kind, code, message = _WORDS[self.status]
        reason = {"Stripe-Rate-Limited-Reason": "endpoint-rate"} if self.status == 429 else {}  # noqa: PLR2004 - HTTP
        return error(self.status, message, kind=kind, code=code, headers=reason)


class Rule(Fault, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A fault of a plan: it strikes without end unless it says how often."""

    count: int | None = None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole fault plan. It takes the place of every fault asked for before."""

    rules: list[Rule]
    seed: int = 0


@dataclass(slots=True)
class Waiting:
    """A fault still to come, how often, and its chance."""

    fault: Fault
    left: int | None
    chance: Random


class Faults:
    """The faults still to come, in the order they were asked for."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    def add(self, fault: Fault, seed: int = 0) -> None:
        """Let `fault` strike after those already waiting for the same route."""
        chance = Random(f"{seed}/{len(self._waiting)}")  # noqa: S311 - to be repeated, not secret
        self._waiting.append(Waiting(fault, fault.count, chance))

    def follow(self, plan: Plan) -> None:
        """Forget every fault and follow the plan from its start."""
        self.clear()
        for rule in plan.rules:
            self.add(rule, plan.seed)

    def clear(self) -> None:
        """Forget every fault."""
        self._waiting = []

    def shown(self) -> list[Fault]:
        """The faults, each with the count that is left."""
        return [msgspec.structs.replace(item.fault, count=item.left) for item in self._waiting]

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, used up once."""
        line = f"{method} {path}"
        for item in self._waiting:
            if item.fault.route in line and item.chance.random() < item.fault.rate:
                if item.left is not None:
                    item.left -= 1
                    self._waiting = [one for one in self._waiting if one.left != 0]
                return item.fault
        return None
