"""The databases that tests get: whoever had one before, it is as it was made."""

from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import text

from usageflow.catalog.organizations import create, listing
from usageflow.db.session import Database

pytestmark = pytest.mark.postgres


def used(url: str) -> Database:
    """A database with some rows, still open."""
    database = Database.open(url)
    with database.transaction() as tx:
        create(tx, "acme", actor="somebody")
    return database


def test_what_is_given_back_is_emptied(postgres: Any) -> None:
    """Its rows are gone, numbers begin at one again, and whoever was connected is no more."""
    url = postgres.create()
    with closing(used(url)):
        postgres.drop(url)
    assert postgres.create() == url
    with closing(Database.open(url)) as database, database.reading() as tx:
        assert listing(tx) == []
        numbers = tx.session.execute(text("SELECT count(last_value) FROM pg_sequences"))
        assert numbers.scalar_one() == 0
    postgres.drop(url)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE organization ADD COLUMN colour text",
        "ALTER TABLE unit DISABLE TRIGGER ALL",
        "CREATE TABLE other (id integer)",
        "UPDATE alembic_version SET version_num = '9999'",
    ],
)
def test_what_was_changed_is_given_to_nobody(postgres: Any, change: str) -> None:
    """Another schema, or other rows than a new database has: it is dropped."""
    url = postgres.create()
    with closing(Database.open(url)) as database, database.transaction() as tx:
        tx.session.connection().execute(text(change))
    postgres.drop(url)
    assert postgres.create() != url
