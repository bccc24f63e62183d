"""The judge is only believed because it fails: on each of these mistakes, and not on the product.

Each mistake is one that a forwarder could well make, built from the product by replacing a part
here; no switch in the product makes it. The same seeded stories are told to all.
"""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from usageflow.db.session import Tx
from usageflow.forwarding.forwarder import Forwarder
from usageflow.forwarding.sink import Parcel, Sink
from usageflow.ledger import units
from usageflow.ledger.units import Claim
from usageflow.ledger.verdicts import Accepted, Busy, Quarantined, Verdict

TORTURE = bool(os.environ.get("USAGEFLOW_TORTURE"))
STORIES, STORIES_POSTGRESQL = (12, 3) if TORTURE else (6, 2)
TELLING = (1, 3)
"""The stories that tell mistakes from the product soonest, so they are told first."""
STEPS = 40


class Changed:
    """A sink that does one thing wrong."""

    def __init__(self, sink: Sink) -> None:
        self.sink, self.properties, self.close = sink, sink.properties, sink.close


class FreshIdentifiers(Changed):
    """Every attempt gets an identifier of its own, as if it were the HTTP Idempotency-Key."""

    numbers = itertools.count()

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Send them under other names."""
        return self.sink.send(
            [replace(one, identifier=f"{one.identifier}_{next(self.numbers)}") for one in parcels]
        )


class OffendedByDuplicates(Changed):
    """What Stripe has already is taken for a refusal."""

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Send them, and give up what is a duplicate."""
        return [
            Quarantined("duplicate", "An event already exists with identifier")
            if verdict == Accepted(duplicate=True)
            else verdict
            for verdict in self.sink.send(parcels)
        ]


class Optimist(Changed):
    """An answer that is lost is taken for a good one: the unit is acknowledged unseen."""

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Send them, and hope."""
        self.sink.send(parcels)
        return [Accepted()] * len(parcels)


class AcknowledgesFirst(Forwarder):
    """Units are acknowledged in the ledger before Stripe has committed them."""

    def _send(self, claims: Sequence[Claim]) -> int:
        with self._db.transaction() as tx:
            units.settle_all(tx, [(claim, Accepted()) for claim in claims])
        return super()._send(claims)


class SendsBeforeItCommits(Forwarder):
    """`first_attempt_at` is committed only after the first byte has left."""

    def _claim(self, tx: Tx, limit: int) -> list[Claim]:
        claims = super()._claim(tx, limit)
        self._unsent = [claim for claim in claims if claim.stripe_customer_id is not None]
        for claim in self._unsent:
            self._deliver([claim])
        return claims


class FreesLanesAtOnce(Forwarder):
    """A lane may go on before its verdict is known."""

    def _send(self, claims: Sequence[Claim]) -> int:
        with self._db.transaction() as tx:
            units.settle_all(tx, [(claim, Busy(0.0)) for claim in claims])
        return super()._send(claims)


MISTAKES: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "fresh identifier per attempt": ({"sink": FreshIdentifiers}, "are done, of which"),
    "duplicate taken for a failure": ({"sink": OffendedByDuplicates}, "never refused it"),
    "lost answer taken for a good one": ({"sink": Optimist}, "are done, of which"),
    "acknowledged before the commit": ({"forwarder": AcknowledgesFirst}, "are done, of which"),
    "sent before the attempt is committed": ({"forwarder": SendsBeforeItCommits}, "was applied"),
    "sent again blindly after a day": ({"resend_s_max": 864_000.0}, "was sent again after"),
    "lane free before the verdict": ({"forwarder": FreesLanesAtOnce}, "was applied"),
}
"""What is built otherwise, and how the judge puts what comes of it."""


@pytest.fixture
def told(world: Any, judge: Any) -> Callable[..., list[str]]:
    """Tells the story of a seed, with other parts perhaps; what the judge finds at its end."""

    def tell(seed: int, **parts: Any) -> list[str]:
        ours, chance = world(**parts), Random(seed)
        witness = judge(ours.database, ours.payers)
        for value in "ab":
            ours.appear(value)
        faults: list[str] = []
        for _ in range(STEPS):
            ours.happen(chance)
            faults += witness.faults_of_now(ours.stripe.journal(every=True))
        ours.heal()
        faults += witness.faults(ours.stripe.journal(every=True), ours.stripe.calls)
        return [*faults, *ours.misstated()]

    return tell


@pytest.mark.kill
@pytest.mark.parametrize("seed", range(STORIES))
def test_the_product_passes(told: Callable[..., list[str]], seed: int) -> None:
    """The judge finds nothing in any of the stories."""
    assert told(seed) == []


@pytest.mark.kill
@pytest.mark.postgres
@pytest.mark.parametrize("seed", range(12, 12 + STORIES_POSTGRESQL))
def test_the_product_passes_on_postgresql(told: Callable[..., list[str]], seed: int) -> None:
    """Where the dead hold leases until these end."""
    assert told(seed, dialect="postgresql") == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(told: Callable[..., list[str]], mistake: str) -> None:
    """The judge finds each mistake, and for what it is, in one of the same stories."""
    parts, words = MISTAKES[mistake]
    seeds = dict.fromkeys((*TELLING, *range(STORIES)))
    faults = (fault for seed in seeds for fault in told(seed, **parts))
    assert any(words in fault for fault in faults)
