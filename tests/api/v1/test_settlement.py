"""Settlement over HTTP: the statement adds up, and differences are applied or accepted."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlmodel import col, select

from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow, UnitRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import statement, store, units
from usageflow.ledger.attempts import Limits
from usageflow.periods import hour_start
from usageflow.stripe.accounts import ensure_own
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.meter_events import MeterEvent
from usageflow.stripe.meters import Meters
from usageflow.stripe.reconciliation import reconcile

SignIn = Callable[..., httpx.Client]
KEY = "sk_test_settlement"
PATH = "/api/v1/stripe/reconciliations"
HOUR = hour_start(datetime.now(UTC)) - timedelta(hours=4)
"""Long enough ago that both sides can be compared."""
EXACT = "12000.000000001"


class Books:
    """A ledger with tokens of one customer of four hours ago, and an emulator with as many.

    They were sent three hours ago, by a clock of their own.
    """

    def __init__(self, url: str, organization_id: str, emulator: RemoteEmulator) -> None:
        self.database = Database.open(url, clock=lambda: datetime.now(UTC) - timedelta(hours=3))
        self.gateway = StripeGateway(KEY, base=emulator.url, timeout_s=5)
        (self.customer,) = emulator.seed([{"account_id": "acct_1"}], ["tokens"])
        self.organization_id = organization_id
        with self.database.transaction() as tx:
            self.account_id = ensure_own(tx, organization_id, livemode=False)
        Meters(self.database, self.account_id, self.gateway).refresh()
        line = encode(
            UsageEvent(
                id="event-1",
                policy="chat",
                policy_version="1",
                metric="TOKENS",
                identity=Identity("account_id", "acct_1"),
                quantity=Decimal(EXACT),
                occurred_at=HOUR,
                state="counted",
                event_name="tokens",
            )
        )
        with self.database.transaction() as tx:
            store.append(tx, organization_id, [line], unknown_metric="create")
            statement.store(tx, organization_id, HOUR, statement.statement(tx, organization_id))
        self.send()

    def send(self) -> None:
        """Send what waits."""
        with self.database.transaction() as tx:
            limits = Limits(resend_s_max=72_000)
            for claim in units.claim(
                tx, self.account_id, owner="test", limit=9, lease_s=60, limits=limits
            ):
                units.bind_customer(tx, claim, self.customer)
                verdict = self.write(claim.identifier, claim.quantity)
                assert units.settle(tx, claim, verdict)

    def write(self, identifier: str, value: Decimal | int) -> Any:
        """One meter event at Stripe."""
        payload = {"stripe_customer_id": self.customer, "value": str(value)}
        return self.gateway.send_meter_event(
            MeterEvent("tokens", identifier, int(HOUR.timestamp()), payload)
        )

    def compare(self, database: Database) -> None:
        """Compare both sides now."""
        reconcile(database, self.account_id, self.gateway, reads_per_day=100, everything=True)

    def close(self) -> None:
        """End what was opened."""
        self.gateway.close()
        self.database.close()


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    """An emulator on a free port."""
    with running(create_emulator(search_lag_s=0)) as url:
        yield url


@pytest.fixture
def emulator(emulator_url: str) -> RemoteEmulator:
    """The emulator, empty."""
    remote = RemoteEmulator(emulator_url, KEY)
    remote.reset()
    return remote


@pytest.fixture
def settings(emulator: RemoteEmulator) -> Settings:
    """Usage goes to the emulator."""
    return Settings(stripe_api_key=KEY, stripe_api_base=emulator.url)


@pytest.fixture
def books(database_url: str, organization_id: str, emulator: RemoteEmulator) -> Iterator[Books]:
    """Books that agree."""
    made = Books(database_url, organization_id, emulator)
    yield made
    made.close()


@pytest.fixture
def admin(sign_in: SignIn) -> httpx.Client:
    """Who may decide."""
    return sign_in("ADMIN")


@pytest.fixture
def foreign(books: Books, database: Database, admin: httpx.Client) -> dict[str, Any]:
    """A difference: somebody else wrote 100 to the meter."""
    books.write("by hand", 100)
    books.compare(database)
    (found,) = admin.get(PATH).json()["data"]
    return dict(found)


def noted(database: Database) -> list[tuple[str, str]]:
    """(action, actor's role) of what people decided."""
    with database.reading() as tx:
        rows = tx.session.exec(
            select(AuditRow).where(
                col(AuditRow.action).startswith("reconciliation."),
                col(AuditRow.request_id).is_not(None),
            )
        ).all()
        return [(row.action, row.actor.partition("_")[0]) for row in rows]


def test_the_statement_adds_up(admin: httpx.Client, books: Books) -> None:
    """Now, and as it was stored for an hour, with every digit."""
    response = admin.get("/api/v1/stripe/statement")
    assert f'"metered":{EXACT},"settled":0,"in_flight":{EXACT}' in response.text
    assert (response.json()["adds_up"], response.json()["unknown"]) == (True, 0)
    at = HOUR + timedelta(minutes=7)
    stored = admin.get("/api/v1/stripe/statement", params={"at": at.isoformat()})
    assert stored.json()["lines"] == response.json()["lines"]
    assert datetime.fromisoformat(stored.json()["at"]) == HOUR
    none = admin.get("/api/v1/stripe/statement", params={"at": "2025-01-01T00:00:00Z"})
    assert none.status_code == 404
    assert f"the newest is of {HOUR:%Y-%m-%dT%H:%MZ}" in none.json()["error"]["message"]


def test_an_organization_without_usage_has_an_empty_statement(
    sign_in: SignIn, books: Books
) -> None:
    """And none that was stored; what others used is not in it."""
    other = sign_in("OWNER", organization="other")
    assert other.get("/api/v1/stripe/statement").json()["lines"] == []
    none = other.get("/api/v1/stripe/statement", params={"at": HOUR.isoformat()})
    assert "none is" in none.json()["error"]["message"]


def test_a_proposal_is_carried_out_once(
    admin: httpx.Client, database: Database, foreign: dict[str, Any]
) -> None:
    """What Stripe has too much is taken off; the decision is noted."""
    assert (foreign["state"], foreign["classification"]) == ("open", "foreign")
    assert (foreign["proposal"], foreign["quantity"]) == ("unit", -100)
    path = f"{PATH}/{foreign['id']}"
    assert admin.get(path).json() == foreign
    applied = admin.post(f"{path}/apply")
    assert (applied.status_code, applied.json()["state"]) == (200, "applied")
    with database.reading() as tx:
        corrections = tx.session.exec(select(UnitRow).where(UnitRow.kind == "correction")).all()
        assert [unit.quantity for unit in corrections] == [Decimal(-100)]
    twice = admin.post(f"{path}/apply")
    assert (twice.status_code, "is applied" in twice.text) == (409, True)
    assert noted(database) == [("reconciliation.apply", "admin")]


def test_a_difference_is_accepted_as_it_is(
    admin: httpx.Client, database: Database, books: Books, foreign: dict[str, Any]
) -> None:
    """For a reason; it is listed no more unless it is asked for."""
    path = f"{PATH}/{foreign['id']}"
    dismissed = admin.post(f"{path}/dismiss", json={"reason": "agreed with the customer"})
    assert dismissed.status_code == 200, dismissed.text
    assert "dismissed: agreed with the customer" in dismissed.json()["reason"]
    assert admin.get(PATH).json()["data"] == []
    (found,) = admin.get(PATH, params={"state": "dismissed"}).json()["data"]
    assert found == dismissed.json()
    assert admin.get(PATH, params={"state": "dismissed", "event_name": "x"}).json()["data"] == []
    again = admin.post(f"{path}/dismiss", json={"reason": "again"})
    assert again.status_code == 409
    assert noted(database) == [("reconciliation.dismiss", "admin")]


def test_differences_of_others_are_not_there(sign_in: SignIn, foreign: dict[str, Any]) -> None:
    """Not read, not applied, not dismissed; who only reads decides nothing."""
    path = f"{PATH}/{foreign['id']}"
    other = sign_in("OWNER", organization="other")
    assert other.get(PATH).json()["data"] == []
    assert other.get(path).status_code == 404
    assert other.post(f"{path}/apply").status_code == 404
    assert other.post(f"{path}/dismiss", json={"reason": "r"}).status_code == 404
    viewer = sign_in("VIEWER")
    assert viewer.get(path).status_code == 200
    assert viewer.post(f"{path}/apply").status_code == 403
