"""/api/v1/policies: what is metered, whose it is and how much; its versions; putting it into use.

Edges poll the same policies at an address of their own.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec
from fastapi import Header, Path, Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Id, answer
from usageflow.api.faults import told
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.policy_bodies import PolicySetBody, wanted
from usageflow.api.rest import refusal, v1_router
from usageflow.billing import publishing
from usageflow.catalog import policies
from usageflow.catalog.policies import Published
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.db.session import Tx
from usageflow.db.tables import PolicyRow

router = v1_router("policies")

Version = Annotated[int, Path(ge=1, le=2**31 - 1)]
IfMatch = Annotated[
    str | None, Header(max_length=500, description="The ETag of the policies that this replaces")
]
"""RFC 9110, section 13.1.1."""

_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)


class PolicyOut(Answer):
    """A policy in use. `policy` has the keys of a policy file; defaults are left out."""

    name: str
    version: int
    policy: dict[str, Any]


class VersionOut(PolicyOut):
    """A version of a policy; the newest alone can be in use."""

    in_use: bool
    created_at: datetime


class PublishedOut(Answer):
    """What a change of the policies in use did: names of policies, and keys of new metrics."""

    added: list[str]
    changed: list[str]
    removed: list[str]
    unchanged: list[str]
    metrics: list[str]
    etag: str


@router.get("/policies", response_model=Listed[PolicyOut])
def list_policies(
    access: Annotated[Access, needs("catalog.read")], rest: RestDep, page: PageDep
) -> Response:
    """The policies in use by name; the ETag is of all of them, whichever page is asked for."""
    with rest.db.reading() as tx:
        found = policies.current(tx, access.organization_id)
    shown = found.items[page.offset : page.offset + page.limit]
    items = [_in_use(document, version) for document, version in shown]
    response = listed(items, len(found.items), page)
    response.headers["etag"] = found.etag
    return response


@router.put("/policies", response_model=PublishedOut)
def publish_policies(
    body: PolicySetBody,
    access: Annotated[Access, needs("policies.write")],
    rest: RestDep,
    if_match: IfMatch = None,
) -> Response:
    """Make exactly these the policies in use; with If-Match only if nobody has changed them since.

    The metrics they name are created; edges follow within seconds.
    """
    asked = wanted(body)
    with told(), rest.db.transaction() as tx:
        _require_current(tx, access.organization_id, if_match)
        done = publishing.publish(
            tx, access.organization_id, asked.policies, asked.metrics, actor=access.actor
        )
        return _published(tx, access.organization_id, done)


@router.get("/policies/{name:path}/versions", response_model=Listed[VersionOut])
def list_versions(
    name: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep, page: PageDep
) -> Response:
    """Every version of a policy, the newest first."""
    with rest.db.reading() as tx:
        rows, total = policies.versions(
            tx, access.organization_id, name, offset=page.offset, limit=page.limit
        )
        if not total:
            refusal(Refused("not_found", f'there is no policy "{name}"'))
        return listed([_version(row) for row in rows], total, page)


@router.post("/policies/{name:path}/versions/{version}/use", response_model=PublishedOut)
def use_version(
    *,
    name: Id,
    version: Version,
    access: Annotated[Access, needs("policies.write")],
    rest: RestDep,
    if_match: IfMatch = None,
) -> Response:
    """Put what a version says into use again, as the newest version; other policies stay."""
    with told(), rest.db.transaction() as tx:
        _require_current(tx, access.organization_id, if_match)
        done = publishing.use(tx, access.organization_id, name, version, actor=access.actor)
        if isinstance(done, Refused):
            refusal(done)
        return _published(tx, access.organization_id, done)


def _require_current(tx: Tx, organization_id: str, if_match: str | None) -> None:
    """Refuse a change of policies that are others by now; nobody changes them meanwhile."""
    if if_match is None:
        return
    take_turn(tx, organization_id)
    tags = {tag.strip() for tag in if_match.split(",")}
    if not tags & {"*", policies.current(tx, organization_id).etag}:
        refusal(Refused("conflict", "the policies were changed since; read them again"))


def _published(tx: Tx, organization_id: str, done: Published) -> Response:
    etag = policies.current(tx, organization_id).etag
    out = PublishedOut(
        added=list(done.added),
        changed=list(done.changed),
        removed=list(done.removed),
        unchanged=list(done.unchanged),
        metrics=list(done.metrics),
        etag=etag,
    )
    return answer(out, headers={"etag": etag})


def _in_use(document: str, version: str) -> PolicyOut:
    policy = _decoder.decode(document)
    return PolicyOut(name=policy["name"], version=int(version), policy=policy)


def _version(row: PolicyRow) -> VersionOut:
    return VersionOut(
        name=row.name,
        version=row.version,
        policy=_decoder.decode(row.document),
        in_use=row.active,
        created_at=row.created_at,
    )
