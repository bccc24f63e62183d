"""Signing in over HTTP: the cookies of a session, and who may try how often.

Cookies are for browsers of the same site alone (`SameSite=Lax`), out of reach of scripts, and go
over TLS only where the server is reached by it. What a session is, is `catalog.sessions`.
"""

import time
from collections.abc import Iterator
from typing import Annotated, Final, NoReturn

from fastapi import Depends, Request, Response

from usageflow.api.access import ACCESS_COOKIE, Rest, unauthorized
from usageflow.api.attempts import Attempts
from usageflow.api.rest import V1
from usageflow.api.signup import foreign
from usageflow.catalog import sessions
from usageflow.catalog.people import normalised
from usageflow.catalog.sessions import Tokens
from usageflow.db.session import Tx
from usageflow.errors import RequestRefused

REFRESH_COOKIE: Final = "refresh_token"
REFRESH_PATH: Final = f"{V1}/auth"
"""The refresh token goes where it is used, and nowhere else."""
EMAIL_ATTEMPTS_MAX: Final = 10
EMAIL_ATTEMPTS_S: Final = 900.0
"""Wrong passwords for one e-mail address: a thousand a day, among 2^60 of the weakest there are."""
ADDRESS_ATTEMPTS_MAX: Final = 100
ADDRESS_ATTEMPTS_S: Final = 60.0
"""Attempts in vain from one network address, which a whole office may have."""


class Guard:
    """Lets those wait who try in vain too often, by network address and by e-mail address."""

    def __init__(self) -> None:
        self._addresses = Attempts(ADDRESS_ATTEMPTS_MAX, ADDRESS_ATTEMPTS_S)
        self._emails = Attempts(EMAIL_ATTEMPTS_MAX, EMAIL_ATTEMPTS_S)

    def admit(self, request: Request, email: str | None = None) -> None:
        """Raises RequestRefused (429) if there were too many attempts in vain."""
        now = time.monotonic()
        for attempts, name in self._of(request, email):
            if attempts.exhausted(name, now):
                headers = {"retry-after": f"{attempts.window_s:.0f}"}
                message = "too many attempts; wait, then try again"
                raise RequestRefused(429, "rate_limited", message, headers=headers)

    def failed(self, request: Request, email: str | None = None) -> None:
        """Count an attempt in vain."""
        for attempts, name in self._of(request, email):
            attempts.failed(name)

    def _of(self, request: Request, email: str | None) -> Iterator[tuple[Attempts, str]]:
        yield self._addresses, _address(request)
        if email is not None:
            yield self._emails, normalised(email)


async def _guard(request: Request) -> Guard:
    """The guard of the app that serves this request, made when it is first needed."""
    state = request.app.state
    if not hasattr(state, "guard"):
        state.guard = Guard()
    guard: Guard = state.guard
    return guard


def _same_site(request: Request) -> None:
    if foreign(request.headers):
        message = "the request came from another site"
        raise RequestRefused(403, "cross_site_request", message)


GuardDep = Annotated[Guard, Depends(_guard)]
SAME_SITE: Final = Depends(_same_site)
"""For routes without another door: a form on another site signs nobody in or out."""


def begin(tx: Tx, request: Request, person_id: str, organization_id: str) -> Tokens:
    """A session, in place of the one that the request's cookies are of."""
    sessions.revoke_presented(tx, *tokens_of(request))
    return sessions.begin(
        tx,
        person_id,
        organization_id,
        address=_address(request),
        user_agent=request.headers.get("user-agent", ""),
    )


def tokens_of(request: Request) -> list[str]:
    """The tokens among the cookies of a request."""
    names = (ACCESS_COOKIE, REFRESH_COOKIE)
    return [token for name in names if (token := request.cookies.get(name))]


def keep(response: Response, tokens: Tokens, request: Request, rest: Rest) -> Response:
    """The response, with the cookies of a session."""
    by_tls = request.url.scheme == "https" or (rest.settings.public_url or "").startswith("https:")
    for name, token, life, path in (
        (ACCESS_COOKIE, tokens.access_token, tokens.access_life, "/"),
        (REFRESH_COOKIE, tokens.refresh_token, tokens.refresh_life, REFRESH_PATH),
    ):
        response.set_cookie(
            name,
            token,
            max_age=int(life.total_seconds()),
            path=path,
            secure=by_tls,
            httponly=True,
            samesite="lax",
        )
    return response


def forget(response: Response) -> Response:
    """The response, which takes the cookies away."""
    response.delete_cookie(ACCESS_COOKIE, path="/", httponly=True, samesite="lax")
    response.delete_cookie(REFRESH_COOKIE, path=REFRESH_PATH, httponly=True, samesite="lax")
    return response


def wrong_password() -> NoReturn:
    """One answer, whether there is such an account or not."""
    raise unauthorized("invalid_credentials", "the e-mail address or the password is wrong")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
