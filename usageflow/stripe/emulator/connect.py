"""Connect OAuth over HTTP: the page where an owner consents, the token and the end of it.

What a code is worth is decided in `authorizations`. A decision can be given with the address, so
that a test needs no browser. Idempotency keys are not looked at: Stripe does not either.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from usageflow.stripe.emulator.authorizations import SCOPES, Authorizations, Refused
from usageflow.stripe.emulator.connections import ConnectionReset
from usageflow.stripe.emulator.consent_page import consent_page
from usageflow.stripe.emulator.endpoints import decoded, endpoint, refused
from usageflow.stripe.emulator.replies import Reply
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

DECISION: Final = "_emulator_decision"
_CLIENT: Final = re.compile(r"ca_\w+\Z", re.ASCII)
_CONSENT: Final = re.compile(r"connect:(acct_\w+)\Z", re.ASCII)


class Deauthorization(msgspec.Struct, forbid_unknown_fields=True):
    """The owner of `account` ends its connection to the platform of the request's key."""

    account: str


def routes(world: World) -> list[Route]:
    """The OAuth endpoints, and the owner's way out."""
    desk = _Desk(world)
    return [
        endpoint(world, "GET", "/oauth/authorize", desk.authorize),
        endpoint(world, "POST", "/oauth/authorize", desk.decide),
        _struck(world, endpoint(world, "POST", "/oauth/token", desk.token)),
        _struck(world, endpoint(world, "POST", "/oauth/deauthorize", desk.deauthorize)),
        endpoint(world, "POST", "/_emulator/deauthorize", desk.leave),
    ]


class _Desk:
    """The endpoints over the authorizations of one world."""

    def __init__(self, world: World) -> None:
        self._authorizations = Authorizations(world)

    def authorize(self, _world: World, request: Request, _body: bytes) -> Response:
        """`GET /oauth/authorize`: the page, or with a decision where it leads."""
        asked = dict(request.query_params)
        refusal = _refusal(asked)
        if refusal is not None:
            return _answer(refusal)
        if DECISION in asked:
            return self._decided(asked)
        return HTMLResponse(consent_page(asked))

    def decide(self, _world: World, _request: Request, body: bytes) -> Response:
        """`POST /oauth/authorize`: what the owner decided on the page."""
        asked = _form(body)
        connect = asked.get("decision") == "connect"
        asked[DECISION] = f"connect:{asked.get('account')}" if connect else "deny"
        refusal = _refusal(asked)
        return _answer(refusal) if refusal is not None else self._decided(asked)

    def _decided(self, asked: Mapping[str, str]) -> Response:
        target = asked["redirect_uri"]
        consent = _CONSENT.match(asked[DECISION])
        if consent is not None:
            scope = asked.get("scope", SCOPES[0])
            code = self._authorizations.issue(asked["client_id"], consent[1], scope, target)
            told = {"scope": scope, "code": code.text}
        elif asked[DECISION] == "deny":
            told = {"error": "access_denied", "error_description": "The user denied your request"}
        else:
            raise ValueError(f"{DECISION} is `connect:acct_...` or `deny`")
        if "state" in asked:
            told["state"] = asked["state"]
        joint = "&" if urlsplit(target).query else "?"
        return RedirectResponse(f"{target}{joint}{urlencode(told)}", status_code=302)

    def token(self, world: World, request: Request, body: bytes) -> Response:
        """`POST /oauth/token`: an authorization code for a connection."""
        asked = _form(body)
        platform = _platform(world, request, asked)
        if isinstance(platform, Reply):
            return refused(platform)
        if asked.get("grant_type") != "authorization_code":
            return _answer(Refused("unsupported_grant_type", "Only authorization_code is known."))
        if "code" not in asked:
            return _answer(Refused("invalid_request", "No authorization code provided."))
        code = self._authorizations.exchange(platform, asked["code"], asked.get("redirect_uri"))
        if isinstance(code, Refused):
            return _answer(code)
        mode = "live" if platform.livemode else "test"
        return JSONResponse(
            {
                "stripe_user_id": code.account_id,
                "scope": code.scope,
                "livemode": platform.livemode,
                "token_type": "bearer",
                # Deprecated at Stripe. These are no keys here: a call with one is refused.
                "access_token": f"sk_{mode}_emulated.{code.text}",
                "refresh_token": f"rt_emulated.{code.text}",
                "stripe_publishable_key": f"pk_{mode}_emulated.{code.text}",
            }
        )

    def deauthorize(self, world: World, request: Request, body: bytes) -> Response:
        """`POST /oauth/deauthorize`: the platform ends a connection."""
        asked = _form(body)
        platform = _platform(world, request, asked)
        if isinstance(platform, Reply):
            return refused(platform)
        missing = [name for name in ("client_id", "stripe_user_id") if name not in asked]
        if missing:
            return _answer(Refused("invalid_request", f"Missing: {', '.join(missing)}"))
        account = asked["stripe_user_id"]
        if self._authorizations.client_of(platform, account) != asked["client_id"]:
            message = f"This application is not connected to stripe account {account}."
            return _answer(Refused("invalid_client", message))
        self._authorizations.disconnect(platform, account)
        return JSONResponse({"stripe_user_id": account})

    def leave(self, world: World, request: Request, body: bytes) -> Response:
        """`POST /_emulator/deauthorize`: the account's owner ends a connection."""
        account = decoded(body, Deauthorization).account
        platform = _platform(world, request, {})
        if isinstance(platform, Reply):
            return refused(platform)
        if not self._authorizations.disconnect(platform, account):
            raise ValueError(f"{account} is not connected to this platform")
        return JSONResponse({"stripe_user_id": account})


def _struck(world: World, route: Route) -> Route:
    """The same endpoint, struck by the faults that are due, as the API is."""

    async def serve(request: Request) -> Response:
        fault = world.faults.take("POST", route.path)
        if fault is None:
            return cast("Response", await route.endpoint(request))
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            return cast("Response", await route.endpoint(request))
        if fault.after_commit:
            await route.endpoint(request)
        return ConnectionReset() if fault.kind == "reset" else refused(fault.reply())

    return Route(route.path, serve, methods=["POST"])


def _form(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


def _platform(world: World, request: Request, asked: Mapping[str, str]) -> Account | Reply:
    """Whose key this is: a bearer's, or sent as `client_secret`."""
    bearer = f"Bearer {asked.get('client_secret', '')}"
    return world.account({"authorization": request.headers.get("authorization", bearer)})


def _refusal(asked: Mapping[str, str]) -> Refused | None:
    """What is wrong with the address of the page; shown to the person, never redirected."""
    if asked.get("response_type") != "code":
        return Refused("unsupported_response_type", "`response_type` must be `code`.")
    if not _CLIENT.match(asked.get("client_id", "")):
        message = "No application matches the supplied client identifier."
        return Refused("invalid_request", message)
    if asked.get("scope", SCOPES[0]) not in SCOPES:
        return Refused("invalid_scope", f"`scope` is one of {', '.join(SCOPES)}.")
    if urlsplit(asked.get("redirect_uri", "")).scheme not in ("http", "https"):
        return Refused("invalid_request", "Invalid redirect URI.")
    return None


def _answer(refusal: Refused) -> Response:
    body = {"error": refusal.name, "error_description": refusal.description}
    return JSONResponse(body, 401 if refusal.name == "invalid_client" else 400)
