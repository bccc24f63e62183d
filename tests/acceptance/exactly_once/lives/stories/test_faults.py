"""Each fault by its name: a short story over TCP with an ending of its own, and the judge."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from usageflow.api import create_api
from usageflow.api.stripe_webhooks import PATH
from usageflow.config import Settings
from usageflow.ledger import inbox
from usageflow.stripe.accounts import accounts
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.events import CUSTOMERS

DAY_AND_MORE_S = 30 * 3_600
HOUR_S = 3_600


@pytest.fixture
def ours(world: Any, judge: Any) -> Iterator[Any]:
    """A world with three customers; at its end all heals, and the judge finds nothing."""
    made = world()
    for value in "abc":
        made.appear(value)
    yield made
    made.heal()
    witness = judge(made.database, made.payers)
    found = witness.faults(made.stripe.journal(every=True), made.stripe.calls)
    assert [*made.misstated(), *found] == []


def use_all(ours: Any, times: int = 1) -> None:
    """Usage of every customer under every meter."""
    for number in range(times):
        for value in "abc":
            for event_name in ("tokens", "seconds", "calls"):
                ours.use(value, event_name, Decimal(number * 4 + 1) / 4)


def work(ours: Any, minutes: int) -> None:
    """The server works, and time passes."""
    for _ in range(minutes):
        ours.forward()
        ours.pass_time(60)


def kinds(ours: Any) -> Counter[str]:
    """What became of calls at Stripe, by kind."""
    return Counter(row["kind"] for row in ours.stripe.journal(every=True))


def calls_of(ours: Any, identifiers: set[str]) -> Counter[str]:
    """How often each of these was sent."""
    sent = Counter(call.event["identifier"] for call in ours.stripe.calls)
    return Counter({one: sent[one] for one in identifiers})


def inbox_reasons(ours: Any) -> list[str]:
    """What a person reads in the inbox."""
    with ours.database.reading() as tx:
        return [item.reason for item in inbox.items(tx, ours.organization_id, 100)]


def account_state(ours: Any) -> str:
    """The state of the one account."""
    with ours.database.reading() as tx:
        return accounts(tx)[0].state


@pytest.mark.parametrize("fault", ["lost", "stored 500", "lost before", "503", "429", "409"])
def test_three_of_ten_calls_fail(ours: Any, fault: str) -> None:
    """An answer that is lost costs a repeat, which Stripe knows again; nothing else."""
    ours.plan(3, fault)
    for _ in range(4):
        use_all(ours)
        work(ours, 2)
    work(ours, 10)
    assert ours.picture() == {"accepted": kinds(ours)["applied"]}
    assert (kinds(ours)["duplicate"] > 0) == (fault in ("lost", "stored 500"))
    assert len(ours.stripe.calls) > kinds(ours)["applied"]


@pytest.mark.parametrize("fault", ["slow", "slow answer"])
def test_slow_past_the_timeout(ours: Any, fault: str) -> None:
    """Whether Stripe takes it before we give up or after, it is taken once."""
    use_all(ours)
    ours.fault(fault, count=2)
    work(ours, 1)
    time.sleep(1)  # Stripe is done with the calls that we gave up
    work(ours, 6)
    assert ours.picture() == {"accepted": 9}
    assert kinds(ours)["duplicate"] == 2


@pytest.mark.parametrize("fault", ["lost", "lost before", "stored 500", "500"])
def test_a_restart_after_thirty_hours(ours: Any, fault: str) -> None:
    """What was in doubt is compared, not sent again: it was there, or goes under another name."""
    use_all(ours)
    ours.fault(fault, count=20)
    ours.forward()
    sent = {call.event["identifier"] for call in ours.stripe.calls}
    assert sent
    ours.kill()
    ours.pass_time(DAY_AND_MORE_S)
    before = calls_of(ours, sent)
    ours.heal()
    assert calls_of(ours, sent) == before
    arrived = fault in ("lost", "stored 500")
    assert ours.picture().get("reissued", 0) == (0 if arrived else len(sent))


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
def test_our_clock_steps(ours: Any, hours: int) -> None:
    """Units in doubt before the step, work under the wrong time, and the way back."""
    use_all(ours)
    ours.fault("lost", count=3)
    ours.forward(3)
    ours.set_clock(hours * HOUR_S)
    use_all(ours)
    work(ours, 5)
    ours.kill()
    work(ours, 5)
    ours.set_clock(0)
    use_all(ours)
    work(ours, 5)


def test_search_is_behind(ours: Any) -> None:
    """A new customer that search does not show yet: the unit waits, and tries again by itself."""
    use_all(ours)
    work(ours, 1)
    ours.stripe.control("settings", {"search_lag_s": 60})
    ours.appear("d")
    ours.use("d", "tokens", Decimal(7))
    ours.forward()
    assert inbox_reasons(ours) == ["no Stripe customer has metadata account_id = d"]
    work(ours, 5)
    assert inbox_reasons(ours) == []
    assert ours.picture() == {"accepted": 10}


def test_a_customer_appears_later(ours: Any) -> None:
    """Usage of nobody is parked with its reason, and sent when Stripe tells of its customer."""
    ours.use("d", "tokens", Decimal(7))
    ours.use("d", "calls", Decimal(1))
    work(ours, 90)
    assert inbox_reasons(ours) == ["no Stripe customer has metadata account_id = d"] * 2
    ours.appear("d")
    ours.poll()
    ours.forward()
    assert inbox_reasons(ours) == []
    assert ours.picture() == {"accepted": 2}


def test_a_customer_never_appears(world: Any, judge: Any) -> None:
    """Its usage stays in the inbox, unit by unit, and the judge has nothing to say."""
    ours = world()
    ours.use("d", "tokens", Decimal(7))
    ours.forward()
    ours.pass_time(DAY_AND_MORE_S)
    ours.use("d", "tokens", Decimal(8))
    ours.forward()
    assert inbox_reasons(ours)
    faults = judge(ours.database, ours.payers).faults(ours.stripe.journal(every=True))
    assert faults == ours.misstated() == []


def test_two_customers_with_one_value(ours: Any) -> None:
    """Neither is "the first": usage waits, with both named, until one of them is left."""
    first = ours.having["a"][0]
    second = ours.appear("a")
    ours.use("a", "tokens", Decimal(7))
    work(ours, 3)
    (reason,) = inbox_reasons(ours)
    assert first in reason
    assert second in reason
    assert not ours.stripe.calls
    ours.lose("a")
    ours.poll()
    ours.forward()
    assert [call.event["customer"] for call in ours.stripe.calls] == [second]


def test_the_account_is_revoked_in_mid_flight(ours: Any) -> None:
    """Nothing is burnt: what was on its way waits, and goes on when it is connected again."""
    use_all(ours)
    ours.fault("lost", count=2)
    ours.forward(1)
    ours.life.land()  # whose it is has been asked: a search that is refused would tell less
    ours.revoke_account()
    work(ours, 5)
    assert account_state(ours) == "deauthorized"
    disconnected = "its Stripe account was disconnected; it is sent when that is connected again"
    assert set(inbox_reasons(ours)) == {disconnected}
    use_all(ours)
    work(ours, 2)
    ours.restore_account()
    work(ours, 5)
    assert account_state(ours) == "active"
    assert ours.picture() == {"accepted": kinds(ours)["applied"]}


@pytest.fixture
def webhooks(ours: Any) -> Iterator[Callable[..., None]]:
    """Our API hears of customers by webhook, as Stripe is told to deliver them; waits for all."""
    stripe = ours.stripe
    stripe.clocks.true = datetime.now(UTC)  # signatures are good for minutes
    with stripe.as_platform() as http:
        form = {"url": "http://127.0.0.1:9/later", "connect": "true"}
        types = {f"enabled_events[{place}]": kind for place, kind in enumerate(CUSTOMERS)}
        made = http.post("/v1/webhook_endpoints", data=form | types).raise_for_status().json()
        settings = Settings(
            stripe_api_key=stripe.key,
            stripe_client_id="ca_judge",
            stripe_api_base=stripe.url,
            stripe_webhook_secrets=made["secret"],
        )
        with running(create_api(ours.database, settings)) as url:
            http.post(f"/v1/webhook_endpoints/{made['id']}", data={"url": url + PATH})

            def settle(**conduct: Any) -> None:
                stripe.control("webhooks", conduct)
                while http.get("/_emulator/deliveries").json()["waiting"]:
                    pass

            yield settle


def test_webhooks_come_twice_and_in_any_order(ours: Any, webhooks: Callable[..., None]) -> None:
    """Customers come, go and change; what is told of it doubled and shuffled does no harm."""
    use_all(ours)
    ours.forward()
    webhooks(duplicate_rate=0.5, shuffle=True, seed=5, pause=True)
    for value in "abc":
        ours.appear(value)
        ours.lose(value)
        ours.pass_time(2)
    webhooks(pause=False, flush=True)
    use_all(ours)
    work(ours, 5)
    assert inbox_reasons(ours) == []
    later = {call.event["customer"] for call in ours.stripe.calls[-9:]}
    assert later == {ours.having[value][0] for value in "abc"}
