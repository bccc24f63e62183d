"""/api/v1/endpoints: what edges saw that no policy matches, and a policy to begin with."""

from datetime import datetime
from typing import Annotated

from fastapi import Query, Response
from pydantic import StringConstraints

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog import drafts, endpoints
from usageflow.catalog.endpoints import Unmatched
from usageflow.catalog.refusals import Refused
from usageflow.middleware.sketch import Sketch

router = v1_router("endpoints")

Method = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Template = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
Types = dict[str, list[str]]
"""Paths below a document, each with the JSON types that were seen there."""


class DraftOf(Body):
    """Which endpoint, as the list has it."""

    method: Method
    template: Template


class SketchOut(Answer):
    """What the exchanges look like: names and types, never a value (docs/discovery.md)."""

    request: Types
    response: Types
    claims: Types
    headers: list[str]
    query: list[str]
    cookies: list[str]
    request_types: list[str]
    response_types: list[str]
    statuses: list[int]


class EndpointOut(Answer):
    """An endpoint without a policy. `routed`: the app's router told what its parameters are."""

    method: str
    template: str
    requests: int
    routed: bool
    sketch: SketchOut
    first_seen_at: datetime
    last_seen_at: datetime


class DraftOut(Answer):
    """A policy file with one policy in shadow mode, for a person to look at."""

    toml: str


@router.get("/endpoints", response_model=Listed[EndpointOut])
def list_endpoints(
    *,
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
    page: PageDep,
    search: Annotated[
        str | None, Query(max_length=100, description="A part of `METHOD /template`")
    ] = None,
) -> Response:
    """Endpoints that no policy in use matches, the busiest first."""
    found = [one for one in _unmatched(rest, access) if (search or "") in _name(one)]
    shown = found[page.offset : page.offset + page.limit]
    return listed([_told(one) for one in shown], len(found), page)


@router.post("/endpoints/draft", response_model=DraftOut)
def draft_policy(
    body: DraftOf, access: Annotated[Access, needs("catalog.read")], rest: RestDep
) -> Response:
    """A policy to begin with for one of them; nothing is put into use."""
    for one in _unmatched(rest, access):
        if (one.method, one.template) == (body.method, body.template):
            return answer(DraftOut(toml=drafts.draft(one)))
    return refusal(
        Refused("not_found", f"no endpoint without a policy is {body.method} {body.template}")
    )


def _unmatched(rest: RestDep, access: Access) -> list[Unmatched]:
    """At most `endpoints.ENDPOINTS_MAX`."""
    with rest.db.reading() as tx:
        return endpoints.listed(tx, access.organization_id)


def _name(one: Unmatched) -> str:
    return f"{one.method} {one.template}"


def _told(one: Unmatched) -> EndpointOut:
    return EndpointOut(
        method=one.method,
        template=one.template,
        requests=one.requests,
        routed=one.routed,
        sketch=_sketch(one.sketch),
        first_seen_at=one.first_seen_at,
        last_seen_at=one.last_seen_at,
    )


def _sketch(sketch: Sketch) -> SketchOut:
    return SketchOut(
        request={path: list(types) for path, types in sketch.request.items()},
        response={path: list(types) for path, types in sketch.response.items()},
        claims={path: list(types) for path, types in sketch.claims.items()},
        headers=list(sketch.headers),
        query=list(sketch.query),
        cookies=list(sketch.cookies),
        request_types=list(sketch.request_types),
        response_types=list(sketch.response_types),
        statuses=list(sketch.statuses),
    )
