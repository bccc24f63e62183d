"""/api/v1/api-keys: the keys of programs. Each is shown once, when it is made."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import Response
from pydantic import Field

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Instant, Name, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog import keys
from usageflow.catalog.keys import OVERLAP, OVERLAP_MAX, KeyStatus, NewKey
from usageflow.catalog.permissions import SCOPES, Scope
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.db.tables import ApiKeyRow

router = v1_router("api-keys")

NO_KEY: Final = Refused("not_found", "there is no such API key in use")
DEFAULT_SCOPES: Final[tuple[Scope, ...]] = ("usage.write", "usage.read")
"""What a client needs that tracks usage and looks at its invoices."""
_HOUR: Final = timedelta(hours=1)


class NewApiKey(Body):
    """What a key is for, and what it is good for; no more than whoever makes it may do."""

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES))] = Field(
        default_factory=lambda: list(DEFAULT_SCOPES)
    )
    expires_at: Instant | None = None


class Rotation(Body):
    """How long the key before works on, and when the new one ends."""

    overlap_hours: Annotated[int, Field(ge=0, le=OVERLAP_MAX // _HOUR)] = OVERLAP // _HOUR
    expires_at: Instant | None = None


class ApiKeyOut(Answer):
    """A key, of which only the beginning is known."""

    id: str
    name: str
    prefix: str
    scopes: list[Scope]
    status: KeyStatus
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewApiKeyOut(ApiKeyOut):
    """A key just made: `key` is shown only now."""

    key: str


@router.get("/api-keys", response_model=Listed[ApiKeyOut])
def list_api_keys(
    access: Annotated[Access, needs("keys.read")], rest: RestDep, page: PageDep
) -> Response:
    """Every key, the oldest first; those that work no more too."""
    with rest.db.reading() as tx:
        rows, total = keys.page(tx, access.organization_id, offset=page.offset, limit=page.limit)
        return listed([ApiKeyOut.model_validate(_fields(row, tx)) for row in rows], total, page)


@router.post("/api-keys", response_model=NewApiKeyOut, status_code=201)
def create_api_key(
    body: NewApiKey, access: Annotated[Access, needs("keys.write")], rest: RestDep
) -> Response:
    """Make a key: `key` in the answer is all there will ever be of it."""
    if refused := keys.beyond(body.scopes, access.permissions):
        refusal(refused)
    with rest.db.transaction() as tx:
        if body.expires_at is not None and body.expires_at <= tx.now:
            refusal(Refused("invalid", "must lie in the future", "expires_at"))
        made = keys.create_key(
            tx,
            access.organization_id,
            body.name,
            body.scopes,
            kind="org_live",
            expires_at=body.expires_at,
            actor=access.actor,
        )
        return _shown(made, tx)


@router.post("/api-keys/{key_id}/rotate", response_model=NewApiKeyOut, status_code=201)
def rotate_api_key(
    *,
    key_id: Id,
    body: Rotation | None = None,
    access: Annotated[Access, needs("keys.write")],
    rest: RestDep,
) -> Response:
    """A new key in place of one, which works on for a while: by default a day.

    Only for who may do all that the key may.
    """
    given = body or Rotation()
    with rest.db.transaction() as tx:
        if given.expires_at is not None and given.expires_at <= tx.now:
            refusal(Refused("invalid", "must lie in the future", "expires_at"))
        made = keys.rotate(
            tx,
            access.organization_id,
            key_id,
            given.overlap_hours * _HOUR,
            expires_at=given.expires_at,
            may=access.permissions,
            actor=access.actor,
        )
        return refusal(made) if isinstance(made, Refused) else _shown(made, tx)


@router.delete("/api-keys/{key_id}", status_code=204)
def revoke_api_key(
    key_id: Id, access: Annotated[Access, needs("keys.write")], rest: RestDep
) -> Response:
    """Revoke a key: from now on it is refused."""
    with rest.db.transaction() as tx:
        if not keys.revoke(tx, access.organization_id, key_id, actor=access.actor):
            refusal(NO_KEY)
    return Response(status_code=204)


def _shown(made: NewKey, tx: Tx) -> Response:
    content = NewApiKeyOut.model_validate({**_fields(made.api_key, tx), "key": made.secret})
    return answer(content, 201, headers={"cache-control": "no-store"})


def _fields(row: ApiKeyRow, tx: Tx) -> dict[str, Any]:
    return {
        **row.model_dump(include=set(ApiKeyOut.model_fields)),
        "scopes": row.scopes.split(),
        "status": keys.status(row, tx.now),
    }
