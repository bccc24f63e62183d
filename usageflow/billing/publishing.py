"""Policies come into use: what they forward to Stripe may not be invoiced here as well.

How they are stored is `catalog.policies`'s; here they are guarded, and the change is noted.
"""

from collections.abc import Sequence

import msgspec

from usageflow.billing import guard
from usageflow.catalog import audit, policies
from usageflow.catalog.audit import Actor
from usageflow.catalog.policies import Published
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.db.session import Tx
from usageflow.errors import ConfigurationError
from usageflow.policies import Metric, Policy, parse_document
from usageflow.policies.claims import Claims


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


def use(
    tx: Tx, organization_id: str, name: str, number: int, *, actor: Actor | str
) -> Published | Refused:
    """Put what a version of a policy says into use again, as its newest version.

    The other policies stay as they are. Raises ConfigurationError as `publish`.
    """
    take_turn(tx, organization_id)
    row = policies.version(tx, organization_id, name, number)
    if row is None:
        return Refused("not_found", f'there is no version {number} of a policy "{name}"')
    items = policies.current(tx, organization_id).items
    documents = [document for document, _ in items] + [row.document]
    found = parse_document(
        msgspec.json.encode(
            {
                "policies": [
                    {"version": "0", "policy": msgspec.Raw(one.encode())} for one in documents
                ]
            }
        )
    )
    if found.problems:
        return Refused("conflict", f"this release cannot read it: {found.problems[0]}")
    *others, old = (policy for policy, _ in found.policies)
    wanted = [*(policy for policy in others if policy.name != name), old]
    claims = Claims()
    for policy in wanted:
        if problem := claims.make(policy):
            return Refused("conflict", f'policy "{policy.name}": {": ".join(problem)}')
    return publish(tx, organization_id, wanted, actor=actor)
