"""Sign-up over the API: the first owner of all, or an organization for each."""

from threading import Barrier, Thread

import pytest

from usageflow.catalog import founding, members, organizations, people
from usageflow.catalog.audit import Actor
from usageflow.catalog.founding import CLOSED, short_name
from usageflow.catalog.members import KNOWN_ADDRESS
from usageflow.catalog.refusals import Refused
from usageflow.config import Signup
from usageflow.db.session import Database


def signed_up(
    database: Database, signup: Signup, email: str = "ada@example.com", name: str = "Acme & Sons"
) -> tuple[str, str] | Refused:
    """Somebody signs up."""
    with database.transaction() as tx:
        return founding.sign_up(
            tx, signup, actor=Actor(email), password_hash="$x$", organization_name=name
        )


def test_the_first_owns_the_installation(database: Database) -> None:
    """The organization that commands work on, which gets its name; then the door is closed."""
    made = signed_up(database, "first")
    assert isinstance(made, tuple)
    person_id, organization_id = made
    with database.reading() as tx:
        assert organizations.organization(tx, "default") == organization_id
        (membership,) = members.memberships(tx, person_id)
        assert membership == (organization_id, "default", "Acme & Sons", "OWNER")
    assert signed_up(database, "first", "eve@example.com") == CLOSED
    with database.reading() as tx:
        assert people.find(tx, "eve@example.com") is None


def test_somebody_is_a_member_somewhere(database: Database) -> None:
    """Then nobody is the first any more, even if `default` has no members."""
    assert isinstance(signed_up(database, "open"), tuple)
    assert signed_up(database, "first", "eve@example.com") == CLOSED


def test_each_founds_an_organization(database: Database) -> None:
    """A new one every time, of a name of its own; never the operator's."""
    names = {}
    for number in range(3):
        made = signed_up(database, "open", f"ada{number}@example.com")
        assert isinstance(made, tuple)
        with database.reading() as tx:
            (membership,) = members.memberships(tx, made[0])
        assert (membership.role, membership.display_name) == ("OWNER", "Acme & Sons")
        names[membership.name] = membership.organization_id
    first, *others = sorted(names)
    assert first == "acme-sons"
    assert all(name.startswith("acme-sons-") for name in others)
    assert len(set(names.values())) == 3


def test_only_who_was_invited(database: Database) -> None:
    """Not even the first."""
    assert signed_up(database, "invited") == CLOSED


def test_an_address_has_one_account(database: Database) -> None:
    """In any capitals; no organization is left over."""
    signed_up(database, "open")
    assert signed_up(database, "open", "ADA@example.com", "Other") == KNOWN_ADDRESS
    with database.reading() as tx:
        assert [row.name for row in organizations.listing(tx)] == ["acme-sons"]


def test_two_want_to_be_the_first(database: Database) -> None:
    """One is."""
    outcomes: list[tuple[str, str] | Refused] = []
    barrier = Barrier(2)

    def sign_up(email: str) -> None:
        barrier.wait()
        outcomes.append(signed_up(database, "first", email))

    threads = [Thread(target=sign_up, args=(f"{name}@example.com",)) for name in ("ada", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 2
    assert outcomes.count(CLOSED) == 1


@pytest.mark.parametrize(
    ("display_name", "name"),
    [
        ("Acme", "acme"),
        ("Acme & Sons, Inc.", "acme-sons-inc"),
        ("Società 東京 & Co.", "societa-co"),
        ("東京", "organization"),
        ("x" * 99, "x" * 40),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_a_name_that_can_be_typed(display_name: str, name: str) -> None:
    """Made of what people call it."""
    assert short_name(display_name) == name
