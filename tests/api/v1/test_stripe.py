"""Stripe accounts over HTTP: stored and removed, connected in a browser, their meters made."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from sqlmodel import col, select

from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow, StripeAccountRow
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running

SignIn = Callable[..., httpx.Client]
KEY = "sk_test_account"
ENCRYPTION_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
POLICY = {
    "name": "calls",
    "match": "GET /calls",
    "identify": [{"from": "header", "name": "x-account"}],
    "field": "account_id",
    "metric": "API_CALL",
    "event_name": "calls",
}


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    """An emulator on a free port."""
    with running(create_emulator()) as url:
        yield url


@pytest.fixture
def emulator(emulator_url: str) -> RemoteEmulator:
    """The emulator, empty."""
    remote = RemoteEmulator(emulator_url, KEY)
    remote.reset()
    return remote


@pytest.fixture
def client_id() -> str | None:
    """Of the platform; none: this server is none."""
    return None


@pytest.fixture
def settings(emulator: RemoteEmulator, client_id: str | None) -> Settings:
    """Accounts are at the emulator."""
    return Settings(
        encryption_keys=ENCRYPTION_KEY,
        stripe_api_base=emulator.url,
        stripe_api_key=KEY if client_id else None,
        stripe_client_id=client_id,
        public_url="http://api",
    )


@pytest.fixture
def admin(sign_in: SignIn) -> httpx.Client:
    """Who may change the organization."""
    return sign_in("ADMIN")


def store(client: httpx.Client, key: str = KEY) -> httpx.Response:
    """Store a key of one's own account."""
    return client.post("/api/v1/stripe/accounts", json={"api_key": key})


def noted(database: Database) -> list[tuple[str, str]]:
    """(action, actor's role) of changes of the way to Stripe by people, in order."""
    with database.reading() as tx:
        rows = tx.session.exec(
            select(AuditRow)
            .where(
                col(AuditRow.action).startswith("stripe."), col(AuditRow.request_id).is_not(None)
            )
            .order_by(col(AuditRow.seq))
        ).all()
        return [(row.action, row.actor.partition("_")[0]) for row in rows]


def test_a_key_is_stored_and_forgotten(admin: httpx.Client, database: Database) -> None:
    """It is told whose it is; the key is shown nowhere, and what was not sent is kept."""
    stored = store(admin)
    assert stored.status_code == 201
    assert stored.json()["owner"]
    account = stored.json()["account"]
    assert (account["account"], account["mode"], account["state"]) == ("own", "test", "active")
    listed = admin.get("/api/v1/stripe/accounts").json()
    assert (listed["data"], listed["meta"]["total"]) == ([account], 1)
    assert admin.get("/api/v1/stripe/accounts/own").json() == account
    assert KEY not in stored.text
    removed = admin.delete("/api/v1/stripe/accounts/own")
    assert removed.json() == {"account": "own", "objection": None}
    assert admin.get("/api/v1/stripe/accounts/own").json()["state"] == "deauthorized"
    assert admin.delete("/api/v1/stripe/accounts/own").status_code == 409
    with database.reading() as tx:
        assert tx.session.exec(select(StripeAccountRow.secret)).one() is None
    assert noted(database) == [
        ("stripe.key.set", "admin"),
        ("stripe.deauthorize", "admin"),
        ("stripe.key.remove", "admin"),
    ]


def test_a_key_that_is_none_is_refused(admin: httpx.Client, emulator: RemoteEmulator) -> None:
    """Nobody is asked; one that Stripe refuses is told so. Neither is shown."""
    wrong = store(admin, "pk_test_publishable")
    assert (wrong.status_code, "pk_test" in wrong.text) == (409, False)
    emulator.fault("status", route="/v1/billing/meters", status=401)
    refused = store(admin)
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "stripe_failed")
    assert KEY not in refused.text
    assert admin.get("/api/v1/stripe/accounts").json()["data"] == []


def test_stripe_is_asked(admin: httpx.Client, emulator: RemoteEmulator) -> None:
    """What it says beside what we know; or why it says nothing."""
    store(admin)
    admin.put("/api/v1/policies", json={"policies": [POLICY]})
    emulator.seed(meters=["calls"])
    asked = admin.post("/api/v1/stripe/accounts/own/ask").json()
    assert asked["owner"]
    assert asked["unanswered"] is None
    assert [(one["event_name"], one["problem"]) for one in asked["meters"]] == [("calls", None)]
    emulator.fault("status", route="/v1/account", status=500)
    silent = admin.post("/api/v1/stripe/accounts/own/ask").json()
    assert (silent["owner"], silent["clock_skew_s"], bool(silent["unanswered"])) == (
        *(None, None, True),
    )
    assert admin.post("/api/v1/stripe/accounts/acct_1/ask").status_code == 404


