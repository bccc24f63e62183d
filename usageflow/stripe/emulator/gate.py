"""The way of one call to Stripe's API: its account, its rate limits, the contract, its idempotency
key, a fault if one is due, its lane, and at last its handler.

This is the shell; what an operation does is in the module of its noun. One event loop serves it:
a handler runs without interruption, so its state needs no locks.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from usageflow.stripe.emulator import idempotency, limits, meter_event_stream, meter_events
from usageflow.stripe.emulator.connections import ConnectionReset
from usageflow.stripe.emulator.contract import Call, Target, stripe_contract
from usageflow.stripe.emulator.faults import Fault
from usageflow.stripe.emulator.replies import Reply, error
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

Handler = Callable[[Account, Call, datetime], Reply]

_LOCKED: Final = "This customer and meter are in use by another request. Try again."
_CONCURRENT: Final = (
    "Cannot create multiple usage events for the same customer, meter concurrently."
)


@dataclass(frozen=True, slots=True)
class Gate:
    """Stripe's API over one world. None in place of a reply means that the connection breaks."""

    world: World
    handlers: dict[str, Handler]

    async def respond(self, request: Request) -> Response:
        """The response to one call, with its `Request-Id` and the emulated time as its `Date`."""
        reply = await self._answer(request)
        if reply is None:
            return ConnectionReset()
        headers = {
            "Request-Id": f"req_{next(self.world.request_numbers):014d}",
            "Date": format_datetime(self.world.now(), usegmt=True),
            **reply.headers,
        }
        return JSONResponse(reply.body, reply.status, headers)

    async def _answer(self, request: Request) -> Reply | None:
        """The reply of the account that is meant, which emits its reports that are due."""
        if request.url.path == meter_event_stream.PATH:
            authorization = request.headers.get("authorization", "")
            account = meter_event_stream.streaming(self.world, authorization)
        else:
            account = self.world.account(request.headers)
        if isinstance(account, Reply):
            return account
        self.world.report(account)
        reply = await self._counted(account, request)
        self.world.report(account)
        return reply

    async def _counted(self, account: Account, request: Request) -> Reply | None:
        """The reply, counted by its route and by the meter events it names."""
        target = stripe_contract().find(request.method, request.url.path)
        if isinstance(target, Reply):
            account.calls["refused", "404"] += 1
            return target
        call = await self._read(account, target, request)
        if isinstance(call, Reply):
            limited = call.status == HTTPStatus.TOO_MANY_REQUESTS
            route = target.operation.route if limited else "refused"
            account.calls[route, str(call.status)] += 1
            return call
        account.attempts.update(meter_event_stream.identifiers(call))
        reply = await self._guarded(account, call, request)
        account.calls[call.route, "reset" if reply is None else str(reply.status)] += 1
        return reply

    async def _read(self, account: Account, target: Target, request: Request) -> Call | Reply:
        """The call, if it may be made now. One too many is refused before it is read, but for the
        stream's, whose events are counted.
        """
        streams = target.operation.name == limits.STREAM
        limited = None if streams else self._limited(account, target, request)
        refusal = limited or target.refused(request.headers)
        if refusal is not None:
            return refusal
        call = target.read(request.url.query, await request.body())
        if streams and isinstance(call, Call):
            return self._limited(account, target, request, len(call.params["events"])) or call
        return call

    def _limited(
        self, account: Account, target: Target, request: Request, events: int = 1
    ) -> Reply | None:
        """The 429 of a call beyond the account's rate limits."""
        rates = self.world.limits
        if not rates.enforce:
            return None
        claims = limits.claims(
            rates,
            target.operation.name,
            livemode=account.livemode,
            connected=not {"stripe-account", "stripe-context"}.isdisjoint(request.headers),
            events=events,
        )
        empty = account.budget.spend(claims, time.monotonic())
        if empty is None:
            return None
        account.limited[empty.bucket] += 1
        return limits.refusal(empty)

    async def _guarded(self, account: Account, call: Call, request: Request) -> Reply | None:
        """One valid call under its idempotency key, if it has one; GET and DELETE need none."""
        if call.operation not in self.handlers:
            return error(501, f"The emulator does not emulate {call.route} yet.", kind="api_error")
        path = request.url.path
        fault = self.world.faults.take(request.method, path)
        text = request.headers.get("idempotency-key") if request.method == "POST" else None
        if text is None:
            reply = await self._performed(account, call, fault)
        else:
            key = call.version, text
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
        with _lane(account, call) as busy:
            if busy is not None:
                return busy
            after = fault is not None and fault.after_commit
            slow_s = fault.seconds if fault is not None and fault.kind == "slow" else 0.0
            await asyncio.sleep(self.world.settings.latency_s + (0.0 if after else slow_s))
            early = fault is not None and fault.kind != "slow" and not after
            handler = self.handlers[call.operation]
            reply = None if early else handler(account, call, self.world.now())
            if after and slow_s:
                await asyncio.sleep(slow_s)
            return fault.reply() if fault is not None and fault.kind == "status" else reply


@contextmanager
def _lane(account: Account, call: Call) -> Iterator[Reply | None]:
    """Stripe takes one meter event per customer and meter at a time; the refusal of a second."""
    if call.operation not in limits.METER_EVENTS:
        yield None
        return
    lane = meter_events.lane(account, call.params)
    if lane in account.in_flight:
        yield _busy(call)
        return
    account.in_flight.add(lane)
    try:
        yield None
    finally:
        account.in_flight.discard(lane)


def _busy(call: Call) -> Reply:
    if call.version == "v2":
        return error(409, _CONCURRENT, code="too_many_concurrent_requests")
    headers = {"Stripe-Should-Retry": "true"}
    return error(429, _LOCKED, code="lock_timeout", headers=headers)
