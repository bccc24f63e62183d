"""What a policy claims for itself in a set: its name, and its templates for its metric.

Two policies of one metric on the same template and method, under the same conditions, would bill a
request twice. Knows nothing of matching; where templates overlap the most specific one wins, and of
policies on one template those with the most conditions are asked first.
"""

from usageflow.policies.models import Policy
from usageflow.policies.routes import Route, Shape, routed_shape


class Claims:
    """The claims made so far; first come, first served.

    `rules` are the app's path rules: templates may be the same for one app and differ for another.
    """

    def __init__(self, rules: frozenset[str] = frozenset()) -> None:
        self._rules = rules
        self._names: set[str] = set()
        self._routes: dict[tuple[str, Shape], list[tuple[Route, Policy]]] = {}

    def make(self, policy: Policy) -> tuple[str, str] | None:
        """Claim for `policy`; else (field, message), and nothing is claimed."""
        if policy.name in self._names:
            return "name", f'another policy is called "{policy.name}" too'
        claimed: list[tuple[Shape, Route]] = []
        # A policy that is off matches nothing; its templates are free.
        for route in policy.routes if policy.mode != "off" else ():
            shape = routed_shape(route.template.shape, self._rules)
            taken = self._routes.get((policy.metric, shape), [])
            own = [(other, policy) for known, other in claimed if known == shape]
            for other, owner in [*taken, *own]:
                if other.overlaps(route.methods) and _conditions(owner) == _conditions(policy):
                    return "match", (
                        f'"{route.text}" and "{other.text}" of policy "{owner.name}" both count '
                        f"{policy.metric} for the same requests"
                    )
            claimed.append((shape, route))
        self._names.add(policy.name)
        for shape, route in claimed:
            self._routes.setdefault((policy.metric, shape), []).append((route, policy))
        return None


def _conditions(policy: Policy) -> tuple[object, ...]:
    return policy.host, policy.header, policy.query
