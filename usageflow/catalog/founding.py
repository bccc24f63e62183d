"""How an organization comes to be when its first owner signs up over the API.

Which of the two ways is open is a setting: the first owner of all takes the organization that an
installation begins with, or each founds one of their own. A link to be the first is `members`.
"""

import re
import secrets
import unicodedata
from typing import Final

from sqlmodel import select

from usageflow.catalog import members, organizations, people
from usageflow.catalog.audit import Actor
from usageflow.catalog.members import KNOWN_ADDRESS
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.config import Signup
from usageflow.db.session import Tx
from usageflow.db.tables import MemberRow

NAME_CHARS_MAX: Final = 40
"""Of a name made of what people call an organization: it is typed in commands."""
CLOSED: Final = Refused(
    "forbidden", "sign-up is closed: ask an owner or admin of your organization to invite you"
)


def sign_up(
    tx: Tx,
    signup: Signup,
    *,
    actor: Actor,
    password_hash: str,
    organization_name: str,
) -> tuple[str, str] | Refused:
    """The ids of a new person, whose address is the actor's name, and of the organization they own.

    `first`: of several at the same moment one is. `open`: the organization is a new one, so that
    no stranger gets the one that the operator's commands work on.
    """
    organization_id = _unowned(tx) if signup == "first" else None
    if organization_id is None and signup != "open":
        return CLOSED
    person_id = people.create(tx, actor.name, password_hash)
    if person_id is None:
        return KNOWN_ADDRESS
    if organization_id is None:
        organization_id = _founded(tx, organization_name, actor)
    members.own(tx, organization_id, person_id, organization_name=organization_name, actor=actor)
    return person_id, organization_id


def short_name(display_name: str) -> str:
    """What commands may call an organization: `Società 東京 & Co.` is `societa-co`. Pure."""
    plain = unicodedata.normalize("NFKD", display_name).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", plain.lower())
    return "-".join(words)[:NAME_CHARS_MAX].rstrip("-") or "organization"


def _unowned(tx: Tx) -> str | None:
    """The organization an installation begins with, while there is no member at all.

    Held until the transaction ends, so that whoever else wants to be the first waits.
    """
    organization_id = organizations.default_organization(tx)
    take_turn(tx, organization_id)
    anybody = tx.session.exec(select(MemberRow.id).limit(1)).first()
    return organization_id if anybody is None else None


def _founded(tx: Tx, display_name: str, actor: Actor) -> str:
    """A new organization's id; its short name gets some random letters if it is taken."""
    name = short_name(display_name)
    if organizations.organization(tx, name) is not None:
        name = f"{name}-{secrets.token_hex(4)}"
    return organizations.create(tx, name, display_name=display_name, actor=actor)
