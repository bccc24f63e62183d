"""Who is signed in, as answers tell it: a person, an organization, and what they may do there."""

from datetime import datetime

from usageflow.api.exact_json import Answer
from usageflow.catalog import members
from usageflow.catalog.members import Membership
from usageflow.catalog.permissions import Permission, Role, of_role
from usageflow.db.session import Tx
from usageflow.db.tables import PersonRow


class UserOut(Answer):
    """A person."""

    id: str
    email: str
    created_at: datetime


class MembershipOut(Answer):
    """An organization of a person. `key` is what commands call it by."""

    id: str
    key: str
    name: str
    role: Role


class SignedInOut(Answer):
    """Who signed in, and the organization they act for."""

    user: UserOut
    organization: MembershipOut


class MeOut(SignedInOut):
    """The same, with what they may do there, and where else they are members."""

    permissions: list[Permission]
    organizations: list[MembershipOut]

    def brief(self) -> SignedInOut:
        """Who it is alone."""
        return SignedInOut(user=self.user, organization=self.organization)


def told(tx: Tx, person_id: str, organization_id: str) -> MeOut:
    """A member of an organization."""
    person = tx.session.get_one(PersonRow, person_id)
    found = {one.organization_id: one for one in members.memberships(tx, person_id)}
    here = found[organization_id]
    return MeOut(
        user=UserOut(id=person.id, email=person.email, created_at=person.created_at),
        organization=_membership(here),
        permissions=sorted(of_role(here.role)),
        organizations=[_membership(one) for one in found.values()],
    )


def _membership(one: Membership) -> MembershipOut:
    return MembershipOut.model_validate(
        {
            "id": one.organization_id,
            "key": one.name,
            "name": one.display_name or one.name,
            "role": one.role,
        }
    )
