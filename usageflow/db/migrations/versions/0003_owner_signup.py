"""The people of an organization, its name for them, and the link by which its owner signs up."""

import sqlalchemy as sa
from alembic import op

from usageflow.db import exact

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("organization", sa.Column("display_name", sa.Text(), nullable=True))
    op.create_table(
        "member",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.CheckConstraint("role = 'OWNER'", name=op.f("ck_member_role_known")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_member_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_member")),
        sa.UniqueConstraint(
            "organization_id", "email", name=op.f("uq_member_organization_id_email")
        ),
    )
    op.create_table(
        "signup_token",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.Column("expires_at", exact.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_signup_token_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_signup_token")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_signup_token_token_hash")),
    )
