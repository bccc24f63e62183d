"""Whose Stripe customer usage is, and what that costs in questions to Stripe."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import stripe as stripe_sdk
from sqlmodel import col, select

from usageflow.db.tables import LaneRow, StripeCustomerRow
from usageflow.errors import DeliveryError
from usageflow.ledger import units
from usageflow.ledger.attempts import Limits
from usageflow.ledger.units import Claim
from usageflow.ledger.verdicts import AccountPaused, Busy, Parked
from usageflow.stripe import directory
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.customers import LIST_AGAIN, SEARCHES_PER_S, StripeAddresses

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

LIST = "GET /v1/customers"
SEARCH = "GET /v1/customers/search"
READ = "GET /v1/customers/{customer}"


@pytest.fixture
def addresses(way: "Way") -> StripeAddresses:
    """The addresses of the way's account."""
    return StripeAddresses(way.database, way.account_id, way.gateway)


@pytest.fixture
def claim_of(way: "Way") -> Callable[..., Claim]:
    """`claim_of("acct_1")`: the claim of a unit of usage of this identity; not bound."""

    def use_and_claim(customer: str, **changes: Any) -> Claim:
        way.use(1, customer=customer, **changes)
        with way.database.transaction() as tx:
            found = units.claim(
                tx,
                way.account_id,
                owner="test",
                limit=100,
                lease_s=60,
                limits=Limits(resend_s_max=72_000),
            )
        (claim,) = (one for one in found if one.identity_value == customer)
        return claim

    return use_and_claim


def bound(way: "Way", addresses: StripeAddresses, *claims: Claim) -> list[str | None]:
    """Whom these claims are bound to."""
    with way.database.transaction() as tx:
        found = addresses.bind(tx, claims)
    assert [one.unit_id for one in found] == [one.unit_id for one in claims]
    stored = {unit.id: unit.stripe_customer_id for unit in way.units()}
    assert [stored[one.unit_id] for one in found] == [one.stripe_customer_id for one in found]
    return [one.stripe_customer_id for one in found]


def asked(way: "Way", route: str) -> int:
    """How often Stripe was asked so, whatever it answered."""
    return sum(way.calls(route).values())


def test_customers_are_listed_once_for_each_field(
    way: "Way", addresses: StripeAddresses, claim_of: Callable[..., Claim]
) -> None:
    """Also over restarts; a field that comes up later is listed then."""
    one, _ = way.emulator.seed([{"account_id": "a", "plan": "gold"}, {"account_id": "b"}])
    addresses.prepare()
    assert asked(way, LIST) == 0
    claim = claim_of("a")
    addresses.prepare()
    addresses.prepare()
    again = StripeAddresses(way.database, way.account_id, way.gateway)
    again.prepare()
    assert asked(way, LIST) == 1
    assert bound(way, again, claim) == [one]
    with way.database.transaction() as tx:
        tx.session.exec(select(LaneRow)).one().identity_field = "plan"
    addresses.prepare()
    assert asked(way, LIST) == 2
    with way.database.reading() as tx:
        assert list(directory.known(tx, way.account_id, [("plan", "gold")])) == [("plan", "gold")]


