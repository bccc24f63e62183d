"""The owner's sign-up over HTTP: a form for who has the link, and what it makes.

The token of the link is the right to do it, and stands in the form, so another site cannot send the
form without knowing it. Who may do what afterwards is not decided here.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from usageflow.api.attempts import Attempts
from usageflow.api.signup_page import STYLE_SOURCE, done_page, form_page, message_page
from usageflow.catalog import members
from usageflow.catalog.passwords import hashed, password_problem
from usageflow.catalog.people import email_problem
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Database

PATH: Final = "/signup"
BODY_BYTES_MAX: Final = 16_384
"""Four fields at their longest, each character escaped."""
FIELDS_MAX: Final = 8
ORGANIZATION_CHARS_MAX: Final = 100
ATTEMPTS_MAX: Final = 20
"""Links that do not work, from one address in one ATTEMPTS_S. A token cannot be guessed; this
keeps who tries from keeping the database busy."""
ATTEMPTS_S: Final = 60.0

_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        f"default-src 'none'; style-src {STYLE_SOURCE}; form-action 'self'; base-uri 'none'; "
        f"frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",  # the token is in the address
    "x-content-type-options": "nosniff",
}


class SignupPages:
    """`/signup` over one database."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._attempts = Attempts(ATTEMPTS_MAX, ATTEMPTS_S)

    def routes(self) -> list[Route]:
        """The page with its path."""
        return [
            Route(PATH, self.show, methods=["GET"]),
            Route(PATH, self.submit, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """The form, for a link that works."""
        token = request.query_params.get("token", "")
        refused = await self._refused(request, token)
        return refused or page(200, form_page(token, {}, {}))

    async def submit(self, request: Request) -> Response:
        """Take the form: the account and a key, or the form again with what is wrong."""
        if foreign(request.headers):
            text = "Open the link again, and send the form from there."
            return page(403, message_page("The form came from another site", text))
        values = await read_form(request)
        if values is None:
            text = "Open the link again, and send the form that it shows."
            return page(400, message_page("This is not the form", text))
        token = values.get("token", "")
        if refused := await self._refused(request, token):
            return refused
        problems = problems_of(values)
        if problems:
            return page(422, form_page(token, values, problems))
        key = await run_in_threadpool(self._sign_up, token, values)
        if isinstance(key, Refused):
            if key.field is None:
                return _no_link()
            return page(422, form_page(token, values, {key.field: key.message}))
        server = f"{request.url.scheme}://{request.url.netloc}"
        return page(200, done_page(values["organization"].strip(), key, server))

    async def _refused(self, request: Request, token: str) -> Response | None:
        """The answer to a link that does not work, or to too many of them."""
        # First, so that nobody locks the owner out: behind a proxy all have one address.
        if await run_in_threadpool(self._is_open, token):
            return None
        address = request.client.host if request.client else ""
        if self._attempts.exhausted(address, self._clock()):
            text = "Wait a minute, then open the link as the server printed it."
            waiting = page(429, message_page("Too many attempts", text))
            waiting.headers["retry-after"] = f"{ATTEMPTS_S:.0f}"
            return waiting
        self._attempts.failed(address)
        return _no_link()

    def _is_open(self, token: str) -> bool:
        with self._db.reading() as tx:
            return members.is_open(tx, token)

    def _sign_up(self, token: str, values: Mapping[str, str]) -> str | Refused:
        password_hash = hashed(values["password"])  # before the transaction: it takes its time
        with self._db.transaction() as tx:
            made = members.sign_up(
                tx,
                token,
                organization_name=values["organization"].strip(),
                email=values["email"],
                password_hash=password_hash,
            )
        return made if isinstance(made, Refused) else made.secret


def foreign(headers: Headers) -> bool:
    """Whether a browser says that a form comes from another site.

    Browsers tell `Sec-Fetch-Site` to https and loopback addresses; elsewhere there is `Origin`,
    which is `null` for a page that, as ours, sends no referrer.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = headers.get("origin", "null")
    return origin != "null" and urlsplit(origin).netloc != headers.get("host", "")


def problems_of(values: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with a form, by field, in words for who filled it in."""
    organization = values.get("organization", "").strip()
    email = values.get("email", "").strip()
    found = {
        "organization": _organization_problem(organization),
        "email": email_problem(email),
        "password": password_problem(values.get("password", "")),
    }
    return {name: problem for name, problem in found.items() if problem is not None}


def _organization_problem(name: str) -> str | None:
    if not name:
        return "Which organization is it?"
    if len(name) > ORGANIZATION_CHARS_MAX:
        return f"At most {ORGANIZATION_CHARS_MAX} characters, please."
    return None if name.isprintable() else "Only characters that can be seen, please."


async def read_form(request: Request) -> dict[str, str] | None:
    """The fields of a form; None if the body is none or too large. Reading stops at the limit."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            return None
    try:
        return dict(parse_qsl(body.decode("ascii"), max_num_fields=FIELDS_MAX))
    except ValueError:  # more fields, or not ASCII, as an encoded form is
        return None


def page(status: int, html: str) -> Response:
    """A page that is not stored, not framed, loads nothing, and keeps its address to itself."""
    return HTMLResponse(html, status, _HEADERS)


def _no_link() -> Response:
    return page(
        404,
        message_page(
            "This link does not work",
            "It was used already, is older than 48 hours, or was replaced by a newer one.",
            "While there is no account, the server prints a new link each time it starts.",
        ),
    )
