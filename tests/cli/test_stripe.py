"""`usageflow stripe`: from an empty database to an account with meters and webhooks."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from usageflow.catalog.organizations import default_organization, required
from usageflow.catalog.policies import publish
from usageflow.cli.stripe_status import _text as shown
from usageflow.db.session import Database
from usageflow.db.tables import OrganizationRow, StripeReadsRow
from usageflow.policies import Policy
from usageflow.stripe import accounts, connect
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.status import AccountStatus

Run = Callable[..., Any]
KEY = "sk_test_trial"
KEYS = base64.b64encode(b"k" * 32).decode()
PUBLIC = "http://127.0.0.1:8787"


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
def environ(
    run: Run, emulator: RemoteEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """`environ(stripe_api_key=KEY)` sets a setting; the database and the emulator are set."""

    def change(**settings: str | None) -> None:
        for name, value in settings.items():
            if value is None:
                monkeypatch.delenv(f"USAGEFLOW_{name.upper()}", raising=False)
            else:
                monkeypatch.setenv(f"USAGEFLOW_{name.upper()}", value)

    database = f"sqlite:///{tmp_path / 'fresh.db'}"
    change(stripe_api_base=emulator.url, database=database, public_url=PUBLIC)
    return change


@pytest.fixture
def db(environ: Callable[..., None], tmp_path: Path) -> Iterator[Database]:
    """The database of the commands, with an organization `default`."""
    opened = Database.open(f"sqlite:///{tmp_path / 'fresh.db'}")
    opened.migrate()
    with opened.transaction() as tx:
        default_organization(tx)
    yield opened
    opened.close()


@pytest.fixture
def own(db: Database, environ: Callable[..., None]) -> str:
    """The id of the own account, by a key in the environment."""
    environ(stripe_api_key=KEY)
    with db.transaction() as tx:
        return accounts.ensure_own(tx, default_organization(tx), livemode=False)


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What the next command reads."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def policy(name: str, event_name: str, **changes: object) -> Policy:
    """A policy that is sent under this event name."""
    return Policy.model_validate(
        {
            "name": name,
            "match": "GET /v1",
            "identify": [{"from": "header", "name": "x-account-id"}],
            "field": "account_id",
            "metric": f"M_{name.upper()}",
            "event_name": event_name,
            **changes,
        }
    )


def test_a_key_is_stored_and_removed(
    run: Run, db: Database, environ: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told whose it is, and shown nowhere."""
    environ(encryption_keys=KEYS)
    typed(monkeypatch, f"{KEY}\n")
    status, out, err = run("stripe", "key", "set")
    assert status == 0
    assert re.fullmatch(r"stored the test key of acct_\w+\n", out), "an id is no name as well"
    assert "the same USAGEFLOW_ENCRYPTION_KEYS" in err
    status, out, _ = run("stripe", "status")
    assert out.startswith("own account (test mode): active\n")
    assert run("stripe", "key", "remove").out == "removed; what was not sent yet is kept\n"
    assert (
        "own account (test mode): deauthorized: its key was removed" in run("stripe", "status").out
    )
    again = run("stripe", "key", "remove")
    assert (again.status, again.err) == (
        1,
        "usageflow: this organization has no key of its own to remove\n",
    )


