"""`usageflow migrate`: bring a database to this version's schema without serving it."""

from contextlib import closing

from usageflow.cli.options import DatabaseOption, server_settings


def migrate(database: DatabaseOption = None) -> None:
    """Create or update the tables of a database."""
    from usageflow.db.session import Database

    with closing(Database.open(server_settings(database=database).database)) as db:
        db.migrate()
        print(f"{db.name} is up to date")
