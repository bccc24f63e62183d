"""Identities become customers, once."""

from typing import TYPE_CHECKING

from usageflow.db.tables import CustomerRow
from usageflow.ledger import customers

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger


def resolve(ledger: "Ledger", *identities: tuple[str, str]) -> list[str]:
    """The customers of these identities, in their order."""
    with ledger.database.transaction() as tx:
        found = customers.resolve(tx, ledger.organization_id, identities)
    assert found.keys() == set(identities)
    return [found[identity] for identity in identities]


def names(ledger: "Ledger") -> dict[str, str]:
    """`external_id` by customer id."""
    return {row.id: row.external_id for row in ledger.rows(CustomerRow)}


def test_an_identity_always_means_the_same_customer(ledger: "Ledger") -> None:
    """In one batch, in the next one, and beside new ones."""
    first, second = resolve(ledger, ("account_id", "a"), ("account_id", "b"))
    assert resolve(ledger, ("account_id", "b"), ("account_id", "c"))[0] == second
    assert resolve(ledger, ("account_id", "a")) == [first]
    assert sorted(names(ledger).values()) == ["a", "b", "c"]


def test_one_value_in_two_fields_is_two_customers(ledger: "Ledger") -> None:
    """The second is called by field and value; the same in one batch as in two."""
    account, user = resolve(ledger, ("account_id", "7"), ("user_id", "7"))
    (team,) = resolve(ledger, ("team_id", "7"))
    assert names(ledger) == {account: "7", user: "user_id:7", team: "team_id:7"}


def test_the_last_resort_is_the_id(ledger: "Ledger") -> None:
    """Even a value that looks like another's longer name finds a name of its own."""
    resolve(ledger, ("account_id", "7"), ("account_id", "user_id:7"))
    (odd,) = resolve(ledger, ("user_id", "7"))
    assert names(ledger)[odd] == odd


def test_nobody_becomes_the_organizations_own_customer_by_a_request(ledger: "Ledger") -> None:
    """What a header says is a caller's; only the API's own name of a customer means that one."""
    caller, own = resolve(ledger, ("account_id", "default"), ("external_id", "default"))
    assert names(ledger) == {caller: "account_id:default", own: "default"}


def test_no_identity_is_no_statement(ledger: "Ledger") -> None:
    """A batch without counted events makes no customer."""
    assert resolve(ledger) == []
