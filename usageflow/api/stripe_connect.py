"""Connecting a Stripe account in the browser: to Stripe with a link's ticket, and back with a code.

A few sentences as HTML; no scripts, nothing loaded, nothing stored. To open the link changes
nothing, since scanners of mail open links, too: its button does. What may be connected to whom is
decided in `usageflow.stripe`.
"""

import logging
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from usageflow.api.signup import foreign
from usageflow.api.signup_page import STYLE_SOURCE, message_page
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.errors import ConfigurationError, DatabaseError, DeliveryError
from usageflow.stripe import connect
from usageflow.stripe.access import platform_key
from usageflow.stripe.accounts import Refused

COOKIE: Final = "usageflow_connect"
COOKIE_PATH: Final = "/stripe"
TOLD_CHARS_MAX: Final = 200
"""How much of Stripe's words for an error is shown."""
ANEW: Final = "Run `usageflow stripe connect` where the server runs; it prints a new link."
_POLICY: Final = (
    f"default-src 'none'; style-src {STYLE_SOURCE}; base-uri 'none'; frame-ancestors 'none'; "
    "form-action "
)
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": f"{_POLICY}'none'",
    "referrer-policy": "no-referrer",  # ticket, state and code are in addresses
    "x-content-type-options": "nosniff",
}

logger = logging.getLogger("usageflow.api")


class StripeConnectPages:
    """The two addresses over one database. Without a client id they say that there is nothing."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings

    def routes(self) -> list[Route]:
        """Both with their paths. Who only looks (HEAD) at the way back must not use it up."""
        back = Route(connect.CALLBACK_PATH, self.finish, methods=["GET"])
        back.methods = {"GET"}
        return [
            Route(connect.BEGIN_PATH, self.offer, methods=["GET"]),
            Route(connect.BEGIN_PATH, self.begin, methods=["POST"]),
            back,
        ]

    def offer(self, request: Request) -> Response:
        """Say what the link is for, with a button that uses it up."""
        if refused := self._refused():
            return refused
        organization = connect.offered(self._db, request.query_params.get("ticket", ""))
        if organization is None:
            return _no_link()
        page = message_page(
            f"Connect your Stripe account to {organization}",
            "Stripe asks you to log in and to choose an account. From then on the usage of "
            f"{organization} is sent to it.",
            button="Continue to Stripe",
        )
        return HTMLResponse(page, headers={**_HEADERS, "content-security-policy": self._policy()})

    def begin(self, request: Request) -> Response:
        """Send the owner to Stripe, with a state that only this browser can bring back."""
        if refused := self._refused():
            return refused
        if foreign(request.headers):
            why = "Open the link again, and continue from there."
            return _page(403, "This came from another site", why)
        begun = connect.begin(self._db, request.query_params.get("ticket", ""))
        if begun is None:
            return _no_link()
        response = RedirectResponse(
            connect.authorize_url(self._settings, begun.state), status_code=303, headers=_HEADERS
        )
        bind(response, begun, self._settings)
        return response

    def finish(self, request: Request) -> Response:
        """What Stripe sends the owner back with. A code is exchanged once or not at all."""
        asked = request.query_params
        organization_id = connect.claim(
            self._db, asked.get("state", ""), request.cookies.get(COOKIE, "")
        )
        if organization_id is None:
            return _page(
                400,
                "Nothing was connected",
                "Within the last 10 minutes no connection was begun in this browser that this "
                "could be the end of. Perhaps this page was loaded twice.",
                ANEW,
            )
        if "code" not in asked:
            return _denied(asked.get("error", ""), asked.get("error_description", ""))
        return self._connected(organization_id, asked["code"])

    def _refused(self) -> Response | None:
        """The answer if there is no platform."""
        try:
            platform_key(self._settings)
        except ConfigurationError as error:
            return _page(404, "Accounts cannot be connected here", _sentence(str(error)))
        return None

    def _policy(self) -> str:
        """Browsers hold every redirect that follows a form to this, those of Stripe, too."""
        base = urlsplit(self._settings.stripe_api_base or "")
        other = f" {base.scheme}://{base.netloc}" if base.netloc else ""
        return f"{_POLICY}'self' https:{other}"

    def _connected(self, organization_id: str, code: str) -> Response:
        try:
            account = connect.complete(self._db, self._settings, organization_id, code)
        except DatabaseError as error:
            logger.warning("a Stripe account is connected and could not be noted: %s", error)
            return _page(
                503,
                "Your account was not connected",
                "Stripe has agreed, but it could not be noted here: the database does not answer. "
                "No usage is sent to it. Connect it once more in a while; a second time does no "
                "harm.",
                ANEW,
            )
        except DeliveryError as error:
            logger.warning("a Stripe account was perhaps not connected: %s", error)
            return _page(
                502,
                "Stripe did not confirm the connection",
                str(error)[:TOLD_CHARS_MAX],
                "Perhaps your account is connected all the same. Connect it once more; a second "
                "time does no harm.",
                ANEW,
            )
        if isinstance(account, Refused):
            logger.warning("a Stripe account was not connected: %s", account.reason)
            return _page(
                409,
                "Your account was not connected",
                _sentence(account.reason),
                "No usage is sent to it. Its settings at Stripe list UsageFlow among the connected "
                "platforms, where you can remove it.",
            )
        logger.info("Stripe account %s is connected", account)
        return _page(
            200,
            "Your account is connected",
            f"From now on usage is sent to {account}. You can close this page.",
        )


def bind(response: Response, begun: connect.Begun, settings: Settings) -> None:
    """Let the browser that gets this response, and no other, end the connection."""
    response.set_cookie(
        COOKIE,
        begun.session,
        max_age=int(connect.STATE_LIFE.total_seconds()),
        path=COOKIE_PATH,
        secure=connect.public_url(settings).startswith("https://"),
        httponly=True,
        samesite="lax",  # it must come along when Stripe sends the owner back
    )


def _no_link() -> Response:
    why = "It was used already, or is older than 15 minutes."
    return _page(404, "This link does not work", why, ANEW)


def _denied(error: str, description: str) -> Response:
    if error == "access_denied":
        what = "You told Stripe not to connect it. Nothing was changed."
    else:
        what = f"Stripe says: {description or error or 'nothing'}"[:TOLD_CHARS_MAX]
    return _page(400, "Your account was not connected", what, ANEW)


def _sentence(reason: str) -> str:
    """As a sentence; the name of an account is not spelt otherwise."""
    return f"{reason if reason.startswith('acct_') else reason[0].upper() + reason[1:]}."


def _page(status: int, title: str, *sentences: str) -> Response:
    response = HTMLResponse(message_page(title, *sentences), status, _HEADERS)
    response.delete_cookie(COOKIE, path=COOKIE_PATH)
    return response
