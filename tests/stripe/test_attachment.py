"""A person says whose usage is."""

import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import stripe as stripe_sdk
from sqlmodel import select

from usageflow.catalog.audit import CLI
from usageflow.db.tables import AuditRow
from usageflow.errors import ConfigurationError
from usageflow.stripe import directory
from usageflow.stripe.attachment import attach, detach
from usageflow.stripe.catch_up import poll
from usageflow.stripe.client import StripeGateway

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

IDENTITY = ("account_id", "acct_1")


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What UsageFlow told; other programs' words depend on what ran before."""
    return [record for record in caplog.records if record.name.startswith("usageflow")]


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes here and at the emulator alike, whatever the real clock says."""
    monkeypatch.setattr(StripeGateway, "clock_skew_s", 0.0)


def test_parked_usage_goes_to_whom_a_person_says(way: "Way") -> None:
    """At once, and above what Stripe's metadata say; the audit log knows who it was before."""
    one, other, chosen = way.emulator.seed([{"account_id": "acct_1"}] * 2 + [{}], ["tokens"])
    way.use(5)
    forwarder = way.forwarder()
    way.forward(forwarder)
    assert way.states() == [("parked", "5")]
    released = attach(way.database, way.account_id, way.gateway, IDENTITY, chosen, actor="ada")
    assert released == 1
    way.forward(forwarder)
    assert way.emulator.applied("none") == {(chosen, "tokens"): 5}
    with way.database.reading() as tx:
        row = tx.session.exec(select(AuditRow)).one()
        assert (row.actor, row.action, row.subject) == ("ada", "inbox.attach", "account_id acct_1")
        assert json.loads(row.before or "") == {"stripe_customers": sorted([one, other])}
        assert json.loads(row.after or "") == {"stripe_customers": [chosen]}


def test_nobody_is_attached_that_stripe_does_not_know(way: "Way") -> None:
    """A slip of the pen would send usage nowhere."""
    with pytest.raises(ConfigurationError, match="there is no customer cus_x in this account"):
        attach(way.database, way.account_id, way.gateway, IDENTITY, "cus_x", actor="ada")
    with way.database.reading() as tx:
        assert tx.session.exec(select(AuditRow)).all() == []


@pytest.mark.parametrize(
    ("field", "value", "customer", "said"),
    [
        ("", "acct_1", "cus_1", "an identity needs a field and a value"),
        ("account_id", " ", "cus_1", "an identity needs a field and a value"),
        ("account_id", "acct_1", "", "'' is no id of a Stripe customer"),
        ("account_id", "acct_1", "sub_1", "'sub_1' is no id of a Stripe customer"),
        ("account_id", "acct_1", "cus_1/../x", "is no id of a Stripe customer"),
        ("account_id", "acct_1", "cus_1\n", "is no id of a Stripe customer"),
    ],
    ids=["field", "value", "nobody", "subscription", "path", "line"],
)
def test_what_cannot_be_meant_is_refused(
    way: "Way", field: str, value: str, customer: str, said: str
) -> None:
    """Without asking Stripe."""
    with pytest.raises(ConfigurationError, match=said):
        attach(way.database, way.account_id, way.gateway, (field, value), customer, actor="ada")
    assert way.gateway.reads == 0


def test_a_field_that_no_usage_has_is_told(way: "Way", caplog: pytest.LogCaptureFixture) -> None:
    """It is done all the same: the usage may come later."""
    (customer,) = way.emulator.seed([{}])
    way.use(1)
    for field in ("account_id", "acount_id"):
        identity = (field, "acct_1")
        attach(way.database, way.account_id, way.gateway, identity, customer, actor="ada")
        with way.database.reading() as tx:
            assert identity in directory.known(tx, way.account_id, [identity])
    assert [record.getMessage() for record in ours(caplog)] == [
        "no usage is known by the field 'acount_id' so far; fields of usage: 'account_id'"
    ]


def test_a_word_can_be_taken_back(way: "Way") -> None:
    """Then usage goes to whom Stripe's metadata say; what was sent stays where it is."""
    owner, chosen = way.emulator.seed([{"account_id": "acct_1"}, {}], ["tokens"])
    attach(way.database, way.account_id, way.gateway, IDENTITY, chosen, actor="ada")
    forwarder = way.forwarder()
    way.use(5)
    way.forward(forwarder)
    with way.database.transaction() as tx:
        assert detach(tx, way.account_id, IDENTITY)
        assert not detach(tx, way.account_id, IDENTITY)
    way.use(7)
    way.forward(forwarder)
    assert way.emulator.applied("none") == {(chosen, "tokens"): 5, (owner, "tokens"): 7}
    with way.database.reading() as tx:
        *_, row = tx.session.exec(select(AuditRow)).all()
        assert (row.actor, row.action, row.subject) == (CLI, "inbox.detach", "account_id acct_1")
        assert json.loads(row.before or "") == {"stripe_customers": [chosen]}


def test_usage_of_a_deleted_customer_waits_for_a_person(
    way: "Way", sdk: stripe_sdk.StripeClient
) -> None:
    """What it used while it had the value is not the next one's by itself."""
    former, later = way.emulator.seed([{"account_id": "acct_1"}, {}], ["tokens"])
    way.use(1, customer="other")
    poll(way.database, way.account_id, way.gateway)
    used_at = way.clock.now
    way.pass_time(86_400)
    sdk.v1.customers.update(former, {"metadata": {"account_id": ""}})
    way.pass_time(60)
    sdk.v1.customers.update(later, {"metadata": {"account_id": "acct_1"}})
    way.pass_time(60)
    sdk.v1.customers.delete(former)
    poll(way.database, way.account_id, way.gateway)
    way.use(5, occurred_at=used_at + timedelta(hours=1))
    way.use(7)
    forwarder = way.forwarder()
    way.forward(forwarder)
    (reason,) = (unit.reason for unit in way.units() if unit.quantity == 5)
    assert reason == (
        "the Stripe customer that had metadata account_id = acct_1 then is deleted: "
        f"{former}; `usageflow inbox attach` says whose it is"
    )
    attach(way.database, way.account_id, way.gateway, IDENTITY, later, actor="ada")
    way.pass_time(60)
    way.forward(forwarder)
    assert way.emulator.applied("none") == {(later, "tokens"): 12}
