"""Customers: described by people, recognised by their identities, never deleted."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from usageflow.catalog import audit, customers, identities
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Terms
from usageflow.catalog.customers import Address
from usageflow.catalog.identities import Identity
from usageflow.catalog.organizations import create as create_organization
from usageflow.catalog.plans import create as create_plan
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PlanRow, SubscriptionRow
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow
from usageflow.ledger.customers import resolve

ANN = Actor("ann@example.com", "req_1")
ACCT = Identity("account_id", "acct_42")


def made(tx: Tx, organization_id: str, external_id: str = "acme", **more: Any) -> CustomerRow:
    """A customer that a person made."""
    row = customers.create(
        tx, organization_id, name="Acme Corp", external_id=external_id, actor=ANN, **more
    )
    assert isinstance(row, CustomerRow), row
    return row


def test_a_customer_is_what_people_tell_of_it(tx: Tx, organization_id: str) -> None:
    """All of it is kept; found by id and external id, in its organization alone."""
    row = made(
        tx,
        organization_id,
        email="billing@acme.com",
        phone="+49 30 1",
        address={"line1": "Allee 1", "country": "DE"},
        tax_percent=Decimal("19.00"),
        stripe_customer_id="cus_1",
        metadata={"tier": "gold"},
    )
    assert customers.told(row) == {
        "external_id": "acme",
        "name": "Acme Corp",
        "email": "billing@acme.com",
        "phone": "+49 30 1",
        "tax_percent": Decimal(19),
        "stripe_customer_id": "cus_1",
        "address": Address(line1="Allee 1", country="DE"),
        "metadata": {"tier": "gold"},
    }
    assert customers.find(tx, organization_id, "acme") is row
    assert customers.find(tx, organization_id, row.id) is row
    other = create_organization(tx, "other", actor="test")
    assert customers.find(tx, other, row.id) is None
    (entry,), _ = audit.listing(tx, organization_id, action="customer.", offset=0, limit=9)
    assert (entry.action, entry.subject, entry.before) == ("customer.create", row.id, None)
    assert '"country":"DE"' in (entry.after or "")


def test_a_customer_without_an_external_id_has_its_id(tx: Tx, organization_id: str) -> None:
    """Two of one name are two."""
    first, second = (
        customers.create(tx, organization_id, name="Acme", actor=ANN) for _ in range(2)
    )
    assert isinstance(first, CustomerRow)
    assert isinstance(second, CustomerRow)
    assert first.external_id == first.id != second.id == second.external_id


def test_an_external_id_is_one_customers(tx: Tx, organization_id: str) -> None:
    """Also when that one is archived, which the message says."""
    row = made(tx, organization_id)
    again = customers.create(tx, organization_id, name="B", external_id="acme", actor=ANN)
    assert again == Refused("conflict", "there is a customer acme already", "external_id")
    customers.archive(tx, organization_id, row.id, actor=ANN)
    again = customers.create(tx, organization_id, name="B", external_id="acme", actor=ANN)
    assert isinstance(again, Refused)
    assert again.message.endswith("it is archived, and can be restored")


def test_a_customer_that_usage_made_is_completed(tx: Tx, organization_id: str) -> None:
    """Its usage is the customer's from the beginning; the second time it is a conflict."""
    (customer_id,) = resolve(tx, organization_id, [ACCT]).values()
    row = made(tx, organization_id, "acct_42", recognised_by=[ACCT])
    assert (row.id, row.name) == (customer_id, "Acme Corp")
    (entry,), _ = audit.listing(tx, organization_id, action="customer.", offset=0, limit=9)
    assert '"name":null' in (entry.before or "")
    again = customers.create(tx, organization_id, name="B", external_id="acct_42", actor=ANN)
    assert isinstance(again, Refused)


def test_a_customer_comes_with_its_identities(tx: Tx, organization_id: str) -> None:
    """Usage finds it by them; with an identity of another, nothing at all is made."""
    row = made(tx, organization_id, recognised_by=[ACCT, Identity("email", "a@b"), ACCT])
    assert resolve(tx, organization_id, [ACCT]) == {ACCT: row.id}
    rows, total = identities.listing(tx, organization_id, row.id, offset=0, limit=1)
    assert ([(one.field, one.value) for one in rows], total) == ([tuple(ACCT)], 2)
    refused = customers.create(
        tx, organization_id, name="B", external_id="b", recognised_by=[ACCT], actor=ANN
    )
    taken = f"account_id acct_42 is the customer {row.id}"
    assert refused == Refused("conflict", taken, "identities")
    assert customers.find(tx, organization_id, "b") is None


def test_what_is_given_changes(tx: Tx, organization_id: str) -> None:
    """Parts of the address as well; a change that changes nothing is not audited."""
    row = made(tx, organization_id, email="a@b", address={"line1": "Allee 1", "city": "Ulm"})
    for _ in range(2):
        changed = customers.change(
            tx, organization_id, "acme", email=None, address={"city": "Bonn"}, actor=ANN
        )
        assert changed is row
    assert (row.name, row.email) == ("Acme Corp", None)
    assert customers.address_of(row) == Address(line1="Allee 1", city="Bonn")
    assert audit.listing(tx, organization_id, action="customer.change", offset=0, limit=9)[1] == 1
    missing = customers.change(tx, organization_id, "x", name="X", actor=ANN)
    assert missing == Refused("not_found", "there is no customer x")


