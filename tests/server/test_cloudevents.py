"""Usage goes to a place of CloudEvents instead of Stripe."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from usageflow.catalog.organizations import DEFAULT, default_organization, organization
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.errors import ConfigurationError
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store
from usageflow.ledger.statement import statement
from usageflow.server import Server
from usageflow.server.cloudevents import shown


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings over one database of the test."""

    def made(**given: Any) -> Settings:
        return Settings(database=f"sqlite:///{tmp_path}/usageflow.db", **given)

    return made


@pytest.fixture
def ledger(settings: Callable[..., Settings]) -> Iterator[Database]:
    """The database beside the server."""
    with closing(Database.open(settings().database)) as db:
        db.migrate()
        yield db


def use(db: Database, number: int) -> None:
    """Record one event."""
    event = UsageEvent(
        id=f"event-{number}",
        policy="p",
        policy_version="1",
        metric="CALL",
        identity=Identity("account_id", "acct_1"),
        quantity=Decimal("0.1"),
        occurred_at=datetime.now(UTC),
        state="counted",
        event_name="calls",
    )
    with db.transaction() as tx:
        store.append(tx, default_organization(tx), [encode(event)], unknown_metric="create")


def await_lines(path: Path, count: int) -> None:
    """Until that much is in the file."""
    deadline_s = time.monotonic() + 30
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < deadline_s, "the usage did not arrive"
        time.sleep(0.02)


def await_settled(db: Database) -> None:
    """Until all that was used is there."""
    deadline_s = time.monotonic() + 30
    while True:
        with db.reading() as tx:
            (line,) = statement(tx, organization(tx, DEFAULT) or "")
        if line.settled == line.metered:
            return
        assert time.monotonic() < deadline_s, "the usage did not arrive"
        time.sleep(0.02)


def test_usage_goes_into_a_file_once(
    settings: Callable[..., Settings],
    ledger: Database,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also what was recorded before, and over a restart; what is in the file is settled."""
    path = tmp_path / "usage.ndjson"
    use(ledger, 1)
    for number in (2, 3):
        with caplog.at_level(logging.INFO), Server(settings(forward_to=f"file:{path}")):
            use(ledger, number)
            await_lines(path, 1)
    with Server(settings(forward_to=f"file:{path}")):
        await_settled(ledger)
    lines = path.read_text().splitlines()
    quantities = [json.loads(line, parse_float=Decimal)["data"]["quantity"] for line in lines]
    assert sum(quantities) == Decimal("0.3")
    with ledger.reading() as tx:
        (line,) = statement(tx, organization(tx, DEFAULT) or "")
        assert (line.metered, line.settled, line.difference) == (
            Decimal("0.3"),
            Decimal("0.3"),
            Decimal(0),
        )
    assert "waits" not in caplog.text


def test_one_place_at_a_time(settings: Callable[..., Settings], tmp_path: Path) -> None:
    """Stripe and a file at once, or another file than before: refused, in words."""
    first = f"file:{tmp_path}/a.ndjson"
    with Server(settings(forward_to=first)):
        pass
    both = settings(forward_to=first, stripe_api_key="sk_test_x")
    with pytest.raises(ConfigurationError, match="goes to one place"), Server(both):
        pass
    other = settings(forward_to=f"file:{tmp_path}/b.ndjson")
    with pytest.raises(ConfigurationError, match="database of its own"), Server(other):
        pass


def test_a_place_that_cannot_be_used_binds_nothing(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """A mistake at the first start can be mended at the second."""
    wrong = settings(forward_to=f"file:{tmp_path}/nowhere/usage.ndjson")
    with pytest.raises(ConfigurationError), Server(wrong):
        pass
    with Server(settings(forward_to=f"file:{tmp_path}/usage.ndjson")):
        pass


def test_a_password_is_not_shown() -> None:
    """The place is named in the database and in the log."""
    assert shown("https://user:secret@example.com/usage") == "https://example.com/usage"
