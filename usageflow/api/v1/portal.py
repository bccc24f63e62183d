"""/api/v1/portal-links and /api/v1/widget/token: ways for a customer to see its own usage and
invoices.

The page they lead to is `api.portal`'s.
"""

from datetime import datetime
from typing import Annotated, Final

from fastapi import Response
from pydantic import Field

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, answer
from usageflow.api.portal import portal_url
from usageflow.api.rest import refusal, v1_router
from usageflow.billing import portal
from usageflow.billing.portal import LIFE_S, LIFE_S_MAX, Link
from usageflow.catalog.refusals import Refused

router = v1_router("portal")

CanLetIn = Annotated[Access, needs("portal.write")]
Life = Annotated[int, Field(ge=1, le=LIFE_S_MAX)]
NO_CONTENT: Final = 204


class NewPortalLink(Body):
    """For whom, by id or external id, and for how many seconds."""

    customer_id: Id
    expires_in_s: Life = LIFE_S


class PortalLinkOut(Answer):
    """A link, shown this once."""

    url: str
    expires_at: datetime


class NewWidgetToken(Body):
    """For whom."""

    customer_external_id: Id


class WidgetTokenOut(PortalLinkOut):
    """A token, shown this once, and the address it opens."""

    token: str


@router.post("/portal-links", status_code=201, response_model=PortalLinkOut)
def create_portal_link(body: NewPortalLink, access: CanLetIn, rest: RestDep) -> Response:
    """Make a link by which a customer sees its usage and invoices."""
    link = _made(rest, access, body.customer_id, body.expires_in_s)
    url = portal_url(rest.settings, link.token)
    return answer(PortalLinkOut(url=url, expires_at=link.expires_at), 201)


@router.post("/widget/token", status_code=201, response_model=WidgetTokenOut)
def create_widget_token(body: NewWidgetToken, access: CanLetIn, rest: RestDep) -> Response:
    """Make a token for an hour, to send a customer of yours to its usage and invoices."""
    link = _made(rest, access, body.customer_external_id, LIFE_S)
    url = portal_url(rest.settings, link.token)
    made = WidgetTokenOut(token=link.token, url=url, expires_at=link.expires_at)
    return answer(made, 201)


@router.delete("/customers/{customer_id}/portal-links", status_code=NO_CONTENT)
def revoke_portal_links(customer_id: Id, access: CanLetIn, rest: RestDep) -> Response:
    """End every link of a customer at once."""
    with rest.db.transaction() as tx:
        refused = portal.revoke(tx, access.organization_id, customer_id, actor=access.actor)
        if refused is not None:
            refusal(refused)
    return Response(status_code=NO_CONTENT)


def _made(rest: RestDep, access: Access, customer: str, life_s: int) -> Link:
    with rest.db.transaction() as tx:
        link = portal.make(tx, access.organization_id, customer, life_s=life_s, actor=access.actor)
        if isinstance(link, Refused):
            refusal(link)
    return link
