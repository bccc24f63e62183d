"""Inserting what is not there yet."""

import uuid

from usageflow.db.session import Database
from usageflow.db.statements import insert_new
from usageflow.db.tables import OrganizationRow


def test_only_new_rows_are_inserted_and_told(database: Database) -> None:
    """Existing keys are left alone; no rows are no statement."""
    with database.transaction() as tx:

        def insert(*names: str) -> set[str]:
            rows = [{"id": str(uuid.uuid4()), "name": name, "created_at": tx.now} for name in names]
            made = insert_new(tx, OrganizationRow, rows, key=["name"], give="id")
            assert all(row.id in {given["id"] for given in rows} for row in made)
            return {row.name for row in made}

        assert insert("b", "a") == {"a", "b"}
        assert insert("c", "a") == {"c"}
        assert insert() == set()
