"""What `up` does in the database."""

from pathlib import Path

import pytest

from usageflow.catalog import keys
from usageflow.catalog.keys import Caller, Refusal
from usageflow.catalog.organizations import DEFAULT, default_organization, organization
from usageflow.catalog.policies import current
from usageflow.db.session import Database
from usageflow.errors import DatabaseError
from usageflow.policies import parse_file
from usageflow.up.database import publish, renew_key, revoke_key

POLICIES = """
[[policy]]
name = "calls"
match = "GET /v1/items"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "API_CALL"
"""


def test_there_is_one_key_of_a_name(database: Database, database_url: str) -> None:
    """What a killed run left is revoked by the next one; other keys stay as they are."""
    with database.transaction() as tx:
        other = keys.create_key(tx, default_organization(tx), "edge", ["usage.write"]).secret
    first, second = (renew_key(database_url, "up here:1") for _ in range(2))
    with database.reading() as tx:
        assert isinstance(keys.authenticate(tx, first, "usage.write"), Refusal)
        assert isinstance(keys.authenticate(tx, second, "usage.write"), Caller)
        assert isinstance(keys.authenticate(tx, second, "policies.write"), Refusal)
    revoke_key(database_url, "up here:1")
    with database.reading() as tx:
        assert isinstance(keys.authenticate(tx, second, "usage.write"), Refusal)
        assert isinstance(keys.authenticate(tx, other, "usage.write"), Caller)


def test_policies_are_published(database: Database, database_url: str) -> None:
    """Exactly those of the file."""
    done = publish(database_url, parse_file(POLICIES, "p.toml"))
    assert done.added == ("calls",)
    assert publish(database_url, parse_file(POLICIES, "p.toml")).unchanged == ("calls",)
    with database.reading() as tx:
        organization_id = organization(tx, DEFAULT)
        assert organization_id is not None
        assert len(current(tx, organization_id).items) == 1


@pytest.mark.parametrize("act", [renew_key, revoke_key])
def test_no_database_is_made(act: object, tmp_path: Path) -> None:
    """The server makes it; a file that is gone is told."""
    assert callable(act)
    with pytest.raises(DatabaseError, match="there is no database file"):
        act(f"sqlite:///{tmp_path / 'gone.db'}", "up")
    assert list(tmp_path.iterdir()) == []
