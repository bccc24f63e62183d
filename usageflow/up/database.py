"""What `up` does in the database: a key for its proxy, and the policies of a file.

Each opens the database for itself: it happens at the start, at the end and when a file changes.
"""

from contextlib import closing

from usageflow.billing import publishing
from usageflow.catalog import keys
from usageflow.catalog.audit import SYSTEM
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import Published
from usageflow.db.session import Database, Tx
from usageflow.policies import PolicyFile


def renew_key(url: str, name: str) -> str:
    """A new key for an edge; those of this name that a killed run left are revoked."""
    with closing(Database.open(url, create=False)) as db, db.transaction() as tx:
        organization_id = default_organization(tx)
        _revoke(tx, organization_id, name)
        return keys.create_key(tx, organization_id, name, ["usage.write"]).secret


def revoke_key(url: str, name: str) -> None:
    """Revoke the key of this name."""
    with closing(Database.open(url, create=False)) as db, db.transaction() as tx:
        _revoke(tx, default_organization(tx), name)


def publish(url: str, file: PolicyFile) -> Published:
    """Make these the policies that edges get."""
    with closing(Database.open(url, create=False)) as db, db.transaction() as tx:
        written = [policy for policy, _ in file.policies]
        organization_id = default_organization(tx)
        return publishing.publish(tx, organization_id, written, file.metrics, actor=SYSTEM)


def _revoke(tx: Tx, organization_id: str, name: str) -> None:
    for key in keys.listing(tx, organization_id):
        if key.name == name and key.revoked_at is None:
            keys.revoke(tx, organization_id, key.id)
