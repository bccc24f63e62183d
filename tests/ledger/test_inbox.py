"""What needs a human is listed with its reason."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import col, select

from usageflow.db.tables import ReconciliationRow, StripeAccountRow, UsageEventRow
from usageflow.ledger import inbox
from usageflow.ledger.inbox import Gap, Item
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


def test_a_gap_is_in_the_inbox(ledger: "Ledger", line: "LineOf") -> None:
    """What was served but not recorded one by one is told as long as it is in the ledger."""
    ledger.append(line(state="gap", reason="12 requests: disk full"), line())
    (item,) = listed(ledger)
    assert (item.kind, item.state, item.subject) == ("event", "gap", "account_id acct_1, API_CALL")
    assert (item.reason, count(ledger)) == ("12 requests: disk full", 1)


def test_open_differences_are_in_the_inbox(ledger: "Ledger") -> None:
    """By whom, what and when they are; one that a person has decided on needs nobody."""
    ledger.connect()
    now = ledger.clock.now
    with ledger.database.transaction() as tx:
        for customer, state in (("cus_1", "open"), ("cus_2", "dismissed")):
            tx.session.add(
                ReconciliationRow(
                    organization_id=ledger.organization_id,
                    account_id="account-1",
                    stripe_customer_id=customer,
                    event_name="used",
                    hour=now,
                    expected=Decimal(2),
                    observed=Decimal(1),
                    classification="rejected",
                    reason="Stripe shows 1 less",
                    state=state,
                    first_seen_at=now,
                    observed_at=now,
                    checked_at=now,
                )
            )
    (item,) = listed(ledger)
    assert (item.kind, item.state) == ("difference", "rejected")
    assert (item.subject, item.reason) == ("cus_1, used, 2026-11-21 12:00", "Stripe shows 1 less")
    assert (int(item.key or 0) > 0, item.since, count(ledger)) == (True, now, 1)


def test_what_waits_for_a_withdrawn_account_is_in_the_inbox(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """It would wait for ever, and nobody know; usage from then on waits without an account."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used"))
    assert listed(ledger) == []
    with ledger.database.transaction() as tx:
        tx.session.get_one(StripeAccountRow, "account-1").state = "deauthorized"
    ledger.append(line(event_name="used"))
    (item,) = listed(ledger)
    assert (item.kind, item.state, item.reason) == ("unit", "open", inbox.WITHDRAWN)
    assert count(ledger) == 1


def test_gaps_are_added_up_exactly(ledger: "Ledger", line: "LineOf") -> None:
    """Per identity, metric and reason; what nobody knows or measured stays unknown."""
    exact = Decimal("1234567890123456789012345.1")
    ledger.append(
        line(state="gap", quantity=exact, reason="disk full"),
        line(state="gap", customer=None, quantity=None),
        line(state="gap", quantity=exact, reason="disk full"),
        line(state="gap", quantity=3, reason="disk full", metric="TOKEN"),
        line(state="inbox", reason="disk full"),
        line(),
    )
    with ledger.database.reading() as tx:
        found = inbox.gaps(tx, ledger.organization_id)
        assert inbox.gaps(tx, "another") == []
    assert found == [
        Gap("account_id", "acct_1", "API_CALL", "disk full", 2, exact + exact),
        Gap("account_id", None, "API_CALL", "no reason given", 1, None),
        Gap("account_id", "acct_1", "TOKEN", "disk full", 1, Decimal(3)),
    ]


def test_the_inbox_is_found_through_its_index(ledger: "Ledger") -> None:
    """However many events are counted, the few for a human are found at once."""
    if ledger.database.dialect != "sqlite":
        pytest.skip("PostgreSQL chooses by statistics, which a small table does not have")
    statement = select(UsageEventRow).where(
        col(UsageEventRow.organization_id) == "x", inbox._FOR_HUMAN
    )
    with ledger.database.reading() as tx:
        compiled = statement.compile(
            tx.session.get_bind(), compile_kwargs={"render_postcompile": True}
        )
        plan = tx.session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", ("x",))
        assert "USING INDEX ix_usage_event_inbox" in plan.one().detail


def page(ledger: "Ledger", **options: Any) -> tuple[list[str], int]:
    """What the items of a page are of, and how many there are in all."""
    with ledger.database.reading() as tx:
        wanted = {"offset": 0, "limit": 10, **options}
        found, total = inbox.listing(tx, ledger.organization_id, **wanted)
    return [item.reason for item in found], total


def test_pages_have_the_latest_of_all_kinds_first(ledger: "Ledger", line: "LineOf") -> None:
    """Each thing is on one page; by kind and by state there are only those."""
    ledger.connect(each="count")
    for reason in ("first", "second"):
        ledger.append(line(state="inbox", reason=reason), line(event_name="each", customer=reason))
        for claim in ledger.claim():
            ledger.clock.advance(5)
            ledger.settle(claim, Quarantined("meter", reason))
        ledger.clock.advance(5)
    ledger.append(line(state="gap", reason="third"))
    everything = ["third", "meter: second", "second", "meter: first", "first"]
    assert page(ledger) == (everything, 5)
    pages = [page(ledger, offset=offset, limit=2)[0] for offset in (0, 2, 4, 6)]
    assert pages == [everything[:2], everything[2:4], everything[4:], []]
    assert page(ledger, kind="unit") == (["meter: second", "meter: first"], 2)
    assert page(ledger, kind="unit", state="parked") == ([], 0)
    assert page(ledger, state="gap") == (["third"], 1)
    assert page(ledger, kind="rejection") == ([], 0)