def test_a_key_is_typed_without_being_shown(
    run: Run, db: Database, environ: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a terminal it is asked for."""
    environ(encryption_keys=KEYS)
    asked: list[dict[str, Any]] = []

    def prompt(text: str, **how: Any) -> str:
        asked.append({"text": text, **how})
        return KEY

    typed(monkeypatch, "")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", prompt)
    assert run("stripe", "key", "set").status == 0
    assert asked == [{"text": "Stripe key", "hide_input": True, "err": True}]


@pytest.mark.parametrize(
    ("key", "settings", "reason"),
    [
        ("pk_test_1", {}, "the key must be a secret or restricted key"),
        ("", {}, "the key must be a secret or restricted key"),
        (KEY, {"encryption_keys": None}, "openssl rand"),
        (KEY, {"stripe_api_key": KEY}, "USAGEFLOW_STRIPE_API_KEY is set"),
    ],
)
def test_a_key_that_cannot_be_stored_is_not(
    run: Run,
    db: Database,
    environ: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    key: str,
    settings: dict[str, str | None],
    reason: str,
) -> None:
    """And is not in the message."""
    environ(**{"encryption_keys": KEYS, **settings})
    typed(monkeypatch, f"{key}\n")
    status, out, err = run("stripe", "key", "set")
    assert (status, out) == (1, "")
    assert reason in err
    assert not key or key not in err


def test_an_account_is_connected_and_disconnected(
    run: Run, db: Database, environ: Callable[..., None]
) -> None:
    """The link alone is on standard output; afterwards the status shows the account."""
    environ(stripe_api_key=KEY, stripe_client_id="ca_1")
    status, out, err = run("stripe", "connect")
    assert status == 0
    assert out.startswith(f"{PUBLIC}/stripe/connect?ticket=")
    assert "within 15 minutes" in err
    with db.transaction() as tx:
        accounts.connect(tx, default_organization(tx), "acct_1", livemode=False)
    assert "acct_1 (test mode): active" in run("stripe", "status").out
    status, out, err = run("stripe", "disconnect")
    assert (status, out) == (0, "disconnected acct_1; what was not sent yet is kept\n")
    assert "Stripe did not confirm it" in err
    assert "acct_1 (test mode): deauthorized: it was disconnected" in run("stripe", "status").out


def test_a_connection_of_the_emulator_ends_on_both_sides(
    run: Run, db: Database, environ: Callable[..., None], emulator: RemoteEmulator
) -> None:
    """Stripe confirms it, so nothing more is said."""
    from usageflow.config import Settings

    environ(stripe_api_key=KEY, stripe_client_id="ca_1")
    ticket = httpx.URL(run("stripe", "connect").out.strip()).params["ticket"]
    begun = connect.begin(db, ticket)
    assert begun is not None
    settings = Settings.read()
    url = f"{connect.authorize_url(settings, begun.state)}&_emulator_decision=connect:acct_1"
    code = httpx.URL(httpx.get(url).headers["location"]).params["code"]
    organization_id = connect.claim(db, begun.state, begun.session) or ""
    assert connect.complete(db, settings, organization_id, code) == "acct_1"
    assert run("stripe", "disconnect", "acct_1").err == ""


def test_what_cannot_be_disconnected_is_told(
    run: Run, own: str, environ: Callable[..., None]
) -> None:
    """Without a platform; an own account; one that is not there."""
    assert "set USAGEFLOW_STRIPE_CLIENT_ID" in run("stripe", "disconnect").err
    environ(stripe_client_id="ca_1")
    assert "`usageflow stripe key remove`" in run("stripe", "disconnect").err
    assert "no Stripe account 'acct_2'" in run("stripe", "disconnect", "acct_2").err


def test_meters_are_listed_and_made(
    run: Run, db: Database, own: str, emulator: RemoteEmulator
) -> None:
    """Nothing without --yes; what only a person can decide stays, and so does the exit status."""
    with db.transaction() as tx:
        policies = [policy("a", "calls"), policy("b", "bytes", quantity="response.body.n")]
        publish(tx, default_organization(tx), policies)
    status, out, _ = run("stripe", "sync-meters")
    assert status == 1
    assert [line.split()[:4] for line in out.splitlines()[2:]] == [
        ["bytes", "-", "-", "create"],
        ["calls", "-", "-", "create"],
    ]
    assert emulator.state()["accounts"][0]["meters"] == []
    status, out, _ = run("stripe", "sync-meters", "--yes")
    assert status == 0
    assert "done: calls is mtr_" in out
    names = [meter["event_name"] for meter in emulator.state()["accounts"][0]["meters"]]
    assert names == ["bytes", "calls"]
    status, out, _ = run("stripe", "sync-meters", "--yes")
    assert status == 0
    assert "done" not in out
    assert "calls" in run("stripe", "status").out, "the server need not wait for its next list"


def test_a_meter_of_the_wrong_kind_stays(
    run: Run, db: Database, own: str, emulator: RemoteEmulator
) -> None:
    """It is told with its reason, and the status is 1, with --yes, too."""
    emulator.seed(meters=[{"event_name": "bytes", "formula": "count"}])
    with db.transaction() as tx:
        publish(tx, default_organization(tx), [policy("b", "bytes", quantity=Decimal("0.5"))])
    for options in ((), ("--yes",)):
        status, out, _ = run("stripe", "sync-meters", *options)
        assert status == 1
        assert "unusable" in out
        assert "quantities can be other than 1" in out


def test_without_policies_there_is_nothing_to_do(run: Run, own: str) -> None:
    """Which is fine."""
    status, out, _ = run("stripe", "sync-meters")
    assert (status, out) == (0, "No policy in use sends anything to Stripe.\n")


def test_webhooks_are_made_listed_and_removed(
    run: Run, own: str, environ: Callable[..., None]
) -> None:
    """Their secrets are shown nowhere."""
    assert "openssl rand" in run("stripe", "webhooks", "create").err
    environ(encryption_keys=KEYS)
    status, out, _ = run("stripe", "webhooks", "create")
    assert status == 0
    assert [line.split()[2:] for line in out.splitlines()] == [
        ["(snapshot", "events)", "at", f"{PUBLIC}/stripe/webhooks"],
        ["(thin", "events)", "at", f"{PUBLIC}/stripe/webhooks"],
    ]
    assert "nothing was missing" in run("stripe", "webhooks", "create").out
    listed = run("stripe", "webhooks", "list").out
    ids = [line.split()[0] for line in listed.splitlines()[2:]]
    assert len(ids) == 2
    status, out, err = run("stripe", "webhooks", "remove", ids[0])
    assert (status, out, err) == (0, f"removed {ids[0]}\n", "")
    assert run("stripe", "webhooks", "remove", ids[0]).err == (
        f"usageflow: there is no webhook {ids[0]!r}; see `usageflow stripe webhooks list`\n"
    )
    assert ids[0] not in run("stripe", "webhooks", "list").out
    environ(stripe_api_key=None)
    status, out, err = run("stripe", "webhooks", "remove", ids[1])
    assert (status, out) == (0, f"removed {ids[1]}\n")
    assert "Stripe did not delete it (there is no key for it here" in err


def test_webhooks_of_the_platform_are_every_organizations(
    run: Run, db: Database, environ: Callable[..., None]
) -> None:
    """Each sees them as such, and ends them for all only with --yes."""
    environ(stripe_api_key=KEY, stripe_client_id="ca_1", encryption_keys=KEYS)
    run("organizations", "create", "acme")
    with db.transaction() as tx:
        accounts.connect(tx, required(tx, "acme"), "acct_1", livemode=False)
    assert run("stripe", "webhooks", "create", "--organization", "acme").status == 0
    for organization in ("acme", "default"):
        lines = run("stripe", "webhooks", "list", "--organization", organization).out.splitlines()
        assert [line.split()[2:4] for line in lines[2:]] == [["every", "organization"]] * 2
    name = lines[-1].split()[0]
    status, out, err = run("stripe", "webhooks", "remove", name)
    assert (status, out) == (1, "")
    assert "ends it for every organization; say --yes" in err
    assert run("stripe", "webhooks", "remove", name, "--yes").out == f"removed {name}\n"
    listed = run("stripe", "webhooks", "list", "--organization", "acme").out
    assert len(listed.splitlines()) == 3


def test_status_changes_no_schema(run: Run, environ: Callable[..., None], tmp_path: Path) -> None:
    """A look must not migrate what an older server works on."""
    (tmp_path / "fresh.db").touch()
    assert "run `usageflow migrate`" in run("stripe", "status").err


def test_status_of_nothing(run: Run, db: Database) -> None:
    """It says how to begin; and of another organization, that there is none."""
    status, out, _ = run("stripe", "status")
    assert status == 0
    assert "`usageflow stripe connect`" in out
    assert json.loads(run("stripe", "status", "--json").out) == {"accounts": []}
    assert run("stripe", "status", "--organization", "x").err == (
        "usageflow: there is no organization 'x'; there is default\n"
    )


def test_status_asks_stripe_only_when_told(
    run: Run, db: Database, own: str, emulator: RemoteEmulator
) -> None:
    """What it says is shown; and why, if it says nothing."""
    emulator.seed(meters=["calls"])
    before = emulator.state()["accounts"][0]["calls"]
    assert "Stripe says" not in run("stripe", "status").out
    assert emulator.state()["accounts"][0]["calls"] == before
    status, out, _ = run("stripe", "status", "--live")
    assert status == 0
    assert "  Stripe says  acct_" in out
    assert "s from ours" in out
    assert "calls       sum      active" in out
    emulator.fault("status", route="/v1/account", status=401)
    status, out, _ = run("stripe", "status", "--live")
    assert status == 1
    assert "Stripe says  Stripe: " in out
    emulator.fault("status", route="/v1/account", status=500)
    assert run("stripe", "status", "--live", "--json").status == 1


def test_status_without_a_key_says_so(run: Run, own: str, environ: Callable[..., None]) -> None:
    """Asked live, too."""
    environ(stripe_api_key=None)
    status, out, _ = run("stripe", "status", "--live")
    assert status == 1
    assert "own account (test mode): active, but nothing is sent: there is no key" in out
    assert "Stripe says  there is no key for it here" in out
    assert "there is no key for it here" in run("stripe", "sync-meters").err


def test_status_as_a_document(
    run: Run, db: Database, own: str, environ: Callable[..., None]
) -> None:
    """Every field, as the page about it names them."""
    environ(encryption_keys=KEYS)
    run("stripe", "webhooks", "create")
    with db.transaction() as tx:
        publish(tx, default_organization(tx), [policy("a", "calls")])
        day = tx.now.replace(hour=0, minute=0, second=0, microsecond=0)
        tx.session.add(StripeReadsRow(account_id=own, day=day, reads=7))
    (found,) = json.loads(run("stripe", "status", "--json", "--live").out)["accounts"]
    assert found["live"]["owner"]["account_id"].startswith("acct_")
    del found["live"]
    hooks = found.pop("webhooks")
    assert [hook["kind"] for hook in hooks] == ["snapshot", "thin"]
    assert found == {
        "account": "own",
        "kind": "own",
        "mode": "test",
        "state": "active",
        "problem": None,
        "meters": [
            {
                "event_name": "calls",
                "formula": None,
                "status": "missing",
                "policies": ["a"],
                "problem": "Stripe has no meter of this event name",
            }
        ],
        "units": {},
        "lag_s": None,
        "drift": 0,
        "drifts": 0,
        "late": 0,
        "reads_today": 7,
    }


def test_another_organization_has_its_own(
    run: Run, db: Database, own: str, environ: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of its own beside that of the environment."""
    with db.transaction() as tx:
        tx.session.add(OrganizationRow(id="o", name="other", created_at=tx.now))
    environ(encryption_keys=KEYS)
    typed(monkeypatch, "sk_test_other\n")
    assert run("stripe", "key", "set", "--organization", "other").status == 0
    found = json.loads(run("stripe", "status", "--json", "--organization", "other").out)
    assert [one["state"] for one in found["accounts"]] == ["active"]


def test_a_mistyped_path_is_named_and_nothing_is_made_there(
    run: Run, environ: Callable[..., None], tmp_path: Path
) -> None:
    """A database that is not there has no accounts."""
    for command in (("status",), ("sync-meters",), ("disconnect",), ("webhooks", "list")):
        status, _, err = run("stripe", *command)
        assert (status, err) == (
            1,
            f"usageflow: there is no database file {tmp_path / 'fresh.db'}\n",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lag_s", "words"),
    [
        (None, "nothing waits"),
        (0.4, "the oldest waits for 0 s"),
        (119.0, "for 119 s"),
        (120.0, "for 2 minutes"),
        (7_200.0, "for 2 hours"),
        (200_000.0, "for 2 days"),
    ],
)
def test_status_says_how_far_behind_it_is(lag_s: float | None, words: str) -> None:
    """In a unit to grasp; and what is late for an invoice, only if something is."""
    one = AccountStatus(
        account="acct_1",
        kind="connect",
        mode="live",
        state="active",
        problem=None,
        meters=(),
        units={"sealed": 2, "parked": 1},
        lag_s=lag_s,
        drift=Decimal("1.50"),
        drifts=2,
        late=0,
        webhooks=(),
        reads_today=0,
        live=None,
    )
    text = shown(one)
    assert f"{words}; units: 2 sealed, 1 parked" in text
    assert "drift        1.50 in 2 hours" in text
    assert "drift        1.50 in 1 hour\n" in shown(replace(one, drifts=1))
    assert "units: none on their way" in shown(replace(one, units={}))
    assert "late" not in text
    assert "late         3 units" in shown(replace(one, late=3))
