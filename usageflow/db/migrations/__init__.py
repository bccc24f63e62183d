"""The way from one schema to the next: Alembic revisions, run in one transaction.

Revisions are numbered with four digits and never change once released. Only `Database.migrate`
calls this.
"""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

_LOCK = 0x75736167_65666C6F
"""The key of the advisory lock that lets one PostgreSQL migration run at a time ("usageflo")."""


def upgrade(connection: Connection) -> None:
    """Run every revision the database has not seen, inside the transaction of `connection`."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(files(__name__)))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
