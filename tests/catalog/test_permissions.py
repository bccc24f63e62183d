"""The permission matrix, as it is written in the documentation."""

from typing import get_args

import pytest

from usageflow.catalog.permissions import SCOPES, Permission, of_role, of_scopes
from usageflow.db.tables import ROLES

READING = {"catalog.read", "usage.read", "invoices.read", "members.read", "organization.read"}
BUILDING = {
    "usage.write",
    "keys.read",
    "keys.write",
    "webhooks.read",
    "webhooks.write",
    "policies.write",
    "portal.write",
}
BILLING = {
    "metrics.write",
    "plans.write",
    "customers.write",
    "subscriptions.write",
    "invoices.write",
}
RUNNING = {"members.invite", "organization.write", "audit.read"}


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("VIEWER", READING),
        ("DEVELOPER", READING | BUILDING),
        ("ADMIN", READING | BUILDING | BILLING | RUNNING),
        (
            "OWNER",
            READING | BUILDING | BILLING | RUNNING | {"members.owners", "organization.delete"},
        ),
        ("GUEST", set()),
    ],
)
def test_what_a_role_may_do(role: str, may: set[str]) -> None:
    """A viewer reads, a developer builds, an admin bills and invites, an owner does everything."""
    assert of_role(role) == may


def test_every_role_there_is_may_do_something() -> None:
    """The database knows the same roles; the owner has every permission there is."""
    assert all(of_role(role) for role in ROLES)
    assert of_role("OWNER") == set(get_args(Permission))


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        ([], set()),
        (["usage.write"], {"usage.write", "portal.write"}),
        (["usage.read"], {"usage.read", "invoices.read", "catalog.read"}),
        (["policies.write"], {"policies.write", "catalog.read"}),
        (["metrics.read"], set()),
        (["billing.read"], {"usage.read", "invoices.read", "catalog.read"}),
        (["billing.write"], BILLING | {"usage.read", "invoices.read", "catalog.read"}),
        (
            ["usage.write", "policies.write"],
            {"usage.write", "portal.write", "policies.write", "catalog.read"},
        ),
        (["*", "usage"], set()),
    ],
)
def test_what_a_key_may_do(scopes: list[str], may: set[str]) -> None:
    """Scopes add up; an unknown one adds nothing."""
    assert of_scopes(scopes) == may


def test_no_key_has_power_over_people() -> None:
    """Whoever finds a key makes no other key, member or setting."""
    assert not of_scopes(SCOPES) & {"keys.write", "members.invite", "organization.write"}
