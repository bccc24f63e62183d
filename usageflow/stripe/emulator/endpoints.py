"""One control endpoint: the body decoded strictly, what is wrong with it answered as a 400.

Every module that a test can steer builds its endpoints with this; which there are is its business.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from usageflow.stripe.emulator.replies import Reply, invalid
from usageflow.stripe.emulator.world import World

T = TypeVar("T")
Act = Callable[[World, Request, bytes], Response]


def endpoint(world: World, method: str, path: str, act: Act) -> Route:
    """`METHOD path`, served by `act` with the request's body; its ValueErrors become a 400.

    Afterwards the error reports that are due are emitted: time may have moved.
    """

    async def serve(request: Request) -> Response:
        try:
            response = act(world, request, await request.body())
        except (msgspec.MsgspecError, ValueError) as problem:
            return refused(invalid(str(problem)))
        for account in world.accounts.values():
            world.report(account)
        return response

    return Route(path, serve, methods=[method])


def decoded(body: bytes, shape: type[T]) -> T:
    """The body as `shape`. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(body, type=shape)


def refused(reply: Reply) -> Response:
    """The refusal as it leaves."""
    return JSONResponse(reply.body, reply.status)
