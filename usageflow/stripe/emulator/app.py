"""The emulator as a Starlette app: every request is authenticated, checked against the contract,
protected by its idempotency key, struck by a fault if one is due, and answered by its handler.

This is the shell; what an operation does is in the module of its noun. One event loop serves it:
a handler runs without interruption, so its state needs no locks.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from usageflow.stripe.emulator import (
    control,
    customers,
    idempotency,
    meter_events,
    meters,
    summaries,
)
from usageflow.stripe.emulator.connections import ConnectionReset
from usageflow.stripe.emulator.contract import Call, stripe_contract
from usageflow.stripe.emulator.faults import Fault
from usageflow.stripe.emulator.replies import Reply, error
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

Handler = Callable[[Account, Call, datetime], Reply]

HANDLERS: Final[dict[str, Handler]] = {
    "PostV1Customers": customers.create,
    "GetV1Customers": customers.list_all,
    "GetV1CustomersSearch": customers.search,
    "GetV1CustomersCustomer": customers.retrieve,
    "PostV1CustomersCustomer": customers.update,
    "DeleteV1CustomersCustomer": customers.delete,
    "PostBillingMeters": meters.create,
    "GetBillingMeters": meters.list_all,
    "GetBillingMetersId": meters.retrieve,
    "PostBillingMetersId": meters.rename,
    "PostBillingMetersIdDeactivate": meters.deactivate,
    "PostBillingMetersIdReactivate": meters.reactivate,
    "GetBillingMetersIdEventSummaries": summaries.list_all,
    "PostBillingMeterEvents": meter_events.create,
}
"""The operations that are emulated, by their name in the API description."""

SEARCH_LAG_S: Final = 1.0
"""How far search is behind by default; Stripe promises less than a minute."""
CUSTOMER_KEY: Final = "stripe_customer_id"


def create_emulator(
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    search_lag_s: float = SEARCH_LAG_S,
    latency_s: float = 0.0,
) -> Starlette:
    """The emulator, empty. `latency_s` is how long every call to the API takes at least."""
    world = World(clock, search_lag_s=search_lag_s)

    async def stripe(request: Request) -> Response:
        return _response(world, await _answer(world, request, latency_s))

    methods = ["GET", "POST", "DELETE", "PUT", "PATCH"]
    return Starlette(
        routes=[*control.routes(world), Route("/{path:path}", stripe, methods=methods)]
    )


def _response(world: World, reply: Reply | None) -> Response:
    if reply is None:
        return ConnectionReset()
    headers = {"Request-Id": f"req_{next(world.request_numbers):014d}", **reply.headers}
    return JSONResponse(reply.body, reply.status, headers)


async def _answer(world: World, request: Request, latency_s: float) -> Reply | None:
    """The reply, counted; None means that the connection is to break."""
    account = world.account(request.headers)
    if isinstance(account, Reply):
        return account
    url = request.url
    call = stripe_contract().check(request.method, url.path, url.query, await request.body())
    if isinstance(call, Reply):
        account.calls["refused", str(call.status)] += 1
        return call
    reply = await _guarded(world, account, call, request, latency_s)
    account.calls[call.route, "reset" if reply is None else str(reply.status)] += 1
    return reply


async def _guarded(
    world: World, account: Account, call: Call, request: Request, latency_s: float
) -> Reply | None:
    """One valid call under its idempotency key, if it has one; GET and DELETE need none."""
    if call.operation not in HANDLERS:
        return error(501, f"The emulator does not emulate {call.route} yet.", kind="api_error")
    fault = world.faults.take(request.method, request.url.path)
    key = request.headers.get("idempotency-key") if request.method == "POST" else None
    if key is None:
        reply = await _performed(world, account, call, fault, latency_s)
    else:
        content = b"\n".join([call.route.encode(), request.url.path.encode(), await request.body()])
        fingerprint = hashlib.sha256(content).hexdigest()
        earlier = idempotency.begin(account, key, fingerprint, world.now())
        if earlier is not None:
            return earlier
        reply = await _performed(world, account, call, fault, latency_s)
        idempotency.finish(account, key, reply)
    return None if fault is not None and fault.kind == "reset" else reply


async def _performed(
    world: World, account: Account, call: Call, fault: Fault | None, latency_s: float
) -> Reply | None:
    """What the call did; None if a reset came before it did anything."""
    with _lane(account, call) as free:
        if not free:
            message = "This customer and meter are in use by another request. Try again."
            return error(429, message, code="lock_timeout", headers={"Stripe-Should-Retry": "true"})
        if fault is not None and fault.kind == "slow":
            latency_s += fault.seconds
        await asyncio.sleep(latency_s)
        early = fault is not None and fault.kind != "slow" and not fault.after_commit
        reply = None if early else HANDLERS[call.operation](account, call, world.now())
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
