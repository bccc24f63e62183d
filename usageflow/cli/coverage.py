"""How a coverage is shown: a table for a person, JSON for a program. Judges nothing."""

import json
from collections import Counter
from collections.abc import Collection
from typing import Any

from usageflow.cli.tables import table
from usageflow.policies.coverage import STATUSES, Coverage, Covered

HEADER = ("", "method", "route", "name", "policies")


def print_tables(coverage: Coverage, *, shadow: Collection[str]) -> None:
    """One line per route, what no route needs, and the counts. `shadow` policies never bill."""
    print(table(HEADER, [_cells(covered, shadow) for covered in coverage.routes]))
    print()
    for name in coverage.idle_policies:
        print(f'policy "{name}": no route needs it')
    for exemption in coverage.idle_exemptions:
        print(f"exemption of {', '.join(exemption.match)}: no route needs it")
    counts = _counts(coverage)
    told = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    print(f"{len(coverage.routes)} routes: {told}")


def print_json(coverage: Coverage) -> None:
    """The same as one document; what a route does not have is null or empty."""
    document = {
        "routes": [_document(covered) for covered in coverage.routes],
        "idle": {
            "policies": coverage.idle_policies,
            "exemptions": [
                {"match": exemption.match, "reason": exemption.reason}
                for exemption in coverage.idle_exemptions
            ],
        },
        "counts": _counts(coverage),
    }
    print(json.dumps(document))


def _counts(coverage: Coverage) -> dict[str, int]:
    found = Counter(covered.status for covered in coverage.routes)
    return {status: found[status] for status in STATUSES}


def _cells(covered: Covered, shadow: Collection[str]) -> tuple[str, ...]:
    route = covered.route
    told = [f"{name} (shadow)" if name in shadow else name for name in covered.policies]
    told += [f"{name} (conditional)" for name in covered.conditional]
    remarks = [", ".join(told)] if told else []
    remarks += [f"exempt: {covered.reason}"] if covered.reason else []
    if remarks and covered.missed:  # else it is the whole route
        remarks.append(f"not {covered.missed}")
    template = f"{route.host}{route.template}" if route.host else route.template
    return covered.status, route.method, template, route.name, "; ".join(remarks)


def _document(covered: Covered) -> dict[str, Any]:
    route = covered.route
    return {
        "method": route.method,
        "host": route.host,
        "template": route.template,
        "name": route.name,
        "status": covered.status,
        "policies": covered.policies,
        "conditional": covered.conditional,
        "reason": covered.reason,
        "missed": covered.missed,
    }
