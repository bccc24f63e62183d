"""What an exchange is worth: its facts under the policies it matched, as usage events.

Pure: the time and the identifiers come in. Never raises for anything a client or an app sent.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from usageflow.events import TEXT_CHARS_MAX, EventState, Identity, UsageEvent
from usageflow.policies.engine import CompiledPolicy, Match
from usageflow.policies.facts import RESPONSE_BODY, Facts
from usageflow.policies.models import Policy
from usageflow.policies.reason import Reason
from usageflow.policies.tally import Tally


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
    events = []
    for compiled in match.policies:
        try:
            if not compiled.fires(facts.status):
                continue
            tally = facts.tallies.get(compiled)
            if tally is None:
                quantity = compiled.quantity.read(facts, match.segments)
            elif (streamed := _streamed(tally, facts, compiled in facts.recorded)) is not None:
                quantity = streamed
            else:
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

    Together the parts are its usage. A quantity of a WebSocket that does not grow is counted with
    the first part. A part without usage leaves no event, except that no WebSocket passes without
    any. Keeps `facts.recorded` up. The last part of a stream is what `evaluate` finds.
    """
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
            outcome = _fault(error)
        facts.recorded.add(compiled)
        events.append(_event(compiled, facts, outcome, now, new_id()))
    return events


def _part(
    compiled: CompiledPolicy, facts: Facts, segments: Sequence[str], *, last: bool
) -> Decimal | Reason | None:
    """The quantity of this part; None if it has none."""
    only = last and compiled not in facts.recorded
    tally = facts.tallies.get(compiled)
    quantity: Decimal | Reason | None = None
    if tally is not None:
        quantity = tally.take() if compiled.grows else None
        if quantity is None and only:
            quantity = tally.result()
    elif facts.websocket and (compiled.grows or compiled not in facts.recorded):
        quantity = compiled.quantity.read(facts, segments)
    nothing = isinstance(quantity, Decimal) and not quantity
    return None if nothing and compiled.grows and not only else quantity


def _streamed(tally: Tally, facts: Facts, in_parts: bool) -> Decimal | Reason | None:  # noqa: FBT001
    """What a stream is worth; if it was recorded in parts, what is left, or None."""
    problem = facts.response_body.problem
    if problem is not None:
        return Reason(f"{RESPONSE_BODY}: {problem}")
    return tally.take() if in_parts else tally.result()


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
