"""The page about accounts: its commands run as written, its tables are what the code has."""

import base64
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import httpx
import pytest

from usageflow.api.stripe_webhooks import PATH
from usageflow.catalog.organizations import default_organization, required
from usageflow.catalog.policies import publish
from usageflow.cli import main
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import ACCOUNT_STATES
from usageflow.policies import Policy
from usageflow.stripe import connect, webhook_setup
from usageflow.stripe.access import CONNECT_CALLS_PER_S
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.status import AccountStatus, LiveStatus, MeterStatus, WebhookStatus
from usageflow.stripe.sync_meters import ACTIONS, State

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
NOT_RUN = ("serve",)
"""Commands that run until they are stopped; other pages run them."""
KEY = "sk_test_trial"
SETTINGS = {
    "stripe_api_key": KEY,
    "stripe_client_id": "ca_1",
    "public_url": "http://127.0.0.1:8787",
    "encryption_keys": OLD,
}


@pytest.fixture
def written(root: Path) -> str:
    """The page."""
    return (root / "docs" / "connect.md").read_text(encoding="utf-8")


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database with a policy; commands find it, and an emulator, by their environment."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    opened = Database.open(url)
    opened.migrate()
    policy = Policy.model_validate(
        {
            "name": "chat",
            "match": "POST /v1/chat",
            "identify": [{"from": "header", "name": "x-account-id"}],
            "field": "account_id",
            "metric": "TOKENS",
            "event_name": "tokens",
        }
    )
    with opened.transaction() as tx:
        publish(tx, default_organization(tx), [policy])
    with running(create_emulator()) as emulator:
        monkeypatch.setenv("USAGEFLOW_DATABASE", url)
        monkeypatch.setenv("USAGEFLOW_STRIPE_API_BASE", emulator)
        yield opened
    opened.close()


def cells(written: str, header: str) -> list[str]:
    """The first cells of a table."""
    table = written.partition(f"\n{header}\n")[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[1:]]


def names(cell: str) -> list[str]:
    """What is in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def run(words: list[str]) -> int:
    """The exit status of a command line of the page."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_the_commands_run_as_written(
    written: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page, with the settings that its sections begin with."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", written)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("usageflow ")]
    ran = []
    for line in commands:
        words = shlex.split(line.partition(" <")[0])[1:]
        if words[0] in NOT_RUN:
            continue
        ran.append(" ".join(words))
        for name, value in SETTINGS.items():
            monkeypatch.setenv(f"USAGEFLOW_{name.upper()}", value)
        if words[1] == "key":
            monkeypatch.delenv("USAGEFLOW_STRIPE_API_KEY")
            monkeypatch.delenv("USAGEFLOW_STRIPE_CLIENT_ID")
            monkeypatch.setattr("sys.stdin", io.StringIO(f"{KEY}\n"))
        elif words[0] == "secrets":
            monkeypatch.setenv("USAGEFLOW_ENCRYPTION_KEYS", f"{NEW},{OLD}")
        elif words[1] == "disconnect":
            joined(db, "acct_1", organization="acme")
        elif words[0] == "stripe" and words[1] != "connect":
            joined(db, "acct_2")
        assert run(words) == (1 if words == ["stripe", "sync-meters"] else 0), line
    assert len(ran) == 17


def joined(db: Database, account: str, *, organization: str = "default") -> None:
    """Connect an account, as its owner does with the link."""
    settings = Settings.read()
    with db.transaction() as tx:
        link = connect.link(tx, settings, required(tx, organization))
    begun = connect.begin(db, httpx.URL(link).params["ticket"])
    assert begun is not None
    url = f"{connect.authorize_url(settings, begun.state)}&_emulator_decision=connect:{account}"
    code = httpx.URL(httpx.get(url).headers["location"]).params["code"]
    organization_id = connect.claim(db, begun.state, begun.session)
    assert organization_id is not None
    assert connect.complete(db, settings, organization_id, code) == account


def test_the_fields_of_the_document_are_told(written: str) -> None:
    """Every one, and those of what is in them."""
    first = [name for cell in cells(written, "| field | |") for name in names(cell)]
    assert sorted(first) == sorted(item.name for item in fields(AccountStatus))
    for kind in (MeterStatus, WebhookStatus, LiveStatus):
        for item in fields(kind):
            assert f"`{item.name}`" in written.partition("| field | |")[2]


def test_states_and_steps_are_told(written: str) -> None:
    """Each of an account, and each word of `sync-meters`."""
    states = cells(written, "| state | meaning |")
    assert [name for cell in states for name in names(cell)] == list(ACCOUNT_STATES)
    steps = [name for cell in cells(written, "| what | meaning |") for name in names(cell)]
    assert steps == [ACTIONS.get(state, state) for state in get_args(State)]


def test_numbers_and_addresses_are_as_told(written: str) -> None:
    """Of links, rates and addresses."""
    text = " ".join(written.split())
    assert f"once and for {connect.TICKET_LIFE.total_seconds() / 60:.0f} minutes" in text
    assert f"back takes {connect.STATE_LIFE.total_seconds() / 60:.0f} minutes" in text
    assert f"UsageFlow makes {CONNECT_CALLS_PER_S:.0f} at most" in text
    assert f"`{connect.CALLBACK_PATH}`" in text
    assert f"events to `{webhook_setup.PATH}`" in text
    assert webhook_setup.PATH == PATH
