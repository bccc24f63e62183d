"""Organizations: whose usage it is. There is one, `default`, until more are made."""

import re
import uuid
from collections.abc import Sequence
from typing import Final

from sqlmodel import col, select

from usageflow.catalog import audit
from usageflow.catalog.audit import Actor
from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import OrganizationRow
from usageflow.errors import ConfigurationError

DEFAULT: Final = "default"
"""The name of the organization a fresh installation has."""
DISPLAY_NAME_CHARS_MAX: Final = 100
"""As much as a page shows on one line."""
NAMED_MAX: Final = 10
"""Organizations that a message names, before it refers to the list."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def default_organization(tx: Tx) -> str:
    """The id of the organization `default`, made if there is none."""
    found = organization(tx, DEFAULT)
    if found is not None:
        return found
    _made(tx, DEFAULT)
    return required(tx, DEFAULT)


def organization(tx: Tx, name: str) -> str | None:
    """The id of the organization of this name, None if there is none."""
    return tx.session.exec(
        select(OrganizationRow.id).where(col(OrganizationRow.name) == name)
    ).one_or_none()


def required(tx: Tx, name: str) -> str:
    """The id of the organization of this name.

    Raises ConfigurationError, which names those that there are.
    """
    found = organization(tx, name)
    if found is None:
        there = [row.name for row in listing(tx)]
        named = ", ".join(there[:NAMED_MAX]) or "none yet"
        more = "" if len(there) <= NAMED_MAX else f" and {len(there) - NAMED_MAX} more"
        raise ConfigurationError(f"there is no organization {name!r}; there is {named}{more}")
    return found


def create(tx: Tx, name: str, *, display_name: str | None = None, actor: Actor | str) -> str:
    """Make an organization; its id. Raises ConfigurationError if it has no name of its own."""
    problem = _problem(name, display_name)
    if problem is not None:
        raise ConfigurationError(problem)
    made = _made(tx, name, display_name)
    if made is None:
        raise ConfigurationError(f"there is an organization {name!r} already")
    after = {"display_name": display_name}
    audit.record(tx, made, actor=actor, action="organization.create", subject=name, after=after)
    return made


def rename(tx: Tx, organization_id: str, display_name: str, *, actor: Actor) -> None:
    """Change what its people call an organization; what commands call it by stays."""
    row = tx.session.get_one(OrganizationRow, organization_id)
    before, row.display_name = row.display_name, display_name
    if before != display_name:
        audit.record(
            tx,
            organization_id,
            actor=actor,
            action="organization.rename",
            subject=organization_id,
            before={"display_name": before},
            after={"display_name": display_name},
        )


def listing(tx: Tx) -> Sequence[OrganizationRow]:
    """Every organization, oldest first."""
    return tx.session.exec(
        select(OrganizationRow).order_by(col(OrganizationRow.created_at), col(OrganizationRow.name))
    ).all()


def _problem(name: str, display_name: str | None) -> str | None:
    if not _NAME.fullmatch(name):
        return (
            "the name of an organization is at most 63 letters, digits, dots, dashes and "
            "underscores; --display-name takes any other"
        )
    if display_name is None:
        return None
    fits = display_name.strip() and len(display_name) <= DISPLAY_NAME_CHARS_MAX
    if fits and display_name.isprintable():
        return None
    return f"--display-name takes 1 to {DISPLAY_NAME_CHARS_MAX} characters that can be seen"


def _made(tx: Tx, name: str, display_name: str | None = None) -> str | None:
    """The id of a new organization; None if the name is taken."""
    values = {
        "id": str(uuid.uuid4()),
        "name": name,
        "created_at": tx.now,
        "display_name": display_name,
    }
    inserted = insert_new(tx, OrganizationRow, [values], key=["name"], give="id")
    return inserted[0].id if inserted else None
