"""The page about the HTTP API: its tables are what the code has, and it names all there is."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from usageflow.api.app import create_api
from usageflow.api.paging import PAGE_SIZE, PAGE_SIZE_MAX
from usageflow.api.rest import ERRORS
from usageflow.api.signing_in import EMAIL_ATTEMPTS_MAX, EMAIL_ATTEMPTS_S
from usageflow.api.track import BODY_BYTES_MAX
from usageflow.catalog import invitations, keys, passwords, permissions, sessions
from usageflow.catalog.permissions import Permission, Role
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.events import QUANTITY_DECIMALS_MAX, QUANTITY_DIGITS_MAX

ROLES = ("VIEWER", "DEVELOPER", "ADMIN", "OWNER")
UNDOCUMENTED = 502
"""Only the routes that ask Stripe have it, and document it themselves."""


@pytest.fixture
def written(root: Path) -> str:
    """The page."""
    return (root / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The server's own OpenAPI."""
    db = Database.open(f"sqlite:///{tmp_path_factory.mktemp('api') / 'usageflow.db'}")
    db.migrate()
    found = create_api(db, Settings()).openapi()
    db.close()
    return found


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of a table."""
    _, _, rest = page.partition(f"\n{header}\n")
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    """What is in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def test_roles_may_what_the_matrix_says(written: str) -> None:
    """Every permission, for each of the four roles, and no other role."""
    table = rows(written, f"| permission | {' | '.join(ROLES)} |")
    assert set(get_args(Role)) == set(ROLES)
    assert {names(row[0])[0] for row in table} == set(get_args(Permission))
    for permission, *cells in table:
        for role, cell in zip(ROLES, cells, strict=True):
            may = names(permission)[0] in permissions.of_role(role)
            assert (cell == "yes") is may, f"{permission} {role}"


def test_scopes_give_what_the_table_says(written: str) -> None:
    """Every scope of a key."""
    table = rows(written, "| scope | permissions |")
    assert [names(row[0])[0] for row in table] == list(permissions.SCOPES)
    for scope, given in table:
        told = set(names(given)) & set(get_args(Permission))
        assert told == permissions.of_scopes(names(scope)), scope


def test_every_noun_is_named(written: str, document: Any) -> None:
    """The tags of the document are those of the table."""
    told = [name for row in rows(written, "| tag | |") for name in names(row[0])]
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert sorted(told) == sorted({tag for one in operations for tag in one["tags"]})


def test_addresses_exist(written: str, document: Any) -> None:
    """Those that the page names are in the document."""
    named = set(re.findall(r"`(?:POST |GET )?(/api/[\w/{}-]+[\w}])`", written))
    known = set(document["paths"]) | {"/api/v1/openapi.json", "/api/v1/auth"}
    assert {"/api/track", "/api/invoices", "/api/v1/auth/refresh"} <= named
    assert named <= known


def test_errors_are_those_of_the_table(written: str) -> None:
    """Every status that the document tells of."""
    told = {int(row[0]) for row in rows(written, "| status | |")}
    assert told - {UNDOCUMENTED} == set(ERRORS)


def test_numbers_are_as_told(written: str) -> None:
    """Of pages, sessions, keys, passwords and digits."""
    text = " ".join(written.split())
    assert f"{PAGE_SIZE} without, {PAGE_SIZE_MAX} at most" in text
    assert f"good for {sessions.ACCESS_LIFE.seconds // 60} minutes" in text
    assert (
        f"for {sessions.REFRESH_LIFE.days} days; a session for {sessions.SESSION_LIFE.days}" in text
    )
    assert f"at least {passwords.PASSWORD_CHARS_MIN} characters" in text
    attempts = f"After {EMAIL_ATTEMPTS_MAX} wrong ones"
    assert f"{attempts} for an address, it has to wait for up to {EMAIL_ATTEMPTS_S / 60:g}" in text
    assert (keys.OVERLAP.days, "works on for a day" in text) == (1, True)
    assert f"good for {invitations.LIFE.total_seconds() / 3600:g} hours and once" in text
    digits = f"At most {QUANTITY_DIGITS_MAX} digits, {QUANTITY_DECIMALS_MAX} of them"
    assert f"{digits} after the point" in text
    assert f"of a single event, {BODY_BYTES_MAX // 1024} KiB" in text
