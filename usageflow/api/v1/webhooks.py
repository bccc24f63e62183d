"""/api/v1/webhooks: endpoints that are told events, and a test of each."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Response
from pydantic import AfterValidator, Field, StringConstraints

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Line, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.patches import Patch, left_out
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import Keyring
from usageflow.db.outbox_tables import WebhookEndpointRow
from usageflow.webhooks import endpoints
from usageflow.webhooks.addresses import URL_CHARS_MAX, target

router = v1_router("webhooks")


def _webhook_url(url: str) -> str:
    if isinstance(problem := target(url), str):
        raise ValueError(problem)  # noqa: TRY004 - pydantic explains ValueErrors
    return url


def _event_type(name: str) -> str:
    if name not in endpoints.TYPES:
        raise ValueError(f"must be one of {', '.join(endpoints.TYPES)}")
    return name


Url = Annotated[
    str,
    StringConstraints(max_length=URL_CHARS_MAX, pattern="^https?://"),
    AfterValidator(_webhook_url),
]
Types = Annotated[
    list[
        Annotated[
            str,
            AfterValidator(_event_type),
            Field(json_schema_extra={"enum": list(endpoints.TYPES)}),
        ]
    ],
    Field(max_length=len(endpoints.TYPES)),
]
"""Types of events; none: all."""


class NewEndpoint(Body):
    """Where to tell events to. Without `types`, all of them."""

    url: Url
    types: Types = Field(default_factory=list)
    description: Line = ""


class EndpointPatch(Patch):
    """What to change in an endpoint."""

    url: Url = left_out()
    types: Types = left_out()
    description: Line = left_out()
    enabled: bool = left_out()


class EndpointOut(Answer):
    """An endpoint. `failing_since`: since when nothing succeeded; `old_secret_until`: how long the
    secret before the last rotation signs as well.
    """

    id: str
    url: str
    types: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    old_secret_until: datetime | None
    created_at: datetime
    updated_at: datetime


class SecretOut(EndpointOut):
    """An endpoint, and its signing secret, which is shown this once."""

    secret: str


class TestOut(Answer):
    """The test event that is on its way."""

    __test__ = False  # not pytest's

    event_id: str


@router.get("/webhooks", response_model=Listed[EndpointOut])
def list_endpoints(
    access: Annotated[Access, needs("webhooks.read")], rest: RestDep, page: PageDep
) -> Response:
    """Endpoints, the oldest first."""
    with rest.db.reading() as tx:
        rows, total = endpoints.listing(
            tx, access.organization_id, offset=page.offset, limit=page.limit
        )
        return listed([EndpointOut(**_endpoint(row)) for row in rows], total, page)


@router.post("/webhooks", response_model=SecretOut, status_code=201)
def create_endpoint(
    body: NewEndpoint, access: Annotated[Access, needs("webhooks.write")], rest: RestDep
) -> Response:
    """Make an endpoint. The answer is the only one with its signing secret."""
    with rest.db.transaction() as tx:
        made = endpoints.create(
            tx,
            access.organization_id,
            url=body.url,
            types=body.types,
            description=body.description,
            keyring=Keyring.read(rest.settings.encryption_keys),
            actor=access.actor,
        )
        if isinstance(made, Refused):
            refusal(made)
        return answer(SecretOut(**_endpoint(made[0]), secret=made[1]), 201)


@router.get("/webhooks/{endpoint}", response_model=EndpointOut)
def read_endpoint(
    endpoint: Id, access: Annotated[Access, needs("webhooks.read")], rest: RestDep
) -> Response:
    """One endpoint."""
    with rest.db.reading() as tx:
        row = endpoints.find(tx, access.organization_id, endpoint)
        if row is None:
            refusal(endpoints.missing(endpoint))
        return answer(EndpointOut(**_endpoint(row)))


@router.patch("/webhooks/{endpoint}", response_model=EndpointOut)
def change_endpoint(
    endpoint: Id,
    body: EndpointPatch,
    access: Annotated[Access, needs("webhooks.write")],
    rest: RestDep,
) -> Response:
    """Change an endpoint, disable or enable it; what waits for it is tried at once."""
    with rest.db.transaction() as tx:
        row = endpoints.change(
            tx, access.organization_id, endpoint, actor=access.actor, **body.given()
        )
        if isinstance(row, Refused):
            refusal(row)
        content = answer(EndpointOut(**_endpoint(row)))
    rest.on_billing()
    return content


@router.delete("/webhooks/{endpoint}", status_code=204)
def delete_endpoint(
    endpoint: Id, access: Annotated[Access, needs("webhooks.write")], rest: RestDep
) -> Response:
    """Delete an endpoint; what was on its way is cancelled."""
    with rest.db.transaction() as tx:
        row = endpoints.delete(tx, access.organization_id, endpoint, actor=access.actor)
        if isinstance(row, Refused):
            refusal(row)
    return Response(status_code=204)


@router.post("/webhooks/{endpoint}/rotate-secret", response_model=SecretOut)
def rotate_secret(
    endpoint: Id, access: Annotated[Access, needs("webhooks.write")], rest: RestDep
) -> Response:
    """A new signing secret, shown this once; for 24 hours the old one signs as well."""
    with rest.db.transaction() as tx:
        made = endpoints.rotate_secret(
            tx,
            access.organization_id,
            endpoint,
            keyring=Keyring.read(rest.settings.encryption_keys),
            actor=access.actor,
        )
        if isinstance(made, Refused):
            refusal(made)
        return answer(SecretOut(**_endpoint(made[0]), secret=made[1]))


@router.post("/webhooks/{endpoint}/test", response_model=TestOut, status_code=202)
def send_test(
    endpoint: Id, access: Annotated[Access, needs("webhooks.write")], rest: RestDep
) -> Response:
    """Tell an endpoint an event `webhook.test`, whichever types it wants."""
    with rest.db.transaction() as tx:
        event_id = endpoints.send_test(tx, access.organization_id, endpoint, actor=access.actor)
        if isinstance(event_id, Refused):
            refusal(event_id)
    rest.on_billing()
    return answer(TestOut(event_id=event_id), 202)


def _endpoint(row: WebhookEndpointRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "url": row.url,
        "types": endpoints.wanted(row),
        "description": row.description,
        "enabled": row.enabled,
        "disabled_reason": row.disabled_reason,
        "failing_since": row.failing_since,
        "old_secret_until": row.previous_until,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
