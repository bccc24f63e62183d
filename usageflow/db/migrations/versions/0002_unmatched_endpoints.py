"""Endpoints that no policy matches, as the edges report them."""

import sqlalchemy as sa
from alembic import op

from usageflow.db import exact

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unmatched_endpoint",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("requests", exact.BIG_ID, nullable=False),
        sa.Column("routed", sa.Boolean(), nullable=False),
        sa.Column("sketch", sa.Text(), nullable=False),
        sa.Column("first_seen_at", exact.UtcDateTime(), nullable=False),
        sa.Column("last_seen_at", exact.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_unmatched_endpoint_organization_id"),
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "method", "template", name=op.f("pk_unmatched_endpoint")
        ),
    )
