"""Who is calling, for which organization, and what they may do there.

A request shows an API key (`x-usageflow-api-key`, `X-API-Key` or `Authorization: Bearer`) or the
session cookie of a person. Either way it acts for one organization alone, and an endpoint gets the
id of that organization from here and from nowhere else, which keeps organizations apart. What a
role or a scope permits is `catalog.permissions`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from usageflow.api.signup import foreign
from usageflow.catalog import keys, permissions, sessions
from usageflow.catalog.audit import Actor
from usageflow.catalog.permissions import Permission
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.errors import RequestRefused

ACCESS_COOKIE: Final = "access_token"
KEY_HEADERS: Final = ("x-usageflow-api-key", "x-api-key")
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110, 9.2.1): another site may lead a browser to them."""
KEY_USE_GRAIN: Final = timedelta(minutes=1)
"""How exactly a key's last use is known."""
CHALLENGE: Final = {"www-authenticate": 'Bearer realm="usageflow"'}
"""What a 401 must tell (RFC 9110, 15.5.2)."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a request may do, and in whose name. `role`, `person_id`: of a person who signed in."""

    organization_id: str
    actor: Actor
    permissions: frozenset[Permission]
    role: str | None = None
    person_id: str | None = None
    session_id: str | None = None
    key_id: str | None = None


class Door:
    """Lets requests in, over one database."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._limit = RateLimitItemPerMinute(settings.api_requests_per_min)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._noted_at: dict[str, datetime] = {}

    def admit(self, request: Request, permission: Permission | None) -> Access:
        """Who is calling, if they may. Raises RequestRefused: 401, 403 or 429."""
        secret = presented_key(request)
        token = request.cookies.get(ACCESS_COOKIE)
        if secret is not None:
            access = self._by_key(request, secret)
        elif token is not None:
            access = self._by_session(request, token)
        else:
            raise unauthorized(
                "missing_credentials", "send an API key, or sign in and send its cookies"
            )
        self._count(access)
        if permission is not None and permission not in access.permissions:
            raise _forbidden(access, permission)
        return access

    def _by_key(self, request: Request, secret: str) -> Access:
        with self._db.reading() as tx:
            found = keys.lookup(tx, secret)
        if isinstance(found, keys.Refusal):
            raise unauthorized(found.code, found.message)
        noted_at = self._noted_at.get(found.id)
        if noted_at is None or tx.now - noted_at >= KEY_USE_GRAIN:
            self._noted_at[found.id] = tx.now
            with self._db.transaction() as writing:
                keys.mark_used(writing, found.id)
        return Access(
            organization_id=found.organization_id,
            actor=Actor(f"API key {found.name} ({found.prefix}...)", request_id_of(request)),
            permissions=permissions.of_scopes(found.scopes.split()),
            key_id=found.id,
        )

    def _by_session(self, request: Request, token: str) -> Access:
        if request.method not in SAFE_METHODS and foreign(request.headers):
            message = "the request came from another site"
            raise RequestRefused(403, "cross_site_request", message)
        with self._db.reading() as tx:
            found = sessions.authenticate(tx, token)
        if found is None:
            message = "the session has ended; sign in, or refresh it at /api/v1/auth/refresh"
            raise unauthorized("invalid_session", message)
        return Access(
            organization_id=found.organization_id,
            actor=Actor(found.email, request_id_of(request)),
            permissions=permissions.of_role(found.role),
            role=found.role,
            person_id=found.person_id,
            session_id=found.session_id,
        )

    def _count(self, access: Access) -> None:
        caller = access.key_id or access.session_id or ""
        if not self._limiter.hit(self._limit, caller):
            message = f"more than {self._limit.amount} requests in a minute"
            raise RequestRefused(429, "rate_limited", message, headers={"retry-after": "60"})


@dataclass(frozen=True, slots=True)
class Rest:
    """What endpoints work on. `keyring` is read from the settings by who needs it."""

    db: Database
    settings: Settings
    door: Door
    on_events: Callable[[], None]
    """Usage was committed."""
    on_billing: Callable[[], None]
    """There may be something to tell or to close."""


def rest_of(request: Request) -> Rest:
    """The `Rest` of the app that serves this request."""
    rest: Rest = request.app.state.rest
    return rest


RestDep = Annotated[Rest, Depends(rest_of)]


class Needs:
    """A dependency that admits who has the permission; None: whoever has signed in at all."""

    def __init__(self, permission: Permission | None) -> None:
        self.permission = permission

    def __call__(self, request: Request, rest: RestDep) -> Access:
        """The caller's access."""
        return rest.door.admit(request, self.permission)


def needs(permission: Permission | None) -> Any:
    """Let in who may, and tell the endpoint who it is."""
    return Depends(Needs(permission))


def presented_key(request: Request) -> str | None:
    """The API key of a request, whichever header it is in."""
    for name in KEY_HEADERS:
        if (secret := request.headers.get(name)) is not None:
            return secret.strip()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def request_id_of(request: Request) -> str:
    """The id that the answer, the log and the audit log name this request by."""
    request_id: str = request.scope.get("state", {}).get("request_id", "")
    return request_id


def unauthorized(code: str, message: str) -> RequestRefused:
    """A 401."""
    return RequestRefused(401, code, message, headers=CHALLENGE)


def _forbidden(access: Access, permission: Permission) -> RequestRefused:
    who = f"the role {access.role}" if access.role else "this API key"
    message = f"{who} does not have the permission {permission}"
    return RequestRefused(403, "forbidden", message)
