"""/api/v1/audit: who changed what, and what it was before."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec
from fastapi import Query, Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Id, Instant
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import v1_router
from usageflow.catalog import audit
from usageflow.db.tables import AuditRow

router = v1_router("audit")

_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)


class EntryOut(Answer):
    """One change. `hash` is over this entry and the hash of the one before it."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None
    hash: str | None


@router.get("/audit", response_model=Listed[EntryOut])
def list_audit(
    *,
    access: Annotated[Access, needs("audit.read")],
    rest: RestDep,
    page: PageDep,
    action: Annotated[Id | None, Query(description="How the action begins, as `plan.`")] = None,
    subject: Annotated[Id | None, Query(description="The id of what was changed")] = None,
    actor: Annotated[Id | None, Query(description="Who changed it")] = None,
    since: Annotated[Instant | None, Query(description="The earliest moment")] = None,
) -> Response:
    """The log of changes, the latest first."""
    with rest.db.reading() as tx:
        rows, total = audit.listing(
            tx,
            access.organization_id,
            action=action,
            subject=subject,
            actor=actor,
            since=since,
            offset=page.offset,
            limit=page.limit,
        )
        return listed([_told(row) for row in rows], total, page)


def _told(row: AuditRow) -> EntryOut:
    return EntryOut(
        id=row.seq or 0,
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        before=_decoded(row.before),
        after=_decoded(row.after),
        request_id=row.request_id,
        hash=row.hash,
    )


def _decoded(text: str | None) -> Any:
    return None if text is None else _decoder.decode(text)
