"""The customer portal: one page, for who comes by a link, with usage, invoices and their files.

The link's token moves from the address into a cookie at once, so that no address that is shared,
logged or sent as a referrer holds it. Works without scripts; loads one style sheet of ours.
"""

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from usageflow.api.files import pdf_file, statement_file
from usageflow.billing import documents, portal, portal_page, statements
from usageflow.billing.portal import Visitor
from usageflow.catalog.refusals import Refused
from usageflow.config import Settings
from usageflow.db.session import Database, Tx
from usageflow.stripe.connect import public_url

PATH: Final = "/portal"
COOKIE: Final = "usageflow_portal"
TOKEN_CHARS_MAX: Final = 100
"""A token has fewer; what is longer is none, and not worth hashing."""
TEMPLATES: Final = Path(__file__).with_name("templates")

_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
}
_STYLE_AGE_S: Final = 3_600


def portal_url(settings: Settings, token: str) -> str:
    """The link that opens the portal."""
    return f"{public_url(settings)}{PATH}?token={token}"


class PortalPages:
    """The portal over one database."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._secure = public_url(settings).startswith("https://")
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._style = (TEMPLATES / "portal.css").read_bytes()

    def routes(self) -> list[Route]:
        """The page, its style, and the two files of an invoice."""
        return [
            Route(PATH, self.show, methods=["GET"]),
            Route(f"{PATH}/style.css", self.style, methods=["GET"]),
            Route(f"{PATH}/invoices/{{invoice_id}}.pdf", self.pdf, methods=["GET"]),
            Route(f"{PATH}/invoices/{{invoice_id}}.csv", self.usage, methods=["GET"]),
        ]

    def show(self, request: Request) -> Response:
        """The page; with a token in the address, a cookie first."""
        token = request.query_params.get("token")
        if token is not None:
            return self._let_in(token)
        with self._db.reading() as tx:
            visitor = _visitor(tx, request.cookies.get(COOKIE, ""))
            page = None if visitor is None else portal_page.page(tx, visitor)
        return self._closed() if page is None else self._html("portal.html", page=page)

    def style(self, _: Request) -> Response:
        """The style sheet; the same for everybody."""
        headers = {**_HEADERS, "cache-control": f"public, max-age={_STYLE_AGE_S}"}
        return Response(self._style, media_type="text/css", headers=headers)

    def pdf(self, request: Request) -> Response:
        """An invoice as PDF."""
        with self._db.reading() as tx:
            visitor = _visiting(tx, request)
            sheet = visitor and documents.invoice_sheet(
                tx, visitor.organization_id, request.path_params["invoice_id"]
            )
        if sheet is None or isinstance(sheet, Refused):
            return self._closed()
        return pdf_file(sheet)

    def usage(self, request: Request) -> Response:
        """The usage that an invoice bills, hour by hour."""
        with self._db.reading() as tx:
            visitor = _visiting(tx, request)
            statement = visitor and statements.of_invoice(
                tx, visitor.organization_id, request.path_params["invoice_id"]
            )
        if statement is None or isinstance(statement, Refused):
            return self._closed()
        return statement_file(self._db, statement, "csv", "hours")

    def _let_in(self, token: str) -> Response:
        with self._db.reading() as tx:
            visitor = _visitor(tx, token)
        if visitor is None:
            return self._closed()
        response = RedirectResponse(PATH, 303, headers=_HEADERS)
        response.set_cookie(
            COOKIE,
            token,
            expires=visitor.expires_at,
            path=PATH,
            secure=self._secure,
            httponly=True,
            samesite="lax",  # who follows the link comes from another site: their mail
        )
        return response

    def _closed(self) -> Response:
        return self._html("portal_closed.html", 404)

    def _html(self, template: str, status: int = 200, **values: object) -> Response:
        text = self._templates.get_template(template).render(values)
        return HTMLResponse(text, status, headers=_HEADERS)


def _visitor(tx: Tx, token: str) -> Visitor | None:
    return portal.visitor(tx, token) if 0 < len(token) <= TOKEN_CHARS_MAX else None


def _visiting(tx: Tx, request: Request) -> Visitor | None:
    """Who asks for an invoice, if it is theirs to see."""
    visitor = _visitor(tx, request.cookies.get(COOKIE, ""))
    invoice_id = request.path_params["invoice_id"]
    if visitor is None or "\0" in invoice_id:  # PostgreSQL takes no such text
        return None
    return visitor if portal_page.sees(tx, visitor, invoice_id) else None
