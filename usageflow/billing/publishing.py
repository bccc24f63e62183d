"""Policies come into use: what they forward to Stripe may not be invoiced here as well.

How they are stored is `catalog.policies`'s; here they are guarded, and the change is noted.
"""

from collections.abc import Sequence

from usageflow.billing import guard
from usageflow.catalog import audit, policies
from usageflow.catalog.audit import Actor
from usageflow.catalog.policies import Published
from usageflow.db.session import Tx
from usageflow.errors import ConfigurationError
from usageflow.policies import Metric, Policy


def publish(
    tx: Tx,
    organization_id: str,
    wanted: Sequence[Policy],
    declared: Sequence[Metric] = (),
    *,
    actor: Actor | str,
) -> Published:
    """Make exactly these the policies in use; see `catalog.policies.publish`.

    Raises ConfigurationError, and changes nothing, if usage would be charged twice.
    """
    refused = guard.policy_problem(tx, organization_id, wanted)
    if refused is not None:
        raise ConfigurationError(refused.message)
    done = policies.publish(tx, organization_id, wanted, declared)
    changes = {"added": done.added, "changed": done.changed, "removed": done.removed}
    if any(changes.values()):
        audit.record(
            tx,
            organization_id,
            actor=actor,
            action="policies.publish",
            subject=organization_id,
            after=changes,
        )
    return done
