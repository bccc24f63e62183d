"""The policy set: which policies concern a request, before the app sees it.

Everything is compiled when the set is built; what an exchange is worth is in `evaluation`. Nothing
here reads a clock or does I/O.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Final

from usageflow._types import Headers
from usageflow.policies.claims import Claims
from usageflow.policies.conditions import Condition, compile_conditions, specificity
from usageflow.policies.document import canonical
from usageflow.policies.facts import Facts
from usageflow.policies.hops import claim
from usageflow.policies.identity import IdentityReader, Verifiers, compile_identity
from usageflow.policies.models import Policy
from usageflow.policies.paths import split_path
from usageflow.policies.quantity import Quantity, compile_quantity
from usageflow.policies.routes import Route, Router
from usageflow.policies.sources import BodySource
from usageflow.policies.surroundings import Surroundings
from usageflow.policies.tally import PIECES, Piece, Tally

MEETINGS_MAX: Final = 10_000
"""Combinations of policies remembered; each takes about 300 bytes."""

UPGRADED: Final = 101
"""Status of an accepted WebSocket (RFC 6455, section 4.2.2)."""
_VERSION_DIGITS: Final = 12
_NO_SURROUNDINGS: Final = Surroundings()
_NO_HEADERS: Final[Headers] = []


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPolicy:
    """One policy under one of its templates, ready to be evaluated.

    `route` is the template as it was written: concrete paths are private and never recorded.
    """

    policy: Policy
    version: str
    route: str
    fires: Callable[[int | None], bool]
    condition: Condition | None
    identity: IdentityReader
    quantity: Quantity
    needs_request_body: bool
    needs_response_body: bool
    grows: bool
    """Whether the quantity is a sum over what passes, which can be recorded in parts."""


class Match:
    """The policies that concern one request, at most one per metric, and what they need to see.

    `claims` is what an edge records by them (see `hops`); `segments` is the matched path, split;
    `fail_closed` tells that one of the policies would rather have the request refused than
    unmetered, `include_usage` that one wants a stream's usage asked for, `grows` that the usage of
    one can be recorded while it passes.
    """

    __slots__ = (
        "claims",
        "fail_closed",
        "grows",
        "include_usage",
        "needs_request_body",
        "needs_response_body",
        "policies",
        "segments",
    )

    def __init__(self, plan: "_Plan", segments: Sequence[str]) -> None:
        self.policies = plan.policies
        self.claims = plan.claims
        self.needs_request_body = plan.needs_request_body
        self.needs_response_body = plan.needs_response_body
        self.fail_closed = plan.fail_closed
        self.include_usage = plan.include_usage
        self.grows = plan.grows
        self.segments = segments

    def tallies(self, facts: Facts, piece: Piece) -> dict[CompiledPolicy, Tally]:
        """Begin to measure what comes piece by piece: a tally for each policy that reads it."""
        return {
            compiled: compiled.quantity.tally(facts, self.segments)
            for compiled in self.policies
            if compiled.quantity.tally is not None and PIECES[piece] in compiled.quantity.parts
        }


class PolicySet:
    """Policies in force together; immutable, so that it is replaced as a whole.

    `size` is how many there are; `fail_closed` as in Match, for any request; `version` is a hash
    over all of them and their versions; `problems` has one line for each policy that was left out
    because another one claims the same.
    """

    __slots__ = ("_met", "_router", "_rules", "fail_closed", "problems", "size", "version")
    EMPTY: ClassVar["PolicySet"]

    def __init__(
        self,
        policies: Sequence[tuple[Policy, str]],
        problems: Sequence[str] = (),
        surroundings: Surroundings = _NO_SURROUNDINGS,
    ) -> None:
        """For policies without conflicting claims; `build` finds out."""
        self.problems = tuple(problems)
        self.size = len(policies)
        self.fail_closed = any(policy.on_ledger_failure == "closed" for policy, _ in policies)
        self.version = _set_version(policies)
        self._met: dict[tuple[CompiledPolicy, ...], _Plan] = {}
        verifiers: Verifiers = {}
        compiled = (
            _compiled(policy, version, surroundings, verifiers) for policy, version in policies
        )
        self._rules = surroundings.path_rules
        self._router = Router(chain.from_iterable(compiled), _Plan, self._rules)

    @classmethod
    def build(
        cls,
        policies: Iterable[tuple[Policy, str]],
        surroundings: Surroundings = _NO_SURROUNDINGS,
    ) -> "PolicySet":
        """The set of these (policy, version) pairs; of two that conflict the first one stays."""
        claims = Claims(surroundings.path_rules)
        good: list[tuple[Policy, str]] = []
        problems: list[str] = []
        for policy, version in policies:
            problem = claims.make(policy)
            if problem is None:
                good.append((policy, version))
            else:
                problems.append(f'policy "{policy.name}": {": ".join(problem)}')
        return cls(good, problems, surroundings)

    def match(
        self,
        method: str,
        path: str,
        headers: Headers = _NO_HEADERS,
        query_string: bytes = b"",
        raw_path: bytes = b"",
    ) -> Match | None:
        """The policies for a request to this decoded path; None if there are none.

        `method` is WEBSOCKET for a WebSocket. Headers and query are for the conditions, the raw
        path for apps that route encoded slashes.
        """
        segments = split_path(path, raw_path, self._rules)
        plans = self._router.find(method, path, segments)
        if not plans:
            return None
        plan = plans[0]
        if len(plans) > 1 or plan.conditional:
            chosen = _chosen(plans, headers, query_string)
            if not chosen:
                return None
            plan = self._plan(chosen)
        return Match(plan, segments)

    def without(self, match: Match, claims: frozenset[str]) -> Match | None:
        """A match of this set less what others claim; None if nothing is left."""
        left = tuple(each for each in match.policies if claim(each.policy) not in claims)
        return Match(self._plan(left), match.segments) if left else None

    def _plan(self, chosen: tuple[CompiledPolicy, ...]) -> "_Plan":
        """The plan of policies that met in a request; there are few such meetings."""
        plan = self._met.get(chosen)
        if plan is None:
            plan = _Plan(chosen)
            if len(self._met) < MEETINGS_MAX:
                self._met[chosen] = plan
        return plan


class _Plan:
    """What a request needs under these policies; made once per template and method."""

    __slots__ = (
        "claims",
        "conditional",
        "fail_closed",
        "grows",
        "include_usage",
        "needs_request_body",
        "needs_response_body",
        "policies",
    )

    def __init__(self, policies: Iterable[CompiledPolicy]) -> None:
        """Those with the most conditions first; of equals the first one written."""
        self.policies = tuple(
            sorted(
                policies,
                key=lambda item: (
                    -specificity(item.policy.host, item.policy.header, item.policy.query)
                ),
            )
        )
        self.claims = frozenset(claim(item.policy) for item in self.policies)
        self.conditional = any(item.condition is not None for item in self.policies)
        self.grows = any(item.grows for item in self.policies)
        self.include_usage = any(item.policy.include_usage for item in self.policies)
        self.needs_request_body = any(item.needs_request_body for item in self.policies)
        self.needs_response_body = any(item.needs_response_body for item in self.policies)
        self.fail_closed = any(item.policy.on_ledger_failure == "closed" for item in self.policies)


def _conditions(compiled: CompiledPolicy) -> int:
    policy = compiled.policy
    return specificity(policy.host, policy.header, policy.query)


def _chosen(
    plans: Sequence[_Plan], headers: Headers, query_string: bytes
) -> tuple[CompiledPolicy, ...]:
    """For each metric the first policy whose conditions are met; the most specific plan leads.

    A policy of which it cannot be told (two headers that disagree) stands in only where no other
    is sure: nobody gets past a policy, nor into a cheaper one, by sending more than is clear.
    """
    chosen: dict[str, CompiledPolicy] = {}
    unsure: dict[str, CompiledPolicy] = {}
    for plan in plans:
        for compiled in plan.policies:
            metric = compiled.policy.metric
            if metric in chosen:
                continue
            met = compiled.condition is None or compiled.condition(headers, query_string)
            if met is not False:
                (unsure if met is None else chosen).setdefault(metric, compiled)
    return tuple((unsure | chosen).values())


def _compiled(
    policy: Policy, version: str, surroundings: Surroundings, verifiers: Verifiers
) -> Iterable[tuple[Route, CompiledPolicy]]:
    identity_body = any(isinstance(source, BodySource) for source in policy.identify)
    for route in policy.routes if policy.mode != "off" else ():
        quantity = compile_quantity(policy.quantity, route.template, policy.stream)
        of_websocket = any(section == "websocket" for section, _ in quantity.parts)
        if of_websocket:  # its messages are always summed
            quantity = compile_quantity(policy.quantity, route.template, "sum")
        yield (
            route,
            CompiledPolicy(
                policy=policy,
                version=version,
                route=route.template.text,
                fires=_fires(policy.when),
                condition=compile_conditions(policy.host, policy.header, policy.query),
                identity=compile_identity(policy.identify, route.template, surroundings, verifiers),
                quantity=quantity,
                needs_request_body=identity_body or ("request", "body") in quantity.parts,
                needs_response_body=("response", "body") in quantity.parts,
                grows=of_websocket or (policy.stream == "sum" and policy.on_abort != "none"),
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
    return lambda status: (
        status is not None
        and (
            200 <= status < 400 or status == UPGRADED  # noqa: PLR2004 - 2xx, 3xx
        )
    )


def _set_version(policies: Iterable[tuple[Policy, str]]) -> str:
    digest = hashlib.sha256()
    for line in sorted(version.encode() + b" " + canonical(policy) for policy, version in policies):
        digest.update(line + b"\n")
    return digest.hexdigest()[:_VERSION_DIGITS]


PolicySet.EMPTY = PolicySet(())
