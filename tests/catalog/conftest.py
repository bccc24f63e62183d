"""What a test of the catalog starts from: a transaction, and the organization it is about."""

from collections.abc import Iterator

import pytest

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database, Tx


@pytest.fixture
def tx(database: Database) -> Iterator[Tx]:
    """An open transaction."""
    with database.transaction() as opened:
        yield opened


@pytest.fixture
def organization_id(tx: Tx) -> str:
    """The default organization, made in `tx`."""
    return default_organization(tx)
