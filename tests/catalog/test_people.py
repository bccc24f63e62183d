"""People: known by their address in any capitals, and by their password."""

import pytest

from usageflow.catalog import passwords, people
from usageflow.db.session import Database

PASSWORD = "correct horse battery"
SCRYPT = "$scrypt$ln=15,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$xy6UCICz8Vv/P6JqOkkUD4DOmhxN0tXSe6sQAUBxupQ"


def made(database: Database, kept: str) -> str:
    """Ada's id."""
    with database.transaction() as tx:
        person_id = people.create(tx, " Ada@Example.com", kept)
    assert person_id is not None
    return person_id


def kept_of(database: Database) -> str:
    """What is kept of Ada's password."""
    with database.reading() as tx:
        found = people.find(tx, "ada@example.com")
        assert found is not None
        return found.password_hash


def test_an_address_is_one_person(database: Database) -> None:
    """In whatever capitals it is typed."""
    person_id = made(database, "$none$")
    with database.transaction() as tx:
        assert people.create(tx, "ADA@example.com", "$other$") is None
        found = people.find(tx, "aDa@example.com ")
        assert found is not None
        assert (found.id, found.email, found.password_hash) == (
            person_id,
            "ada@example.com",
            "$none$",
        )
        assert people.find(tx, "eve@example.com") is None


def test_who_knows_the_password_is_recognised(database: Database) -> None:
    """A wrong password, and an address that nobody has, are the same answer."""
    person_id = made(database, passwords.hashed(PASSWORD))
    assert people.recognised(database, "ADA@example.com", PASSWORD) == person_id
    assert people.recognised(database, "ada@example.com", "correct horse batterx") is None
    assert people.recognised(database, "eve@example.com", PASSWORD) is None


def test_a_password_is_kept_anew_at_sign_in(database: Database) -> None:
    """Once it is known; a wrong one changes nothing."""
    person_id = made(database, SCRYPT)
    assert people.recognised(database, "ada@example.com", "correct horse batterx") is None
    assert kept_of(database) == SCRYPT
    assert people.recognised(database, "ada@example.com", PASSWORD) == person_id
    renewed = kept_of(database)
    assert renewed.startswith("$argon2id$")
    assert people.recognised(database, "ada@example.com", PASSWORD) == person_id
    assert kept_of(database) == renewed


def test_a_password_that_was_changed_meanwhile_stays(database: Database) -> None:
    """Of two changes of the same password one succeeds."""
    person_id = made(database, "$first$")
    with database.transaction() as tx:
        assert people.keep(tx, person_id, "$second$", instead_of="$first$")
        assert not people.keep(tx, person_id, "$third$", instead_of="$first$")
        assert not people.keep(tx, "nobody", "$third$", instead_of="$first$")
    assert kept_of(database) == "$second$"


@pytest.mark.parametrize(
    ("email", "fits"),
    [
        ("root@localhost", True),
        ("ada+tag@例え.jp", True),
        ("ada", False),
        ("ada@", False),
        ("a b@example.com", False),
        ("a@b@c", False),
        ("a\x00@example.com", False),
        ("x" * 250 + "@b.co", False),
    ],
)
def test_what_an_address_looks_like(email: str, *, fits: bool) -> None:
    """Only a mail to it would tell more."""
    assert (people.email_problem(email) is None) == fits
