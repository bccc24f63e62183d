"""People: who signs in, by e-mail address and password. What they may do is `members`."""

import re
import uuid
from typing import Final

from sqlmodel import col, select

from usageflow.catalog import passwords
from usageflow.db.session import Database, Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import PersonRow

EMAIL_CHARS_MAX: Final = 254
"""The longest address that can be mailed to (RFC 5321, section 4.5.3.1.3, without its brackets)."""

_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")


def email_problem(email: str) -> str | None:
    """Why this is no e-mail address, None if it may be one; only a mail to it would tell."""
    if _EMAIL.fullmatch(email) and email.isprintable() and len(email) <= EMAIL_CHARS_MAX:
        return None
    return "An address such as ada@example.com, please."


def normalised(email: str) -> str:
    """The one spelling under which an address is kept and found."""
    return email.strip().lower()


def find(tx: Tx, email: str) -> PersonRow | None:
    """The person with this address, in any capitals."""
    return tx.session.exec(
        select(PersonRow).where(col(PersonRow.email) == normalised(email))
    ).one_or_none()


def create(tx: Tx, email: str, password_hash: str) -> str | None:
    """A new person's id; None if somebody has this address already."""
    person_id = str(uuid.uuid4())
    values = {
        "id": person_id,
        "email": normalised(email),
        "password_hash": password_hash,
        "created_at": tx.now,
    }
    made = insert_new(tx, PersonRow, [values], key=["email"], give="id")
    return person_id if made else None


def recognised(db: Database, email: str, password: str) -> str | None:
    """The id of the person with this address and password.

    Takes as long for an address that nobody has. A password that was kept in an outdated way is
    kept anew. Opens its own transactions, because hashing must not happen in one.
    """
    with db.reading() as tx:
        person = find(tx, email)
        person_id, kept = (person.id, person.password_hash) if person else (None, None)
    if not passwords.matches(password, kept) or person_id is None or kept is None:
        return None
    if passwords.outdated(kept):
        renewed = passwords.hashed(password)
        with db.transaction() as tx:
            keep(tx, person_id, renewed, instead_of=kept)
    return person_id


def keep(tx: Tx, person_id: str, password_hash: str, *, instead_of: str) -> bool:
    """Replace what is kept of a person's password; False if it was replaced in the meantime."""
    person = tx.session.exec(
        select(PersonRow).where(col(PersonRow.id) == person_id).with_for_update()
    ).one_or_none()
    if person is None or person.password_hash != instead_of:
        return False
    person.password_hash = password_hash
    return True
