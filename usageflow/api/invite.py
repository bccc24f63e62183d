"""The page behind the link of an invitation: who has it comes in with a password.

It signs nobody in; `/api/v1/invitations/accept` does the same for programs, and does. The token
stands in the form, so another site cannot send the form without knowing it.
"""

import time
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from usageflow.api.attempts import Attempts
from usageflow.api.signup import ATTEMPTS_MAX, ATTEMPTS_S, foreign, page, read_form
from usageflow.api.signup_page import invite_page, message_page
from usageflow.catalog import invitations
from usageflow.catalog.invitations import PATH, Joined, Offer
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Database


class InvitePages:
    """`/invite` over one database."""

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
        offered = await run_in_threadpool(self._offer, token)
        if offered is None:
            return self._in_vain(_address(request)) or _no_link()
        return page(200, invite_page(token, offered, {}))

    async def submit(self, request: Request) -> Response:
        """Take the form: a member, or the form again with what is wrong."""
        if foreign(request.headers):
            text = "Open the link again, and send the form from there."
            return page(403, message_page("The form came from another site", text))
        values = await read_form(request)
        if values is None:
            text = "Open the link again, and send the form that it shows."
            return page(400, message_page("This is not the form", text))
        token = values.get("token", "")
        offered = await run_in_threadpool(self._offer, token)
        if offered is None:
            return self._in_vain(_address(request)) or _no_link()
        if waiting := self._in_vain(token):
            return waiting
        password, request_id = values.get("password", ""), request.state.request_id
        joined = await run_in_threadpool(self._join, token, password, request_id)
        if isinstance(joined, Refused):
            return page(422, invite_page(token, offered, {"password": joined.message}))
        text = f"Your account is {offered.email}, your role {offered.role}."
        return page(200, message_page(f"You are a member of {offered.organization}", text))

    def _in_vain(self, name: str) -> Response | None:
        """Count a try of this address or link; the answer if there were too many."""
        if not self._attempts.exhausted(name, self._clock()):
            self._attempts.failed(name)
            return None
        text = "Wait a minute, then open the link again as it was mailed."
        waiting = page(429, message_page("Too many attempts", text))
        waiting.headers["retry-after"] = f"{ATTEMPTS_S:.0f}"
        return waiting

    def _offer(self, token: str) -> Offer | None:
        with self._db.reading() as tx:
            return invitations.offer(tx, token)

    def _join(self, token: str, password: str, request_id: str) -> Joined | Refused:
        return invitations.accept_with_password(self._db, token, password, request_id=request_id)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _no_link() -> Response:
    return page(
        404,
        message_page(
            "This link does not work",
            "It was used already, is older than 48 hours, or was taken back.",
            "Whoever invited you can send another.",
        ),
    )
