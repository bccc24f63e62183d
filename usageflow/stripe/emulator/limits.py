"""Rate limits as Stripe has them, as token buckets: which of them a call counts in, and the 429.

Pure: the time comes in, in seconds of a clock that cannot be set, as the emulated one jumps.
A bucket holds one second's worth. They are off until a test switches them on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

import msgspec

from usageflow.stripe.emulator.replies import Reply, error

Rate = Annotated[float, msgspec.Meta(gt=0)]

METER_EVENTS: Final = frozenset({"PostBillingMeterEvents", "PostV2BillingMeterEvents"})
STREAM: Final = "PostV2BillingMeterEventStream"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Calls per second and account; the defaults are Stripe's. In a sandbox only two hold."""

    enforce: bool = False
    global_per_s: Rate = 100
    endpoint_per_s: Rate = 25
    search_per_s: Rate = 20
    meter_events_per_s: Rate = 1_000
    stream_events_per_s: Rate = 10_000
    sandbox_per_s: Rate = 25


class Claim(NamedTuple):
    """What a call takes from one bucket, and Stripe's word for that bucket being empty."""

    bucket: str
    rate: float
    reason: str
    cost: int = 1


def claims(
    limits: Limits, operation: str, *, livemode: bool, connected: bool, events: int = 1
) -> list[Claim]:
    """The buckets that a call of `operation` counts in.

    `connected` says that it is made for another account: meter events then lose their own bucket.
    `events` is how many the call brings to the stream.
    """
    every = limits.global_per_s if livemode else limits.sandbox_per_s
    basic = Claim("global", every, "global-rate")
    if operation.endswith("Search"):
        return [Claim("search", limits.search_per_s, "endpoint-rate"), basic]
    if not livemode:
        return [basic]
    if operation == STREAM:
        return [Claim("stream", limits.stream_events_per_s, "endpoint-rate", events)]
    if operation not in METER_EVENTS:
        return [Claim(operation, limits.endpoint_per_s, "endpoint-rate"), basic]
    own = Claim("meter events", limits.meter_events_per_s, "endpoint-rate")
    return [basic if connected else own]


@dataclass(slots=True)
class Bucket:
    """How much was left at `at_s`."""

    level: float
    at_s: float


class Budget:
    """The buckets of one account in one mode, each full at first."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def spend(self, wanted: Iterable[Claim], now_s: float) -> Claim | None:
        """Take every claim, or none and give the one that could not be met."""
        taken: list[tuple[Bucket, int]] = []
        for claim in wanted:
            bucket = self._filled(claim, now_s)
            if bucket.level < claim.cost:
                return claim
            taken.append((bucket, claim.cost))
        for bucket, cost in taken:
            bucket.level -= cost
        return None

    def _filled(self, claim: Claim, now_s: float) -> Bucket:
        """The bucket at `now_s`. It always has room for one call, however slow its rate."""
        full = max(claim.rate, claim.cost)
        bucket = self._buckets.setdefault(claim.bucket, Bucket(full, now_s))
        bucket.level = min(full, bucket.level + (now_s - bucket.at_s) * claim.rate)
        bucket.at_s = now_s
        return bucket


def refusal(claim: Claim) -> Reply:
    """The 429 of an empty bucket. No Retry-After: Stripe sends none."""
    return error(
        429,
        "Request rate limit exceeded. You can learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
        code="rate_limit",
        headers={"Stripe-Rate-Limited-Reason": claim.reason},
    )
