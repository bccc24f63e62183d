"""What an exchange is worth: its facts under the policies it matched, as usage events.

Pure: the time and the identifiers come in. Never raises for anything a client or an app sent.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Context, Decimal
from typing import Final, TypeAlias

from usageflow.events import TEXT_CHARS_MAX, EventState, Identity, UsageEvent
from usageflow.policies.engine import CompiledPolicy, Match
from usageflow.policies.facts import RESPONSE_BODY, Facts
from usageflow.policies.models import Policy
from usageflow.policies.reason import Reason

_EXACT: Final = Context(prec=100)
"""Quantities have at most 38 digits; Python's default of 28 would round them."""


def evaluate(
    match: Match,
    facts: Facts,
    *,
    now: datetime,
    new_id: Callable[[], str],
) -> list[UsageEvent]:
    """One event for each policy whose `when` is met: counted, or with a reason why not.

    `now` is UTC. Never raises for anything in the facts; what goes wrong inside becomes an inbox
    event.
    """
    facts.budget = None
    events = []
    for compiled in match.policies:
        try:
            if not compiled.fires(facts.status):
                continue
            quantity = _whole(compiled, facts, match.segments)
            if quantity is None:
                continue
            outcome = _outcome(compiled, match.segments, facts, quantity)
        except Exception as error:  # noqa: BLE001 - one policy must harm neither the app nor others
            outcome = _fault(error)
        events.append(_event(compiled, facts, outcome, now, new_id()))
    return events


def evaluate_part(
    match: Match,
    facts: Facts,
    *,
    last: bool,
    now: datetime,
    new_id: Callable[[], str],
) -> list[UsageEvent]:
    """Events for what a WebSocket or a summed stream carried since the part before.

    Together the parts are its usage: a part is what the quantity is by now, less what has been
    recorded. A part without usage leaves no event, except that no WebSocket passes without any.
    Keeps `facts.recorded` up. The last part of a stream is what `evaluate` finds.
    """
    facts.budget = None
    events = []
    for compiled in match.policies:
        try:
            if not compiled.fires(facts.status):
                continue
            quantity = _part(compiled, facts, match.segments, last=last)
            if quantity is None:
                continue
            outcome = _outcome(compiled, match.segments, facts, quantity)
        except Exception as error:  # noqa: BLE001 - as above
            quantity, outcome = None, _fault(error)
        amount = quantity if isinstance(quantity, Decimal) else Decimal()
        recorded = facts.recorded.get(compiled, Decimal())
        facts.recorded = {**facts.recorded, compiled: _EXACT.add(recorded, amount)}
        events.append(_event(compiled, facts, outcome, now, new_id()))
    return events


def _whole(
    compiled: CompiledPolicy, facts: Facts, segments: Sequence[str]
) -> Decimal | Reason | None:
    """The quantity of an exchange; if it was recorded in parts, what is left, or None."""
    tally = facts.tallies.get(compiled)
    if tally is None:
        return compiled.quantity.read(facts, segments)
    in_parts = compiled in facts.recorded
    problem = facts.response_body.problem
    quantity: Decimal | Reason | None
    if problem is not None:
        quantity = Reason(f"{RESPONSE_BODY}: {problem}")
    else:
        quantity = tally.take() if in_parts else tally.result()
    return None if in_parts and _told(compiled, quantity) else quantity


def _part(
    compiled: CompiledPolicy, facts: Facts, segments: Sequence[str], *, last: bool
) -> Decimal | Reason | None:
    """The quantity of this part; None if it has none."""
    recorded = facts.recorded.get(compiled)
    only = last and recorded is None
    quantity: Decimal | Reason | None = None
    tally = facts.tallies.get(compiled)
    if tally is not None and compiled.grows:
        quantity = tally.take()
        if quantity is None and only:
            quantity = tally.result()
    elif tally is None and facts.websocket:
        quantity = compiled.quantity.read(facts, segments)
        if isinstance(quantity, Decimal):
            quantity = _EXACT.subtract(quantity, recorded or 0)
        elif not last:
            quantity = None  # it may be a number by the end
    if isinstance(quantity, Decimal) and quantity <= 0 and not only:
        return None  # nothing passed; what is recorded is never taken back
    return None if recorded is not None and _told(compiled, quantity) else quantity


def _told(compiled: CompiledPolicy, quantity: Decimal | Reason | None) -> bool:
    """Whether a further row would count `on_missing` again."""
    return isinstance(quantity, Reason) and isinstance(compiled.policy.on_missing, Decimal)


def _event(
    compiled: CompiledPolicy, facts: Facts, outcome: "Outcome", now: datetime, event_id: str
) -> UsageEvent:
    identity, quantity, state, reason = outcome
    policy = compiled.policy
    return UsageEvent(
        id=event_id,
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


def _fault(error: Exception) -> "Outcome":
    return None, None, "inbox", f"internal error: {type(error).__name__}"


Outcome: TypeAlias = tuple[str | None, Decimal | None, EventState, str | None]
"""Identity value, quantity, state and reason of an event."""


def _outcome(
    compiled: CompiledPolicy, segments: Sequence[str], facts: Facts, quantity: Decimal | Reason
) -> Outcome:
    policy = compiled.policy
    aborted = None if policy.on_abort == "full" else facts.aborted
    identity = compiled.identity(facts, segments)
    if aborted is not None and policy.on_abort == "none":
        value = None if isinstance(identity, Reason) else identity
        return value, None, "skipped", f"aborted: {aborted}"
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