def test_anew_means_that_the_rest_is_forgotten(tx: Tx, organization_id: str) -> None:
    """What is not told again is as if it had never been."""
    row = made(
        tx, organization_id, phone="1", address={"city": "Ulm", "line1": "1"}, metadata={"a": "b"}
    )
    told = customers.anew({"name": "Acme", "address": {"city": "Bonn"}})
    customers.change(tx, organization_id, "acme", actor=ANN, **told)
    assert (row.name, row.phone, customers.metadata_of(row)) == ("Acme", None, {})
    assert customers.address_of(row) == Address(city="Bonn")


def test_customers_are_listed_by_external_id(tx: Tx, organization_id: str) -> None:
    """The current or the archived ones; by a part of what they are called, or by all of it."""
    made(tx, organization_id, "b", email="ann@b.com")
    made(tx, organization_id, "a", email="joe@a.com")
    made(tx, organization_id, "c")
    customers.archive(tx, organization_id, "c", actor=ANN)

    def listed(**filters: Any) -> list[str]:
        found, total = customers.listing(tx, organization_id, offset=0, limit=9, **filters)
        assert len(found) == total
        return [row.external_id for row in found]

    assert listed() == listed(search="ACME") == ["a", "b"]
    assert listed(archived=True) == ["c"]
    assert listed(search="joe@") == listed(external_id="a") == listed(email="joe@a.com") == ["a"]
    assert listed(email="joe@") == []


def test_a_customer_that_subscribes_is_not_archived(tx: Tx, organization_id: str) -> None:
    """Once it does not, it is, and all it has stays; it can come back."""
    row = made(tx, organization_id, recognised_by=[ACCT])
    terms = Terms(type="HYBRID", currency="USD", interval="month")
    plan = create_plan(tx, organization_id, name="P", lookup_id="p", terms=terms, actor=ANN)
    assert isinstance(plan, PlanRow)
    subscription = SubscriptionRow(
        id="sub_1",
        organization_id=organization_id,
        customer_id=row.id,
        plan_id=plan.id,
        plan_version=1,
        state="PAUSED",
        time_zone="UTC",
        anchor_at=tx.now,
        period_index=0,
        period_start=tx.now,
        period_end=tx.now + timedelta(days=30),
        created_at=tx.now,
        updated_at=tx.now,
    )
    tx.session.add(subscription)
    refused = customers.archive(tx, organization_id, "acme", actor=ANN)
    assert refused is not None
    assert "sub_1 is not cancelled" in refused.message
    assert row.archived_at is None
    subscription.state = "CANCELLED"
    for _ in range(2):
        assert customers.archive(tx, organization_id, "acme", actor=ANN) is None
    assert row.archived_at == tx.now
    assert resolve(tx, organization_id, [ACCT]) == {ACCT: row.id}
    for _ in range(2):
        assert customers.restore(tx, organization_id, "acme", actor=ANN) is row
    assert row.archived_at is None
    entries, _ = audit.listing(tx, organization_id, action="customer.", offset=0, limit=2)
    assert [entry.action for entry in entries] == ["customer.restore", "customer.archive"]
    gone = Refused("not_found", "there is no customer x")
    assert customers.archive(tx, organization_id, "x", actor=ANN) == gone
    assert customers.restore(tx, organization_id, "x", actor=ANN) == gone


def test_an_identity_moves_only_when_told_to(tx: Tx, organization_id: str) -> None:
    """Usage to come is the other customer's then; the audit log knows whose it was."""
    first, second = (made(tx, organization_id, key) for key in ("first", "second"))
    for _ in range(2):
        assert customers.add_identity(tx, organization_id, "first", ACCT, actor=ANN) is first
    refused = customers.add_identity(tx, organization_id, "second", ACCT, actor=ANN)
    assert isinstance(refused, Refused)
    assert (refused.code, resolve(tx, organization_id, [ACCT])) == ("conflict", {ACCT: first.id})
    moved = customers.add_identity(tx, organization_id, "second", ACCT, move=True, actor=ANN)
    assert moved is second
    assert identities.owner(tx, organization_id, ACCT) == second.id
    entries, total = audit.listing(
        tx, organization_id, action="customer.add_identity", offset=0, limit=9
    )
    assert (total, entries[1].before) == (2, None)
    assert f'"customer_id":"{first.id}"' in (entries[0].before or "")
    missing = customers.add_identity(tx, organization_id, "x", ACCT, actor=ANN)
    assert missing == customers.unknown("x")


def test_an_identity_is_taken_away(tx: Tx, organization_id: str) -> None:
    """From the customer who has it, once."""
    made(tx, organization_id, "first", recognised_by=[ACCT])
    made(tx, organization_id, "second")
    missing = customers.remove_identity(tx, organization_id, "second", ACCT, actor=ANN)
    assert missing is not None
    assert missing.message == "the customer second has no identity account_id acct_42"
    assert customers.remove_identity(tx, organization_id, "first", ACCT, actor=ANN) is None
    assert identities.owner(tx, organization_id, ACCT) is None
    for customer in ("first", "x"):
        missing = customers.remove_identity(tx, organization_id, customer, ACCT, actor=ANN)
        assert missing is not None
        assert missing.code == "not_found"


def test_the_default_customer_is_made_once(tx: Tx, organization_id: str) -> None:
    """On first need; a person may describe it."""
    made_first = customers.default_customer(tx, organization_id)
    assert (made_first.external_id, made_first.name) == ("default", None)
    assert customers.default_customer(tx, organization_id) is made_first
    assert made(tx, organization_id, "default") is made_first


def test_an_unknown_customer_of_a_body_is_a_mistake_of_it() -> None:
    """One of the path is not found."""
    assert customers.unknown("x", "customer_id").code == "invalid"
