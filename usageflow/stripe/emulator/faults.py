"""Faults on demand: the next calls of a route fail in the way a test asks for.

A fault strikes a valid, authenticated request, before or after it took effect. It knows nothing of
how a connection is broken; that is the shell's craft.
"""

from typing import Literal

import msgspec

from usageflow.stripe.emulator.replies import Reply, error

_WORDS = {
    401: ("invalid_request_error", None, "Invalid API Key provided."),
    403: ("invalid_request_error", "account_invalid", "This key does not have access."),
    409: ("invalid_request_error", "lock_timeout", "Another request is being processed."),
    429: ("invalid_request_error", "rate_limit", "Too many requests made to the API too quickly."),
}


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happens to the next `count` requests whose "METHOD /path" contains `route`.

    `status` answers with that status; `reset` breaks the connection; `slow` answers properly, but
    `seconds` later. `after_commit` lets the request take effect before the fault.
    """

    route: str
    kind: Literal["status", "reset", "slow"]
    count: int = 1
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


class FaultPlan:
    """The faults still to come, in the order they were asked for."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let `fault` strike after those already waiting for the same route."""
        self.waiting.append(fault)

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, used up once."""
        line = f"{method} {path}"
        for place, fault in enumerate(self.waiting):
            if fault.route in line:
                left = msgspec.structs.replace(fault, count=fault.count - 1)
                self.waiting[place : place + 1] = [left] if left.count > 0 else []
                return fault
        return None
