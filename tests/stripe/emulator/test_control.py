"""The control endpoints and the page of the emulator."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator import control
from usageflow.stripe.emulator.remote import RemoteEmulator


def use(sdk: stripe_sdk.StripeClient, customer: str, value: str) -> None:
    """Send one meter event."""
    payload = {"stripe_customer_id": customer, "value": value}
    params: Any = {"event_name": "tokens", "payload": payload}
    sdk.v1.billing.meter_events.create(params)


def test_state_sums_up_every_account(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """Customers, meters, exact totals and calls by outcome are there; no key is."""
    ada, _ = emulator.seed([{"account_id": "acct_1"}, {"account_id": "acct_2"}], ["tokens"])
    for value in ("0.1", "0.2"):
        use(sdk, ada, value)
    account = emulator.state()["accounts"][0]
    assert account["customers"] == 2
    assert [(m["event_name"], m["formula"]) for m in account["meters"]] == [("tokens", "sum")]
    assert [
        {
            "customer": ada,
            "metadata": {"account_id": "acct_1"},
            "event_name": "tokens",
            "value": "0.3",
            "events": 2,
        }
    ] == account["applied"]
    assert account["calls"] == {"POST /v1/billing/meter_events": {"200": 2}}
    assert emulator.api_key not in str(emulator.state())
    assert {("acct_1", "tokens"): Decimal("0.3")} == emulator.applied("account_id")


def test_the_journal_is_paged(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of rows can be read, each once, in order."""
    monkeypatch.setattr(control, "JOURNAL_ROWS_MAX", 2)
    ada = emulator.seed([{}], ["tokens"])[0]
    for value in range(5):
        use(sdk, ada, str(value))
    for every in (False, True):
        rows = list(emulator.journal(every=every))
        assert [row["value"] for row in rows] == ["0", "1", "2", "3", "4"]
        assert [row["sequence"] for row in rows] == [1, 2, 3, 4, 5]


def test_the_clock_can_be_set_and_moved(emulator: RemoteEmulator) -> None:
    """`now` jumps to a moment, `advance_s` moves on from there."""
    body = {"now": "2030-01-01T00:00:00Z", "advance_s": 60}
    answer = httpx.post(f"{emulator.url}/_emulator/clock", json=body).json()
    shown = datetime.fromisoformat(answer["now"])
    assert 60 <= (shown - datetime(2030, 1, 1, tzinfo=UTC)).total_seconds() < 70
    emulator.reset()
    now = datetime.fromisoformat(emulator.state()["now"])
    assert abs(now.timestamp() - time.time()) < 10


def test_thousands_of_customers_are_seeded_at_once(emulator: RemoteEmulator) -> None:
    """Seeding is one request, whatever the number."""
    ids = emulator.seed([{"account_id": f"acct_{n}"} for n in range(3000)])
    assert len(set(ids)) == 3000
    assert emulator.state()["accounts"][0]["customers"] == 3000


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("clock", {"ahead": 1}, "ahead"),
        ("clock", {"now": "2030-01-01T00:00:00"}, "time zone"),
        ("faults", [{"route": "/v1", "kind": "earthquake"}], "earthquake"),
        ("faults", {"rules": [{"route": "/v1", "kind": "reset", "rate": 2}]}, "rate"),
        ("faults", {"seed": 1}, "rules"),
        ("limits", {"global_per_s": 0}, "global_per_s"),
        ("settings", {"search_lag_s": -1}, "search_lag_s"),
        ("settings", {"lag": 1}, "lag"),
        ("reject", {"name": "tokens"}, "name"),
        ("seed", {"meters": [{"event_name": "a"}, {"event_name": "a"}]}, "already a meter"),
        ("seed", {"customers": [{"metadata": {"k": "v" * 501}}]}, "500 characters"),
    ],
)
def test_a_wrong_control_request_is_explained(
    emulator: RemoteEmulator, path: str, body: Any, message: str
) -> None:
    """Mistakes in a test's own requests are 400s with the reason."""
    headers = {"authorization": f"Bearer {emulator.api_key}"}
    answer = httpx.post(f"{emulator.url}/_emulator/{path}", json=body, headers=headers)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "seed"), ("POST", "reject"), ("GET", "attempts")]
)
def test_what_concerns_an_account_needs_a_key(
    emulator: RemoteEmulator, method: str, path: str
) -> None:
    """The key says which account is meant."""
    answer = httpx.request(method, f"{emulator.url}/_emulator/{path}", json={})
    assert answer.status_code == 401


def test_what_was_set_is_shown_and_a_reset_forgets_it(emulator: RemoteEmulator) -> None:
    """What is not named stays; a reset returns to what the emulator was started with."""
    before = emulator.state()
    assert before["limits"]["enforce"] is False
    emulator.set(summary_lag_s=60)
    emulator.set(rejection_samples=1)
    emulator.limit(search_per_s=5)
    after = emulator.state()
    assert after["settings"] == {
        **before["settings"],
        "summary_lag_s": 60,
        "rejection_samples": 1,
    }
    assert after["limits"] == {**before["limits"], "enforce": True, "search_per_s": 5}
    emulator.reset()
    again = emulator.state()
    assert (again["settings"], again["limits"]) == (before["settings"], before["limits"])


def test_lags_change_while_the_emulator_runs(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """Accounts that are there already follow."""
    emulator.seed([{"account_id": "acct_1"}])
    query: Any = {"query": 'metadata["account_id"]:"acct_1"'}
    assert len(sdk.v1.customers.search(query).data) == 1
    emulator.set(search_lag_s=60)
    assert sdk.v1.customers.search(query).data == []


def test_a_journal_place_must_be_a_number(emulator: RemoteEmulator) -> None:
    """A wrong `after` is a 400."""
    answer = httpx.get(f"{emulator.url}/_emulator/journal", params={"after": "x"})
    assert answer.status_code == 400
