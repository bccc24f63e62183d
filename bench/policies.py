"""A large policy set: how long it takes to load, and to find the policy of one request.

Every policy has its own template and its own expression, as a generated file would.
"""

import gc
import statistics
import time
from collections.abc import Callable

from bench.report import Line, show
from usageflow.middleware.policy_sources import collector_paused
from usageflow.policies import PolicySet, parse_file

POLICIES = 5_000
ROUNDS = 5
REQUESTS = 20_000

POLICY = """
[[policy]]
name = "policy-{n}"
match = "POST /v1/tenants/:tenant/service{service}/actions{n}/:id"
identify = [ {{ from = "header", name = "x-account-id" }}, {{ from = "path", name = "tenant" }} ]
field = "account_id"
metric = "METRIC_{n}"
quantity = "{quantity}"
event_name = "metric_{n}"
"""
QUANTITIES = (
    "response.body.usage.tokens_{n}",
    "sum(response.body.items_{n}[].amount)",
    "add(response.body.in_{n}, response.body.out_{n})",
)


def policy_file() -> str:
    """The text of the file."""
    return "\n".join(
        POLICY.format(n=n, service=n % 97, quantity=QUANTITIES[n % 3].format(n=n))
        for n in range(POLICIES)
    )


def load(text: str) -> PolicySet:
    """From text to what a request meets, as an edge does it."""
    with collector_paused():
        parsed = parse_file(text, "policies.toml")
        assert parsed.problems == ()
        policies = PolicySet.build(parsed.policies)
    assert policies.problems == ()
    return policies


def _loading_s(text: str) -> float:
    gc.collect()
    started = time.process_time()
    load(text)
    return time.process_time() - started


def _median_us(match: Callable[[str, str], object], paths: list[str]) -> float:
    """The median of single matches; a clock reading is taken off."""
    clock = time.perf_counter_ns
    empty = statistics.median(-(clock() - clock()) for _ in range(REQUESTS))
    times = []
    for number in range(REQUESTS):
        path = paths[number % len(paths)]
        started = clock()
        match("POST", path)
        times.append(clock() - started)
    return (statistics.median(times) - empty) / 1_000


def main() -> None:
    """Measure and print."""
    text = policy_file()
    first_s = _loading_s(text)
    again_s = statistics.median(_loading_s(text) for _ in range(ROUNDS))
    policies = load(text)
    hits = [f"/v1/tenants/acct_{n}/service{n % 97}/actions{n}/{n}" for n in range(0, POLICIES, 7)]
    misses = [f"/v1/tenants/acct_{n}/service{n % 97}/nothing{n}/{n}" for n in range(700)]
    assert all(policies.match("POST", path) is not None for path in hits)
    assert all(policies.match("POST", path) is None for path in misses)
    hit, miss = (_median_us(policies.match, paths) for paths in (hits, misses))
    lines = [
        Line("load, first time", f"{first_s:.2f} s", "1 s", first_s <= 1),
        Line("load, expressions known", f"{again_s:.2f} s", "1 s", again_s <= 1),
        Line("match: hit, median", f"{hit:.1f} µs", "5 µs", hit <= 5),
        Line("match: miss, median", f"{miss:.1f} µs", "5 µs", miss <= 5),
    ]
    show(f"Policies: a set of {POLICIES:,}", lines)
