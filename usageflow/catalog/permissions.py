"""Who may do what: a role's and a key's permissions, as tables. Pure.

A permission is a noun and what may be done to it. Who somebody is, is `sessions` and `keys`; which
permission a request needs is said at its route.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal

Permission = Literal[
    "catalog.read",
    "usage.read",
    "invoices.read",
    "members.read",
    "organization.read",
    "usage.write",
    "keys.read",
    "keys.write",
    "webhooks.read",
    "webhooks.write",
    "policies.write",
    "portal.write",
    "metrics.write",
    "plans.write",
    "customers.write",
    "subscriptions.write",
    "invoices.write",
    "members.invite",
    "organization.write",
    "audit.read",
    "members.owners",
    "organization.delete",
]
"""catalog: metrics, features, plans, customers, subscriptions, entitlements · members.invite:
invite, change and remove all but owners · members.owners: owners as well."""
Permissions = frozenset[Permission]
Role = Literal["VIEWER", "DEVELOPER", "ADMIN", "OWNER"]
Scope = Literal[
    "usage.write", "usage.read", "policies.write", "metrics.read", "billing.read", "billing.write"
]

_VIEWER: Final[Permissions] = frozenset(
    {"catalog.read", "usage.read", "invoices.read", "members.read", "organization.read"}
)
_DEVELOPER: Final[Permissions] = _VIEWER | {
    "usage.write",
    "keys.read",
    "keys.write",
    "webhooks.read",
    "webhooks.write",
    "policies.write",
    "portal.write",
}
_BILLING_WRITE: Final[Permissions] = frozenset(
    {
        "metrics.write",
        "plans.write",
        "customers.write",
        "subscriptions.write",
        "invoices.write",
    }
)
_ADMIN: Final[Permissions] = (
    _DEVELOPER | _BILLING_WRITE | {"members.invite", "organization.write", "audit.read"}
)
_OWNER: Final[Permissions] = _ADMIN | {"members.owners", "organization.delete"}
_BILLING_READ: Final[Permissions] = frozenset({"catalog.read", "invoices.read", "usage.read"})

_ROLES: Final[Mapping[str, Permissions]] = MappingProxyType(
    {"OWNER": _OWNER, "ADMIN": _ADMIN, "DEVELOPER": _DEVELOPER, "VIEWER": _VIEWER}
)
"""The product documents' words (usageflow-core-concepts): OWNER full access, ADMIN billing, metrics
and plans, DEVELOPER API keys and integrations, VIEWER read only."""
_SCOPES: Final[Mapping[str, Permissions]] = MappingProxyType(
    {
        "usage.write": frozenset({"usage.write", "portal.write"}),
        "usage.read": frozenset({"usage.read", "invoices.read", "catalog.read"}),
        "policies.write": frozenset({"policies.write", "catalog.read"}),
        "metrics.read": frozenset(),  # the numbers for Prometheus: `api.metrics` asks for the scope
        "billing.read": _BILLING_READ,
        "billing.write": _BILLING_READ | _BILLING_WRITE,
    }
)
SCOPES: Final = tuple(_SCOPES)
"""What a key may be good for."""


def of_role(role: str) -> Permissions:
    """What a member of this role may do; nothing for a role there is not."""
    return _ROLES.get(role, frozenset())


def of_scopes(scopes: Iterable[str]) -> Permissions:
    """What a key with these scopes may do; a scope there is not adds nothing."""
    may: set[Permission] = set()
    return frozenset(may.union(*(_SCOPES.get(scope, frozenset()) for scope in scopes)))
