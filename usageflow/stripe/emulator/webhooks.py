"""The control endpoints of events and deliveries: any event, how it is sent, what was sent."""

from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from usageflow.stripe.emulator.endpoints import decoded, endpoint, refused
from usageflow.stripe.emulator.post import Post
from usageflow.stripe.emulator.replies import Reply
from usageflow.stripe.emulator.world import World


class AnyEvent(msgspec.Struct, forbid_unknown_fields=True):
    """A snapshot event that a test makes up."""

    type: str
    object: dict[str, Any]
    previous_attributes: dict[str, Any] | None = None


def routes(world: World, post: Post) -> list[Route]:
    """The control endpoints over `world` and its `post`."""
    return [
        endpoint(world, "POST", "/_emulator/events", _events),
        endpoint(world, "POST", "/_emulator/webhooks", partial(_webhooks, post)),
        endpoint(world, "GET", "/_emulator/deliveries", partial(_deliveries, post)),
    ]


def _events(world: World, request: Request, body: bytes) -> Response:
    event = decoded(body, AnyEvent)
    account = world.account(request.headers)
    if isinstance(account, Reply):
        return refused(account)
    account.emit(event.type, event.object, world.now(), event.previous_attributes)
    return JSONResponse({"id": account.events_log[-1]["id"]})


def _webhooks(post: Post, _world: World, _request: Request, body: bytes) -> Response:
    given = decoded(body, dict[str, Any])
    post.arrange(flush=bool(given.pop("flush", False)), **given)
    return JSONResponse(msgspec.to_builtins(post.conduct))


def _deliveries(post: Post, _world: World, _request: Request, _body: bytes) -> Response:
    return JSONResponse({"attempts": list(post.log), "waiting": post.waiting})
