"""What a policy claims for itself in a set: its name, and its templates for its metric.

Two policies of one metric on the same template and method would bill a request twice. Knows
nothing of matching; different templates may overlap, there the most specific one wins.
"""

from usageflow.policies.models import Policy
from usageflow.policies.routes import Kind, Route


class Claims:
    """The claims made so far; first come, first served."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._routes: dict[
            tuple[str, tuple[tuple[Kind, str], ...]], list[tuple[Route, Policy]]
        ] = {}

    def make(self, policy: Policy) -> tuple[str, str] | None:
        """Claim for `policy`; else (field, message), and nothing is claimed."""
        if policy.name in self._names:
            return "name", f'another policy is called "{policy.name}" too'
        claimed: list[tuple[Route, Policy]] = []
        # A policy that is off matches nothing; its templates are free.
        for route in policy.routes if policy.mode != "off" else ():
            taken = self._routes.get((policy.metric, route.template.shape), [])
            for other, owner in [*taken, *claimed]:
                if other.template.shape == route.template.shape and other.overlaps(route.methods):
                    return "match", (
                        f'"{route.text}" and "{other.text}" of policy "{owner.name}" both count '
                        f"{policy.metric} for the same requests"
                    )
            claimed.append((route, policy))
        self._names.add(policy.name)
        for route, _ in claimed:
            key = policy.metric, route.template.shape
            self._routes.setdefault(key, []).append((route, policy))
        return None
