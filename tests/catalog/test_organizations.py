"""The organization a fresh installation has."""

from usageflow.catalog.organizations import default_organization, organization
from usageflow.db.session import Database


def test_default_is_made_once(database: Database) -> None:
    """However often it is asked for, also in another transaction, it is the same."""
    with database.transaction() as tx:
        assert organization(tx, "default") is None
        first = default_organization(tx)
        assert default_organization(tx) == first
    with database.transaction() as tx:
        assert default_organization(tx) == organization(tx, "default") == first
