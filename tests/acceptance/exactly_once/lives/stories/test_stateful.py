"""Random traffic, faults, kills and clocks: in the end nothing is missing and nothing is double.

What a step may be is a rule; whether all is well, the judge says. Fifty stories in `make test`,
always the same; a thousand new ones in `make torture`.
"""

import os
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

TORTURE = bool(os.environ.get("USAGEFLOW_TORTURE"))
EXAMPLES = 1_000 if TORTURE else 50
STEPS = 30 if TORTURE else 20
VALUES = st.sampled_from("abcd")
METERS = st.sampled_from(("tokens", "seconds", "calls"))
QUANTITIES = st.one_of(
    st.integers(0, 1_000).map(Decimal),
    st.decimals(0, 1_000, places=6),
    st.sampled_from([Decimal(10**16 + 1), Decimal(2**53 - 1), Decimal("0.000000000001")]),
)
SECONDS = st.one_of(st.integers(1, 90), st.integers(600, 7_200), st.just(30 * 3_600))
FAULTS = st.sampled_from(
    ["lost", "lost before", "stored 500", "500", "503", "429", "409", "slow", "slow answer"]
)
CHANCES = ("lost", "lost before", "stored 500", "503", "429")


class Stories(RuleBasedStateMachine):
    """All that may happen to a ledger on its way to Stripe."""

    def __init__(self, make: Callable[[], Any], judge: Callable[..., Any]) -> None:
        super().__init__()
        self.world, self.judge = make(), judge

    @initialize()
    def begin(self) -> None:
        """Two identities are known, the meters are too."""
        self.world.appear("a")
        self.world.appear("b")
        self.world.forward()

    @rule(value=VALUES, event_name=METERS, quantity=QUANTITIES, ago_s=st.integers(0, 10_800))
    def use(self, value: str, event_name: str, quantity: Decimal, ago_s: int) -> None:
        """Usage of up to three hours ago."""
        self.world.use(value, event_name, quantity, ago_s)

    @rule(rounds=st.integers(1, 8))
    def forward(self, rounds: int) -> None:
        """The forwarder works."""
        self.world.forward(rounds)

    @rule(name=FAULTS, count=st.integers(1, 3))
    def fail(self, name: str, count: int) -> None:
        """The next calls fail."""
        self.world.fault(name, count)

    @rule(seed=st.integers(0, 99))
    def fail_by_chance(self, seed: int) -> None:
        """Three calls of ten fail from now on."""
        self.world.plan(seed, *CHANCES)

    @rule(crossings=st.integers(0, 20))
    def kill(self, crossings: int) -> None:
        """The server dies, now or at a commit or request to come."""
        self.world.kill(crossings)

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: int) -> None:
        """Seconds, hours, or an outage of more than a day."""
        self.world.pass_time(seconds)

    @rule(hours=st.sampled_from([-30, -1, 0, 0, 0, 1, 30]))
    def set_clock(self, hours: int) -> None:
        """Our clock is wrong, or right again."""
        self.world.set_clock(3_600 * hours)

    @rule(value=VALUES)
    def appear(self, value: str) -> None:
        """One more Stripe customer has this identity."""
        self.world.appear(value)

    @rule(value=VALUES, delete=st.booleans())
    def lose(self, value: str, delete: bool) -> None:  # noqa: FBT001 - hypothesis names it
        """A Stripe customer has it no more."""
        self.world.lose(value, delete=delete)

    @rule(lag_s=st.sampled_from([0, 60]))
    def search_lags(self, lag_s: int) -> None:
        """Stripe's search is behind, or is not."""
        self.world.stripe.control("settings", {"search_lag_s": lag_s})

    @rule(restored=st.booleans())
    def connection(self, restored: bool) -> None:  # noqa: FBT001 - hypothesis names it
        """The account's owner withdraws it, or connects it again."""
        if restored:
            self.world.restore_account()
        else:
            self.world.revoke_account()

    @rule(place=st.integers(0, 99))
    def reject(self, place: int) -> None:
        """Stripe drops what it had accepted."""
        self.world.reject_later(place)

    @rule()
    def poll(self) -> None:
        """Stripe is asked what it has told."""
        self.world.poll()

    @rule()
    def reconcile(self) -> None:
        """Ledger and Stripe are compared."""
        self.world.reconcile()

    @invariant()
    def adds_up(self) -> None:
        """The statement adds up at any moment, and no two calls fly for one customer and meter."""
        assert not self.world.misstated()

    def teardown(self) -> None:
        """Nothing goes wrong any more; the judge looks at what came of it."""
        self.world.heal()
        self.adds_up()
        stripe = self.world.stripe
        judge = self.judge(self.world.database, self.world.payers)
        assert judge.faults(stripe.journal(every=True), stripe.calls) == []


@pytest.mark.kill
@pytest.mark.timeout(3_600 if TORTURE else 300)
def test_every_story_ends_with_no_drift(world: Any, judge: Any) -> None:
    """Whatever happened: each event counts once at Stripe, or its unit is in the inbox."""
    begin: Any = lambda: Stories(world, judge)  # noqa: E731 - it is called for each story
    run_state_machine_as_test(
        begin,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not TORTURE,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