def test_a_long_list_comes_in_parts(
    way: "Way",
    addresses: StripeAddresses,
    claim_of: Callable[..., Claim],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ingestion goes on beside it; two customers with one value stay two."""
    monkeypatch.setattr("usageflow.stripe.customers.LISTED_AT_ONCE", 3)
    ids = way.emulator.seed([{"account_id": str(number)} for number in [0, *range(7)]])
    claim = claim_of("6")
    addresses.prepare()
    assert bound(way, addresses, claim, claim_of("0")) == [ids[-1], None]


def test_a_list_that_fails_is_tried_again(
    way: "Way", addresses: StripeAddresses, claim_of: Callable[..., Claim]
) -> None:
    """Before it has been read to its end nothing is claimed."""
    claim_of("a")
    way.emulator.fault("status", route=LIST, status=500)
    with pytest.raises(DeliveryError):
        addresses.prepare()
    addresses.prepare()
    assert asked(way, LIST) == 2


def test_a_key_that_may_not_list_may_search(
    way: "Way", addresses: StripeAddresses, claim_of: Callable[..., Claim]
) -> None:
    """It is not asked for the list again until the next start."""
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    claim = claim_of("a")
    way.emulator.fault("status", route=LIST, status=403)
    addresses.prepare()
    addresses.prepare()
    assert asked(way, LIST) == 1
    assert addresses.look_up(claim) == customer


def test_claims_are_bound_at_once(
    way: "Way", addresses: StripeAddresses, claim_of: Callable[..., Claim]
) -> None:
    """Those of whom it is clear, in order; what was bound before stays so."""
    one, _, _ = way.emulator.seed([{"account_id": "a"}, {"account_id": "b"}, {"account_id": "b"}])
    claims = [claim_of("a"), claim_of("b"), claim_of("c"), claim_of("bound")]
    addresses.prepare()
    with way.database.transaction() as tx:
        claims[3] = units.bind_customer(tx, claims[3], "cus_before")
        directory.attach(tx, way.account_id, ("account_id", "bound"), "cus_other")
    assert bound(way, addresses, *claims) == [one, None, None, "cus_before"]
    assert bound(way, addresses) == []


def test_a_look_up_compares_exactly(
    way: "Way", addresses: StripeAddresses, claim_of: Callable[..., Claim]
) -> None:
    """Search finds whatever differs in case only; that is somebody else."""
    exact, _ = way.emulator.seed([{"account_id": "acct_a"}, {"account_id": "ACCT_A"}])
    claim = claim_of("acct_a")
    assert addresses.look_up(claim) == exact
    assert bound(way, addresses, claim) == [exact]
    unknown = addresses.look_up(claim_of("Acct_a"))
    assert unknown == Parked("no Stripe customer has metadata account_id = Acct_a")


def test_candidates_are_read_as_they_are_now(
    way: "Way",
    addresses: StripeAddresses,
    claim_of: Callable[..., Claim],
    sdk: stripe_sdk.StripeClient,
) -> None:
    """Those known before are asked too: one was changed, one deleted, one is still right."""
    changed, deleted, right = way.emulator.seed([{"account_id": "a"}] * 3)
    claim = claim_of("a")
    addresses.prepare()
    several = addresses.look_up(claim)
    assert isinstance(several, Parked)
    assert several.reason.startswith("3 Stripe customers have metadata account_id = a: cus_")
    sdk.v1.customers.update(changed, {"metadata": {"account_id": "b"}})
    sdk.v1.customers.delete(deleted)
    way.pass_time(30)
    assert addresses.look_up(claim) == right


def test_what_is_clear_by_now_is_not_asked(
    way: "Way", addresses: StripeAddresses, claim_of: Callable[..., Claim]
) -> None:
    """Another unit of the same identity was looked up, or an event came."""
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    one, other = claim_of("a"), claim_of("a", event_name="words")
    assert addresses.look_up(one) == addresses.look_up(other) == customer
    assert asked(way, SEARCH) == 1


def test_an_empty_identity_is_not_asked(
    way: "Way", addresses: StripeAddresses, claim_of: Callable[..., Claim]
) -> None:
    """Stripe has no empty values, and the search would not know what is meant."""
    way.emulator.seed([{}])
    verdict = addresses.look_up(claim_of(""))
    assert verdict == Parked("no Stripe customer has metadata account_id = ")
    assert asked(way, SEARCH) == 0


def test_a_crowd_is_not_read(
    way: "Way",
    addresses: StripeAddresses,
    claim_of: Callable[..., Claim],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reads are allotted; those that look right are among the few."""
    monkeypatch.setattr("usageflow.stripe.customers.CANDIDATES_MAX", 3)
    way.emulator.seed([{"account_id": "ANY"}] * 5)
    (exact,) = way.emulator.seed([{"account_id": "any"}])
    way.emulator.seed([{"account_id": "Any"}] * 5)
    assert addresses.look_up(claim_of("any")) == exact
    assert asked(way, READ) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, Busy), (429, Busy), (401, AccountPaused), (403, AccountPaused)],
    ids=str,
)
def test_a_search_without_an_answer_is_a_verdict(
    way: "Way",
    addresses: StripeAddresses,
    claim_of: Callable[..., Claim],
    status: int,
    kind: type[object],
) -> None:
    """The unit goes out later, or the account pauses; nobody is parked for it."""
    way.emulator.fault("status", route=SEARCH, status=status)
    assert isinstance(addresses.look_up(claim_of("a")), kind)


