"""Stripe accounts of an organization. For now its own, reached with its own key."""

import uuid
from typing import Final

from sqlmodel import col, select

from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import StripeAccountRow
from usageflow.errors import ConfigurationError

OWN: Final = "own"
"""The account of the configured key, in `stripe_account.account`."""


def ensure_own(tx: Tx, organization_id: str, *, livemode: bool) -> str:
    """The id of the organization's own account, made if absent, and active: a start tries again.

    Raises ConfigurationError if it was used in the other mode: usage that was sent in test mode
    would be missing in live mode, and nobody would notice.
    """
    row = {
        "id": str(uuid.uuid4()),
        "organization_id": organization_id,
        "kind": OWN,
        "account": OWN,
        "folding": "meters",
        "livemode": livemode,
        "state": "active",
        "created_at": tx.now,
    }
    ours = select(StripeAccountRow).where(
        col(StripeAccountRow.organization_id) == organization_id,
        col(StripeAccountRow.account) == OWN,
    )
    if tx.session.exec(ours).first() is None:
        key = ["organization_id", "account", "livemode"]
        insert_new(tx, StripeAccountRow, [row], key=key, give="id")
    account = tx.session.exec(ours).one()
    if account.livemode != livemode:
        used, given = ("live", "test") if account.livemode else ("test", "live")
        raise ConfigurationError(
            f"this database forwards to Stripe's {used} mode, but USAGEFLOW_STRIPE_API_KEY is a "
            f"{given} key; use a database of its own for each mode"
        )
    account.state, account.reason = "active", None
    return account.id
