"""Whose Stripe customer an identity is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
import stripe as stripe_sdk

from usageflow.stripe import customers

if TYPE_CHECKING:
    from tests.stripe.conftest import Way


def known(way: "Way", value: str, field: str = "account_id") -> Sequence[str]:
    """The ids that are known for a value."""
    with way.database.reading() as tx:
        return customers.known(tx, way.account_id, field, value)


def test_a_sweep_remembers_the_wanted_fields(way: "Way") -> None:
    """Every customer with the field is known afterwards, also twice the same; others are not."""
    one, two, three = way.emulator.seed(
        [{"account_id": "a", "plan": "gold"}, {"account_id": "b"}, {"account_id": "b"}]
    )
    found = customers.sweep(way.database, way.account_id, way.gateway, {"account_id"})
    assert found == 3
    assert known(way, "a") == [one]
    assert known(way, "b") == sorted([two, three])
    assert known(way, "gold", "plan") == []
    assert customers.sweep(way.database, way.account_id, way.gateway, {"account_id"}) == 3


def test_waiting_fields_and_what_is_known(way: "Way") -> None:
    """Only fields of usage that waits are of interest; a swept field is known by its rows."""
    way.use(1)
    with way.database.reading() as tx:
        assert customers.waiting_fields(tx, way.account_id) == {"account_id"}
        assert not customers.is_known(tx, way.account_id, "account_id")
    way.emulator.seed([{"account_id": "a"}])
    customers.sweep(way.database, way.account_id, way.gateway, {"account_id"})
    with way.database.reading() as tx:
        assert customers.is_known(tx, way.account_id, "account_id")


def test_a_look_up_compares_exactly(way: "Way") -> None:
    """Search finds whatever differs in case only; that is somebody else."""
    exact, _ = way.emulator.seed([{"account_id": "acct_a"}, {"account_id": "ACCT_A"}])
    assert customers.look_up(way.gateway, "account_id", "acct_a", []) == [exact]
    assert customers.look_up(way.gateway, "account_id", "Acct_a", []) == []


def test_a_look_up_reads_candidates_as_they_are_now(
    way: "Way", sdk: stripe_sdk.StripeClient
) -> None:
    """Those known before are asked too: one was changed, one deleted, one is still right."""
    changed, deleted, right = way.emulator.seed([{"account_id": "a"}] * 3)
    sdk.v1.customers.update(changed, {"metadata": {"account_id": "b"}})
    sdk.v1.customers.delete(deleted)
    before = [changed, deleted, right]
    assert customers.look_up(way.gateway, "account_id", "a", before) == [right]


def test_what_is_known_can_be_replaced(way: "Way") -> None:
    """A look-up's result takes the place of what was known of that value alone."""
    with way.database.transaction() as tx:
        customers.replace(tx, way.account_id, "account_id", "a", ["cus_1", "cus_2"])
        customers.replace(tx, way.account_id, "account_id", "b", ["cus_3"])
        customers.replace(tx, way.account_id, "account_id", "a", ["cus_4"])
    assert (known(way, "a"), known(way, "b")) == (["cus_4"], ["cus_3"])


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "no Stripe customer has metadata account_id = acct_42"),
        (["x", "y"], "2 Stripe customers have metadata account_id = acct_42: x, y"),
        (
            ["w", "x", "y", "z"],
            "4 Stripe customers have metadata account_id = acct_42: w, x, y, ...",
        ),
    ],
)
def test_an_unclear_identity_is_explained(ids: list[str], reason: str) -> None:
    """The reason names the field, the value, and those who claim it."""
    assert customers.unclear("account_id", "acct_42", ids).reason == reason
