"""Filling units: each forwarded usage event goes into exactly one unit of its lane.

Events of a `sum` meter are folded together while their lane is busy; for every other meter each
event is a unit of its own. Sending is `units`'.
"""

from usageflow.db.session import Tx


def assign_unassigned(tx: Tx, organization_id: str, limit: int) -> int:
    """Assign events that were recorded before a Stripe account was connected, oldest first.

    How many were assigned: below `limit` means that none are left. 0 without an account.
    """
    raise NotImplementedError