def test_meters_are_made_where_policies_need_them(
    admin: httpx.Client, emulator: RemoteEmulator, database: Database
) -> None:
    """Only those that were asked for."""
    store(admin)
    other = POLICY | {"name": "other", "match": "GET /other", "event_name": "other"}
    admin.put("/api/v1/policies", json={"policies": [POLICY, other]})
    (lacks, _) = admin.get("/api/v1/stripe/accounts/own").json()["meters"]
    assert (lacks["status"], lacks["policies"]) == ("missing", ["calls"])
    wanted = {"event_names": ["calls", "nothing sends this"]}
    made = admin.post("/api/v1/stripe/accounts/own/meters", json=wanted).json()["meters"]
    assert [(one["event_name"], one["state"], one["done"]) for one in made] == [
        ("calls", "ok", True),
        ("other", "missing", False),
    ]
    again = admin.post("/api/v1/stripe/accounts/own/meters", json=wanted).json()["meters"]
    assert [one["done"] for one in again] == [False, False]
    assert len(emulator.state()["accounts"][0]["meters"]) == 1
    assert noted(database)[-1] == ("stripe.meter.create", "admin")


def test_without_a_platform_nothing_is_connected(admin: httpx.Client) -> None:
    """It is told what is missing."""
    response = admin.post("/api/v1/stripe/connect")
    assert response.status_code == 409
    assert "USAGEFLOW_STRIPE_CLIENT_ID" in response.json()["error"]["message"]


@pytest.mark.parametrize("client_id", ["ca_1"])
def test_a_person_connects_an_account_and_ends_it(admin: httpx.Client, database: Database) -> None:
    """From the API to Stripe and back, in one browser; the connection is noted."""
    begun = admin.post("/api/v1/stripe/connect")
    assert "path=/stripe" in begun.headers["set-cookie"].lower()
    assert "httponly" in begun.headers["set-cookie"].lower()
    url = f"{begun.json()['url']}&_emulator_decision=connect:acct_1"
    back = httpx.get(url).headers["location"]
    admin.cookies.pop("access_token")  # the session need not last as long
    assert "acct_1" in admin.get(back).text
    assert noted(database) == [("stripe.connect.begin", "admin")]


@pytest.mark.parametrize("client_id", ["ca_1"])
def test_another_browser_cannot_end_the_connection(
    admin: httpx.Client, rest: httpx.Client, sign_in: SignIn, emulator: RemoteEmulator
) -> None:
    """Who is sent somebody else's way back connects nothing."""
    url = f"{admin.post('/api/v1/stripe/connect').json()['url']}&_emulator_decision=connect:acct_1"
    back = httpx.get(url).headers["location"]
    for stranger in (rest, sign_in("OWNER")):
        assert stranger.get(back).status_code == 400
    assert admin.get(back).status_code == 200
    (account,) = admin.get("/api/v1/stripe/accounts").json()["data"]
    assert (account["account"], account["kind"], account["state"]) == (
        *("acct_1", "connect", "active"),
    )
    assert (
        sign_in("OWNER", organization="other").delete("/api/v1/stripe/accounts/acct_1").status_code
        == 404
    )
    assert store(admin).status_code == 409
    ended = admin.delete("/api/v1/stripe/accounts/acct_1")
    assert ended.json() == {"account": "acct_1", "objection": None}
    emulator.fault("status", route="/oauth/deauthorize", status=500)
    told = admin.delete("/api/v1/stripe/accounts/acct_1").json()
    assert told["objection"]
    assert admin.get("/api/v1/stripe/accounts/acct_1").json()["state"] == "deauthorized"


def test_who_may_not_change_the_organization_only_reads(sign_in: SignIn) -> None:
    """Developers look at accounts, and touch none."""
    developer = sign_in("DEVELOPER")
    assert developer.get("/api/v1/stripe/accounts").status_code == 200
    assert developer.get("/api/v1/stripe/accounts/acct_1").status_code == 404
    assert store(developer).status_code == 403
    assert developer.post("/api/v1/stripe/connect").status_code == 403