def test_where_stripe_cannot_search_it_is_listed(
    way: "Way",
    addresses: StripeAddresses,
    claim_of: Callable[..., Claim],
    sdk: stripe_sdk.StripeClient,
) -> None:
    """At most once in an hour; who is not in the list any more is gone."""
    (gone,) = way.emulator.seed([{"account_id": "gone"}])
    claim = claim_of("a")
    addresses.prepare()
    way.emulator.fault("status", route=SEARCH, status=400, count=9)
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    sdk.v1.customers.delete(gone)
    assert isinstance(addresses.look_up(claim), Parked)
    way.pass_time(LIST_AGAIN.total_seconds())
    assert addresses.look_up(claim) == customer
    assert isinstance(addresses.look_up(claim_of("gone")), Parked)
    assert asked(way, LIST) == 2


def test_searches_begin_slowly(way: "Way", claim_of: Callable[..., Claim]) -> None:
    """Stripe takes 20 in a second, and people use some of them."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    addresses = StripeAddresses(
        way.database, way.account_id, way.gateway, clock=lambda: now[0], sleep=sleep
    )
    claim = claim_of("a")
    for _ in range(12):
        addresses.look_up(claim)
    assert asked(way, SEARCH) == 12
    assert now[0] >= 11 / SEARCHES_PER_S - 0.2


def test_a_reading_counts_as_older_than_what_it_may_not_have_seen(
    way: "Way", addresses: StripeAddresses, claim_of: Callable[..., Claim]
) -> None:
    """An event of the same second, told before or after it, is the later word."""
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    claim = claim_of("a")
    assert addresses.look_up(claim) == customer
    with way.database.transaction() as tx:
        second = way.clock.now.replace(microsecond=0)
        directory.changed(tx, way.account_id, customer, {"account_id": "b"}, second)
    assert bound(way, addresses, claim) == [None]


def test_a_clock_that_is_wrong_does_not_matter(
    way: "Way", claim_of: Callable[..., Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is dated by Stripe's clock, as events are."""
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    claim = claim_of("a")
    monkeypatch.setattr(StripeGateway, "clock_skew_s", 7_200.0)
    assert StripeAddresses(way.database, way.account_id, way.gateway).look_up(claim) == customer
    with way.database.reading() as tx:
        rows = tx.session.exec(
            select(StripeCustomerRow).where(col(StripeCustomerRow.stripe_customer_id) == customer)
        ).all()
        assert [(row.valid_from - way.clock.now).total_seconds() for row in rows] == [7_198.0]


def test_a_customer_that_appears_later(way: "Way") -> None:
    """Its usage was parked with the reason, and follows in full."""
    way.emulator.seed(meters=["tokens"])
    way.use(1, 2)
    forwarder = way.forwarder()
    way.forward(forwarder)
    assert {unit.reason for unit in way.units() if unit.state == "parked"} == {
        "no Stripe customer has metadata account_id = acct_1"
    }
    way.emulator.seed([{"account_id": "acct_1"}])
    way.forward_all(forwarder)
    assert way.applied() == {("acct_1", "tokens"): "3"}
