"""What needs a human is listed with its reason."""

from typing import TYPE_CHECKING

from usageflow.ledger import inbox
from usageflow.ledger.inbox import Item
from usageflow.ledger.verdicts import Accepted, Held, Parked, Quarantined

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def listed(ledger: "Ledger", limit: int = 10) -> list[Item]:
    """The inbox."""
    with ledger.database.reading() as tx:
        return inbox.items(tx, ledger.organization_id, limit)


def count(ledger: "Ledger") -> int:
    """How much is in it."""
    with ledger.database.reading() as tx:
        return inbox.count(tx, ledger.organization_id)


def test_a_quiet_ledger_has_an_empty_inbox(ledger: "Ledger", line: "LineOf") -> None:
    """Usage that is counted, shadow or skipped needs nobody."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used"), line(state="shadow"), line(state="skipped"))
    for claim in ledger.claim():
        ledger.settle(claim, Accepted())
    assert (listed(ledger), count(ledger)) == ([], 0)


def test_events_units_and_lines_say_what_is_wrong(ledger: "Ledger", line: "LineOf") -> None:
    """Each with whose it is, why it is here and since when; the latest of each kind first."""
    ledger.connect(each="count")
    ledger.append(
        line(state="inbox", quantity=None, reason="response.body.usage is missing"),
        line(state="inbox", customer=None),
        b"{}",
        *(line(event_name="each", customer=name) for name in "abcd"),
    )
    parked, quarantined, held, accepted = sorted(
        ledger.claim(bind=False), key=lambda claim: claim.identity_value
    )
    ledger.clock.advance(5)
    ledger.settle(parked, Parked("no Stripe customer"))
    ledger.settle(quarantined, Quarantined("meter", "inactive"))
    ledger.settle(held, Held("16 digits"))
    ledger.settle(accepted, Accepted())
    found = listed(ledger)
    assert [(item.kind, item.state, item.subject, item.reason) for item in found] == [
        ("event", "inbox", "account_id unknown, API_CALL", "no reason given"),
        ("event", "inbox", "account_id acct_1, API_CALL", "response.body.usage is missing"),
        ("unit", "held", "account_id c, each", "16 digits"),
        ("unit", "quarantined", "account_id b, each", "meter: inactive"),
        ("unit", "parked", "account_id a, each", "no Stripe customer"),
        ("rejection", "rejected", "{}", found[-1].reason),
    ]
    assert "missing required field" in found[-1].reason
    assert [item.key for item in found[:3]] == ["event-000002", "event-000001", held.identifier]
    assert [item.since for item in found[1:3]] == [held.first_attempt_at, ledger.clock.now]
    assert count(ledger) == 6
    assert [item.kind for item in listed(ledger, limit=1)] == ["event", "unit", "rejection"]
