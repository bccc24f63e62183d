"""How payments of invoices end: they succeed, until a test asks for some to be declined.

There are no cards and no money here.
"""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from usageflow.stripe.emulator.endpoints import decoded, endpoint, refused
from usageflow.stripe.emulator.replies import Reply
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

_DECLINES: Final = "declines"
_LEFT: Final = "left"


class Declines(msgspec.Struct, forbid_unknown_fields=True):
    """Decline the next `decline` payments in the account of the request's headers."""

    decline: Annotated[int, msgspec.Meta(ge=0)]


def routes(world: World) -> list[Route]:
    """The control endpoint of payments."""
    return [endpoint(world, "POST", "/_emulator/payments", _payments)]


def declined(account: Account) -> bool:
    """Whether the payment that is tried now fails."""
    left: int = account.objects[_DECLINES].get(_LEFT, 0)
    account.objects[_DECLINES][_LEFT] = max(left - 1, 0)
    return left > 0


def _payments(world: World, request: Request, body: bytes) -> Response:
    declines = decoded(body, Declines)
    account = world.account(request.headers)
    if isinstance(account, Reply):
        return refused(account)
    account.objects[_DECLINES][_LEFT] = declines.decline
    return JSONResponse(msgspec.to_builtins(declines))
