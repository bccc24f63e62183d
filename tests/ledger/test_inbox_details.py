"""What the items of the inbox are of, as a person and as JSON have it."""

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from usageflow.db.tables import ReconciliationRow
from usageflow.ledger import inbox, inbox_details
from usageflow.ledger.inbox_details import AllDetails, Details, details, document
from usageflow.ledger.verdicts import Quarantined

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def looked(ledger: "Ledger", *, organization_id: str | None = None) -> AllDetails:
    """The details of all that is in the inbox."""
    with ledger.database.reading() as tx:
        shown = inbox.items(tx, ledger.organization_id, 10)
        return details(tx, organization_id or ledger.organization_id, shown)


def test_each_kind_has_what_it_is_of(ledger: "Ledger", line: "LineOf") -> None:
    """An event its request, a unit its meter, a difference the customer at Stripe and what lacks
    there; a line that was refused has nothing.
    """
    ledger.connect(each="count")
    ledger.append(line(event_name="each"), line(state="inbox", customer=None), b"{}")
    (claim,) = ledger.claim()
    ledger.settle(claim, Quarantined("meter", "inactive"))
    now = ledger.clock.now
    with ledger.database.transaction() as tx:
        tx.session.add(
            ReconciliationRow(
                organization_id=ledger.organization_id,
                account_id="account-1",
                stripe_customer_id="cus_1",
                event_name="used",
                hour=now,
                expected=Decimal(2),
                observed=Decimal(5),
                classification="foreign",
                reason="Stripe shows 3 more",
                state="open",
                first_seen_at=now,
                observed_at=now,
                checked_at=now,
            )
        )
    found = {kind: of for (kind, _), of in looked(ledger).items()}
    assert set(found) == {"event", "unit", "difference"}
    assert (found["event"].metric, found["event"].value) == ("API_CALL", None)
    assert found["event"].where.startswith(f"{found['event'].policy}: ")
    assert (found["unit"].event_name, found["unit"].value) == ("each", "acct_1")
    assert (found["difference"].quantity, found["difference"].where) == (Decimal(-3), "cus_1")
    assert looked(ledger, organization_id="other") == {}


def test_any_number_of_items_has_details(
    ledger: "Ledger", line: "LineOf", monkeypatch: pytest.MonkeyPatch
) -> None:
    """In as many statements as it takes."""
    monkeypatch.setattr(inbox_details, "KEYS_MAX", 2)
    ledger.append(*(line(state="inbox") for _ in range(5)))
    assert len(looked(ledger)) == 5


def test_what_is_not_known_is_null(ledger: "Ledger", line: "LineOf") -> None:
    """A document has every key; a refused line has the line, and nobody's identity."""
    ledger.append(b"{}", line(state="inbox"))
    with ledger.database.reading() as tx:
        event, refused = inbox.items(tx, ledger.organization_id, 10)
    of = Details("account_id", "acct_1", None)
    assert document(event, of)["identity"] == {"field": "account_id", "value": "acct_1"}
    assert document(event, of)["line"] is None
    told = document(refused, None)
    assert told.keys() == document(event, of).keys()
    assert {name for name, value in told.items() if value is not None} == {
        *("kind", "state", "since", "reason", "line"),
    }
