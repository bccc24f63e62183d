"""The emulator as a Starlette app: every request is authenticated, checked against the contract,
protected by its idempotency key, struck by a fault if one is due, and answered by its handler.

This is the shell; what an operation does is in the module of its noun. One event loop serves it:
a handler runs without interruption, so its state needs no locks.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from usageflow.stripe.emulator import (
    control,
    customers,
    event_destinations,
    idempotency,
    meter_events,
    meters,
    snapshots,
    summaries,
    webhook_endpoints,
    webhooks,
)
from usageflow.stripe.emulator.connections import ConnectionReset
from usageflow.stripe.emulator.contract import Call, stripe_contract
from usageflow.stripe.emulator.faults import Fault
from usageflow.stripe.emulator.post import Post
from usageflow.stripe.emulator.replies import Reply, error
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

Handler = Callable[[Account, Call, datetime], Reply]

SEARCH_LAG_S: Final = 1.0
"""How far search is behind by default; Stripe promises less than a minute."""
CUSTOMER_KEY: Final = "stripe_customer_id"


def create_emulator(
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    search_lag_s: float = SEARCH_LAG_S,
    latency_s: float = 0.0,
    allow_remote_webhooks: bool = False,
) -> Starlette:
    """The emulator, empty. `latency_s` is how long every call to the API takes at least.

    Webhooks go to this machine only, unless `allow_remote_webhooks`.
    """
    world = World(clock, search_lag_s=search_lag_s)
    post = Post(world, allow_remote=allow_remote_webhooks)
    api = _Api(world, _handlers(world), latency_s)
    methods = ["GET", "POST", "DELETE", "PUT", "PATCH"]
    return Starlette(
        routes=[
            *control.routes(world),
            *webhooks.routes(world, post),
            Route("/{path:path}", api.respond, methods=methods),
        ]
    )


def _handlers(_world: World) -> dict[str, Handler]:
    """The operations that are emulated, by their name in the API description."""
    return {
        **customers.HANDLERS,
        **meters.HANDLERS,
        **meter_events.HANDLERS,
        **summaries.HANDLERS,
        **snapshots.HANDLERS,
        **webhook_endpoints.HANDLERS,
        **event_destinations.HANDLERS,
    }


@dataclass(frozen=True, slots=True)
class _Api:
    """Stripe's API over one world. None in place of a reply means that the connection breaks."""

    world: World
    handlers: dict[str, Handler]
    latency_s: float

    async def respond(self, request: Request) -> Response:
        """The response to one call, with its `Request-Id`."""
        reply = await self._answer(request)
        if reply is None:
            return ConnectionReset()
        headers = {"Request-Id": f"req_{next(self.world.request_numbers):014d}", **reply.headers}
        return JSONResponse(reply.body, reply.status, headers)

    async def _answer(self, request: Request) -> Reply | None:
        """The reply, counted."""
        account = self.world.account(request.headers)
        if isinstance(account, Reply):
            return account
        url = request.url
        call = stripe_contract().check(request.method, url.path, url.query, await request.body())
        if isinstance(call, Reply):
            account.calls["refused", str(call.status)] += 1
            return call
        reply = await self._guarded(account, call, request)
        account.calls[call.route, "reset" if reply is None else str(reply.status)] += 1
        return reply

    async def _guarded(self, account: Account, call: Call, request: Request) -> Reply | None:
        """One valid call under its idempotency key, if it has one; GET and DELETE need none."""
        if call.operation not in self.handlers:
            return error(501, f"The emulator does not emulate {call.route} yet.", kind="api_error")
        path = request.url.path
        fault = self.world.faults.take(request.method, path)
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        if key is None:
            reply = await self._performed(account, call, fault)
        else:
            content = b"\n".join([call.route.encode(), path.encode(), await request.body()])
            fingerprint = hashlib.sha256(content).hexdigest()
            earlier = idempotency.begin(account, key, fingerprint, self.world.now())
            if earlier is not None:
                return earlier
            reply = await self._performed(account, call, fault)
            idempotency.finish(account, key, reply)
        return None if fault is not None and fault.kind == "reset" else reply

    async def _performed(self, account: Account, call: Call, fault: Fault | None) -> Reply | None:
        """What the call did; None if a reset came before it did anything."""
        with _lane(account, call) as free:
            if not free:
                message = "This customer and meter are in use by another request. Try again."
                headers = {"Stripe-Should-Retry": "true"}
                return error(429, message, code="lock_timeout", headers=headers)
            slow_s = fault.seconds if fault is not None and fault.kind == "slow" else 0.0
            await asyncio.sleep(self.latency_s + slow_s)
            early = fault is not None and fault.kind != "slow" and not fault.after_commit
            handler = self.handlers[call.operation]
            reply = None if early else handler(account, call, self.world.now())
            return fault.reply() if fault is not None and fault.kind == "status" else reply


@contextmanager
def _lane(account: Account, call: Call) -> Iterator[bool]:
    """Whether the call may run: Stripe takes one meter event per customer and meter at a time."""
    if call.operation != "PostBillingMeterEvents":
        yield True
        return
    lane = (call.params["payload"].get(CUSTOMER_KEY, ""), call.params["event_name"])
    if lane in account.in_flight:
        yield False
        return
    account.in_flight.add(lane)
    try:
        yield True
    finally:
        account.in_flight.discard(lane)
