"""What Alembic runs: our metadata on the connection `upgrade` gives, in its open transaction."""

from alembic import context

from usageflow.db.columns import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,
    transactional_ddl=True,  # SQLite too: its transactions begin where we say (db/sqlite.py)
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
