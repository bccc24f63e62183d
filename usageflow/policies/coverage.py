"""Which routes of an app are metered: by which policies, exempt for which reason, or not at all.

A route is judged by sample requests (see `app_routes`); one that an earlier route serves is not
this route's. Pure; reading the routes of an app is the caller's.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Final, Literal, NamedTuple, TypeAlias

from usageflow._types import Headers
from usageflow.policies.app_routes import AppRoute, Request
from usageflow.policies.engine import Match, PolicySet
from usageflow.policies.exemptions import Exemption
from usageflow.policies.models import Policy
from usageflow.policies.surroundings import Surroundings

Status: TypeAlias = Literal["metered", "partly", "exempt", "uncovered"]
STATUSES: Final[tuple[Status, ...]] = ("metered", "partly", "exempt", "uncovered")

_NO_SURROUNDINGS: Final = Surroundings()


class Covered(NamedTuple):
    """What is known of one route.

    `policies` meter it, `conditional` ones do so for requests that meet their conditions. `reason`
    is that of the exemption of whatever is not metered. `missed` is a request that nothing covers.
    """

    route: AppRoute
    status: Status
    policies: tuple[str, ...]
    conditional: tuple[str, ...]
    reason: str | None
    missed: str | None


class Coverage(NamedTuple):
    """All routes, and the policies and exemptions that none of them needs."""

    routes: tuple[Covered, ...]
    idle_policies: tuple[str, ...]
    idle_exemptions: tuple[Exemption, ...]


def cover(
    routes: Sequence[AppRoute],
    policies: Sequence[tuple[Policy, str]],
    exemptions: Sequence[Exemption],
    *,
    surroundings: Surroundings = _NO_SURROUNDINGS,
    host: str | None = None,
) -> Coverage:
    """Judge each route. `routes` stand in the order in which the app tries them.

    `host` is what requests name where a route does not say; None: no condition on a host is met.
    """
    judge = _Judge(policies, exemptions, surroundings, host)
    covered = []
    for index, route in enumerate(routes):
        requests = route.requests(judge.templates)
        left = [
            request
            for request in requests
            if not any(earlier.serves(request, route.host) for earlier in routes[:index])
        ]
        covered.append(judge.route(route, left or requests))
    return Coverage(tuple(covered), *judge.idle())


class _Judge:
    """The policies and exemptions, as sets that are asked, and which of them were needed."""

    def __init__(
        self,
        policies: Sequence[tuple[Policy, str]],
        exemptions: Sequence[Exemption],
        surroundings: Surroundings,
        host: str | None,
    ) -> None:
        self._policies = [policy for policy, _ in policies if policy.mode != "off"]
        self._exemptions = exemptions
        self._host = host
        routes = [*(each.routes for each in self._policies), *(each.routes for each in exemptions)]
        self.templates = [route.template for route in chain.from_iterable(routes)]
        self._sure = PolicySet.build(policies, surroundings)
        # Each with a metric of its own, so that none hides another.
        self._loose = {
            known: PolicySet(
                [
                    (_loosened(policy, f"M{number}", host_known=known), "-")
                    for number, policy in enumerate(self._policies)
                    if policy.host or policy.header or policy.query
                ],
                surroundings=surroundings,
            )
            for known in (False, True)
        }
        stand_ins = [(_stand_in(number, each), "-") for number, each in enumerate(exemptions)]
        self._exempt = PolicySet(stand_ins, surroundings=surroundings)
        self._needed: set[str] = set()
        self._needed_exemptions: set[int] = set()

    def route(self, route: AppRoute, requests: Sequence[Request]) -> Covered:
        """What is known of a route that serves these requests."""
        host = route.host or self._host
        headers: Headers = [] if host is None else [(b"host", host.encode())]
        policies: dict[str, None] = {}
        conditional: dict[str, None] = {}
        reasons: dict[str, None] = {}
        missed: Request | None = None
        for request in requests:
            sure = _names(self._sure.match(*request, headers))
            policies |= sure
            conditional |= _names(self._loose[host is not None].match(*request, headers))
            if not sure and (reason := self._exempted(request)) is not None:
                reasons[reason] = None
            elif not sure:
                missed = missed or request
        for name in policies:
            conditional.pop(name, None)
        self._needed |= policies.keys() | conditional.keys()
        return Covered(
            route,
            _status(metered=bool(policies or conditional), missed=missed),
            tuple(policies),
            tuple(conditional),
            "; ".join(reasons) or None,
            missed and " ".join(missed),
        )

    def idle(self) -> tuple[tuple[str, ...], tuple[Exemption, ...]]:
        """The policies that meet no route, and the exemptions that no route needs."""
        return (
            tuple(each.name for each in self._policies if each.name not in self._needed),
            tuple(
                each
                for number, each in enumerate(self._exemptions)
                if number not in self._needed_exemptions
            ),
        )

    def _exempted(self, request: Request) -> str | None:
        """The reason of the most specific exemption of this request."""
        match = self._exempt.match(*request)
        if match is None:
            return None
        number = int(match.policies[0].policy.name)
        self._needed_exemptions.add(number)
        return self._exemptions[number].reason


def _status(*, metered: bool, missed: Request | None) -> Status:
    if missed is None:
        return "metered" if metered else "exempt"
    return "partly" if metered else "uncovered"


def _names(match: Match | None) -> dict[str, None]:
    return {} if match is None else {each.policy.name: None for each in match.policies}


def _loosened(policy: Policy, metric: str, *, host_known: bool) -> Policy:
    """The policy without its conditions, but for that on the host if the host is known."""
    names = ["header", "query", *(() if host_known else ("host",))]
    free = {name: Policy.model_fields[name].default for name in names}
    return policy.model_copy(update={**free, "metric": metric})


def _stand_in(number: int, exemption: Exemption) -> Policy:
    """A policy for the exemption's routes, so that both are matched by the same rules."""
    return Policy.model_validate(
        {
            "name": str(number),
            "match": exemption.match,
            "identify": [{"from": "header", "name": "x"}],
            "field": "none",
            "metric": f"M{number}",
        }
    )
