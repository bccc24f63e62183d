"""The policy set, and what one exchange is worth under it.

`PolicySet.match` says which policies concern a request, before the app sees it; `evaluate` turns
the facts of the finished exchange into usage events. Everything is compiled when the set is built;
nothing here reads a clock, does I/O or raises for what a client or an app sent.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import ClassVar

from usageflow.events import TEXT_CHARS_MAX, EventState, Identity, UsageEvent
from usageflow.policies.claims import Claims
from usageflow.policies.document import canonical
from usageflow.policies.facts import Facts
from usageflow.policies.identity import IdentityReader, compile_identity
from usageflow.policies.models import Policy
from usageflow.policies.quantity import QuantityReader, compile_quantity, needed_parts
from usageflow.policies.reason import Reason
from usageflow.policies.routes import Route, Router
from usageflow.policies.sources import BodySource

_VERSION_DIGITS = 12


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPolicy:
    """One policy under one of its templates, ready to be evaluated.

    `route` is the template as it was written: concrete paths are private and never recorded.
    """

    policy: Policy
    version: str
    route: str
    fires: Callable[[int | None], bool]
    identity: IdentityReader
    quantity: QuantityReader
    needs_request_body: bool
    needs_response_body: bool


class Match:
    """The policies that concern one request, at most one per metric, and what they need to see.

    `segments` is the matched path, split; `fail_closed` tells that one of the policies would
    rather have the request refused than unmetered.
    """

    __slots__ = (
        "fail_closed",
        "needs_request_body",
        "needs_response_body",
        "policies",
        "segments",
    )

    def __init__(self, plan: "_Plan", segments: Sequence[str]) -> None:
        self.policies = plan.policies
        self.needs_request_body = plan.needs_request_body
        self.needs_response_body = plan.needs_response_body
        self.fail_closed = plan.fail_closed
        self.segments = segments


class PolicySet:
    """Policies in force together; immutable, so that it is replaced as a whole.

    `version` is a hash over all policies and their versions; `problems` has one line for each
    policy that was left out because another one claims the same.
    """

    __slots__ = ("_router", "problems", "version")
    EMPTY: ClassVar["PolicySet"]

    def __init__(
        self, policies: Sequence[tuple[Policy, str]], problems: Sequence[str] = ()
    ) -> None:
        """For policies without conflicting claims; `build` finds out."""
        self.problems = tuple(problems)
        self.version = _set_version(policies)
        self._router = Router(chain.from_iterable(map(_compiled, policies)), _Plan)

    @classmethod
    def build(cls, policies: Iterable[tuple[Policy, str]]) -> "PolicySet":
        """The set of these (policy, version) pairs; of two that conflict the first one stays."""
        claims = Claims()
        good: list[tuple[Policy, str]] = []
        problems: list[str] = []
        for policy, version in policies:
            problem = claims.make(policy)
            if problem is None:
                good.append((policy, version))
            else:
                problems.append(f'policy "{policy.name}": {": ".join(problem)}')
        return cls(good, problems)

    def match(self, method: str, path: str) -> Match | None:
        """The policies for a request to this decoded path; None if there are none."""
        segments = path.split("/")
        plans = self._router.find(method, path, segments)
        if not plans:
            return None
        plan = plans[0] if len(plans) == 1 else _most_specific(plans)
        return Match(plan, segments)


def evaluate(
    match: Match, facts: Facts, *, now: datetime, new_id: Callable[[], str]
) -> list[UsageEvent]:
    """One event for each policy whose `when` is met: counted, or with a reason why not.

    `now` is UTC. Never raises for anything in the facts; what goes wrong inside becomes an inbox
    event.
    """
    events = []
    for compiled in match.policies:
        try:
            if not compiled.fires(facts.status):
                continue
            identity, quantity, state, reason = _outcome(compiled, match.segments, facts)
        except Exception as error:  # noqa: BLE001 - one policy must harm neither the app nor others
            identity, quantity, state = None, None, "inbox"
            reason = f"internal error: {type(error).__name__}"
        policy = compiled.policy
        events.append(
            UsageEvent(
                id=new_id(),
                policy=policy.name,
                policy_version=compiled.version,
                metric=policy.metric,
                identity=Identity(policy.field, identity),
                quantity=quantity,
                occurred_at=now,
                state=state,
                reason=reason,
                event_name=policy.event_name,
                request_method=facts.method[:TEXT_CHARS_MAX],
                request_route=compiled.route,
                request_status=facts.status,
            )
        )
    return events


Outcome = tuple[str | None, Decimal | None, EventState, str | None]
"""Identity value, quantity, state and reason of an event."""


def _outcome(compiled: CompiledPolicy, segments: Sequence[str], facts: Facts) -> Outcome:
    policy = compiled.policy
    aborted = None if policy.on_abort == "full" else facts.aborted
    identity = compiled.identity(facts, segments)
    if aborted is not None and policy.on_abort == "none":
        value = None if isinstance(identity, Reason) else identity
        return value, None, "skipped", f"aborted: {aborted}"
    quantity = compiled.quantity(facts, segments)
    if isinstance(identity, str) and isinstance(quantity, Decimal) and aborted is None:
        return identity, quantity, "shadow" if policy.mode == "shadow" else "counted", None
    return _explained(policy, identity, quantity, aborted)


def _explained(
    policy: Policy, identity: str | Reason, quantity: Decimal | Reason, aborted: str | None
) -> Outcome:
    """The outcome where something is missing or the exchange was cut short."""
    state: EventState = "counted"
    reasons: list[str] = []
    value: str | None = None
    if isinstance(identity, Reason):
        state = "inbox"
        reasons.append(identity.text)
    else:
        value = identity
    amount: Decimal | None = None
    if isinstance(quantity, Decimal):
        amount = quantity
    else:
        reasons.append(quantity.text)
        if isinstance(policy.on_missing, Decimal):
            amount = policy.on_missing
            reasons.append(f"counted as {amount}, as on_missing says")
        else:
            state = "skipped" if policy.on_missing == "skip" else "inbox"
    if aborted is not None and not any(aborted in reason for reason in reasons):
        reasons.append(f"aborted: {aborted}")
    if policy.mode == "shadow" and state != "skipped":
        state = "shadow"
    return value, amount, state, "; ".join(reasons)[:TEXT_CHARS_MAX]


class _Plan:
    """What a request needs under these policies; made once per template and method."""

    __slots__ = ("fail_closed", "needs_request_body", "needs_response_body", "policies")

    def __init__(self, policies: Iterable[CompiledPolicy]) -> None:
        self.policies = tuple(policies)
        self.needs_request_body = any(item.needs_request_body for item in self.policies)
        self.needs_response_body = any(item.needs_response_body for item in self.policies)
        self.fail_closed = any(item.policy.on_ledger_failure == "closed" for item in self.policies)


def _most_specific(plans: Sequence[_Plan]) -> _Plan:
    """Each metric from the first plan that has it."""
    chosen: dict[str, CompiledPolicy] = {}
    for plan in plans:
        for compiled in plan.policies:
            chosen.setdefault(compiled.policy.metric, compiled)
    return _Plan(chosen.values())


def _compiled(versioned: tuple[Policy, str]) -> Iterable[tuple[Route, CompiledPolicy]]:
    policy, version = versioned
    parts = needed_parts(policy.quantity)
    identity_body = any(isinstance(source, BodySource) for source in policy.identify)
    for route in policy.routes if policy.mode != "off" else ():
        yield (
            route,
            CompiledPolicy(
                policy=policy,
                version=version,
                route=route.template.text,
                fires=_fires(policy.when),
                identity=compile_identity(policy.identify, route.template),
                quantity=compile_quantity(policy.quantity, route.template),
                needs_request_body=identity_body or ("request", "body") in parts,
                needs_response_body=("response", "body") in parts,
            ),
        )


def _fires(when: str | tuple[int, ...]) -> Callable[[int | None], bool]:
    """`when` as a question to the status; None means that no response was started."""
    if isinstance(when, tuple):
        return frozenset[int | None](when).__contains__
    if when == "request":
        return lambda _: True
    if when == "response":
        return lambda status: status is not None
    return lambda status: status is not None and 200 <= status < 400  # noqa: PLR2004 - 2xx, 3xx


def _set_version(policies: Iterable[tuple[Policy, str]]) -> str:
    digest = hashlib.sha256()
    for line in sorted(version.encode() + b" " + canonical(policy) for policy, version in policies):
        digest.update(line + b"\n")
    return digest.hexdigest()[:_VERSION_DIGITS]


PolicySet.EMPTY = PolicySet(())
