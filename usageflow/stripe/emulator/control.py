"""The control endpoints under `/_emulator/` and the page at `/`: what a test asks and arranges.

They are ours, not Stripe's, and have no authentication: the emulator is for loopback. No key is
ever shown. `docs/stripe-emulator.md` documents each.
"""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from usageflow.stripe.emulator import customers, meters
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.endpoints import decoded, endpoint, refused
from usageflow.stripe.emulator.faults import Fault, Plan
from usageflow.stripe.emulator.journal import Entry
from usageflow.stripe.emulator.limits import Limits
from usageflow.stripe.emulator.page import rendered
from usageflow.stripe.emulator.rejections import Wish
from usageflow.stripe.emulator.replies import Reply
from usageflow.stripe.emulator.settings import Settings
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

JOURNAL_ROWS_MAX: Final = 10_000
"""Rows in one answer of the journal; ask again with `after`."""


class ClockChange(msgspec.Struct, forbid_unknown_fields=True):
    """Move the emulated clock: by `advance_s`, or to `now`."""

    advance_s: float = 0.0
    now: datetime | None = None


class SeedCustomer(msgspec.Struct, forbid_unknown_fields=True):
    """A customer to create."""

    metadata: dict[str, str] = {}
    name: str | None = None
    email: str | None = None


class SeedMeter(msgspec.Struct, forbid_unknown_fields=True):
    """A meter to create."""

    event_name: str
    formula: str = "sum"
    event_time_window: str | None = None


class Seed(msgspec.Struct, forbid_unknown_fields=True):
    """Objects to create in bulk, in the account of the request's headers."""

    customers: list[SeedCustomer] = []
    meters: list[SeedMeter] = []


def routes(world: World) -> list[Route]:
    """The control endpoints over `world`."""
    return [
        endpoint(world, "GET", "/", _page),
        endpoint(world, "GET", "/_emulator/state", _state),
        endpoint(world, "GET", "/_emulator/journal", _journal),
        endpoint(world, "POST", "/_emulator/clock", _clock),
        endpoint(world, "GET", "/_emulator/attempts", _attempts),
        endpoint(world, "POST", "/_emulator/faults", _faults),
        endpoint(world, "DELETE", "/_emulator/faults", _clear_faults),
        endpoint(world, "POST", "/_emulator/limits", _limits),
        endpoint(world, "POST", "/_emulator/settings", _settings),
        endpoint(world, "POST", "/_emulator/reject", _reject),
        endpoint(world, "POST", "/_emulator/reset", _reset),
        endpoint(world, "POST", "/_emulator/seed", _seed),
    ]


def _state(world: World, _request: Request, _body: bytes) -> Response:
    return JSONResponse(
        {
            "now": world.now().isoformat(),
            "accounts": [_account(account) for account in world.accounts.values()],
            "faults": msgspec.to_builtins(world.faults.shown()),
            "limits": msgspec.to_builtins(world.limits),
            "settings": msgspec.to_builtins(world.settings),
        }
    )


def _account(account: Account) -> dict[str, Any]:
    calls: dict[str, dict[str, int]] = {}
    for (route, status), number in sorted(account.calls.items()):
        calls.setdefault(route, {})[status] = number
    return {
        "id": account.object_id,
        "livemode": account.livemode,
        "customers": sum(not customer.deleted for customer in account.customers.values()),
        "meters": [
            {"id": meter.object_id, "event_name": meter.event_name, "formula": meter.formula}
            for meter in account.meters.values()
        ],
        "applied": [
            {
                "customer": customer,
                "metadata": account.customers[customer].metadata,
                "event_name": event_name,
                "value": format(value, "f"),
                "events": events,
            }
            for customer, event_name, value, events in account.totals()
        ],
        "rejected_later": dict(account.rejected_later),
        "limited": dict(account.limited),
        "calls": calls,
    }


def _journal(world: World, request: Request, _body: bytes) -> Response:
    """Entries after a sequence number: what counts now, or with `all` every one."""
    after = int(request.query_params.get("after", "0"))
    every = bool(request.query_params.get("all"))
    entries = world.journal[after : after + JOURNAL_ROWS_MAX]
    last = after + len(entries)
    shown = [entry for entry in entries if every or entry.counts]
    return JSONResponse(
        {
            "journal": [_row(world, entry) for entry in shown],
            "next": last,
            "has_more": len(world.journal) > last,
        }
    )


def _row(world: World, entry: Entry) -> dict[str, Any]:
    event = entry.event
    attempts = world.accounts[event.account, event.livemode].attempts
    return {
        "sequence": entry.sequence,
        "kind": entry.kind,
        "code": entry.code,
        "at": entry.at.isoformat(),
        "account": event.account,
        "livemode": event.livemode,
        "event_name": event.event_name,
        "identifier": event.identifier,
        "customer": event.customer,
        "value": event.value,
        "timestamp": event.timestamp,
        "attempts": attempts[event.identifier],
    }


def _attempts(world: World, request: Request, _body: bytes) -> Response:
    account = world.account(request.headers)
    if isinstance(account, Reply):
        return refused(account)
    identifier = request.query_params.get("identifier", "")
    return JSONResponse({"identifier": identifier, "attempts": account.attempts[identifier]})


def _clock(world: World, _request: Request, body: bytes) -> Response:
    change = decoded(body, ClockChange)
    if change.now is not None:
        if change.now.tzinfo is None:
            raise ValueError("`now` needs a time zone, such as 2026-11-21T09:00:00Z")
        world.shift += change.now - world.now()
    world.shift += timedelta(seconds=change.advance_s)
    return JSONResponse({"now": world.now().isoformat()})


def _faults(world: World, _request: Request, body: bytes) -> Response:
    given: list[Fault] | Plan = msgspec.json.decode(body, type=list[Fault] | Plan)
    if isinstance(given, Plan):
        world.faults.follow(given)
    else:
        for fault in given:
            world.faults.add(fault)
    return JSONResponse({"faults": msgspec.to_builtins(world.faults.shown())})


def _clear_faults(world: World, _request: Request, _body: bytes) -> Response:
    world.faults.clear()
    return JSONResponse({"faults": []})


def _limits(world: World, _request: Request, body: bytes) -> Response:
    """Change the limits that are given; the others stay."""
    changed = msgspec.to_builtins(world.limits) | decoded(body, dict[str, Any])
    world.limits = msgspec.convert(changed, Limits)
    return JSONResponse(msgspec.to_builtins(world.limits))


def _settings(world: World, _request: Request, body: bytes) -> Response:
    """Change the settings that are given; the others stay."""
    changed = msgspec.to_builtins(world.settings) | decoded(body, dict[str, Any])
    world.change(msgspec.convert(changed, Settings))
    return JSONResponse(msgspec.to_builtins(world.settings))


def _reject(world: World, request: Request, body: bytes) -> Response:
    """Reject an event that counts already, or the next that fit."""
    account = world.account(request.headers)
    if isinstance(account, Reply):
        return refused(account)
    wish = decoded(body, Wish)
    event = None if wish.identifier is None else account.received.get(wish.identifier)
    if event is not None and event.state == "applied":
        message = f"The event was rejected: {wish.code}."
        account.reject(event, wish.code, message, world.now())
    else:
        account.rejections.wishes.append(wish)
    return JSONResponse({"rejected_later": dict(account.rejected_later)})


def _reset(world: World, _request: Request, _body: bytes) -> Response:
    world.reset()
    return JSONResponse({"now": world.now().isoformat()})


def _seed(world: World, request: Request, body: bytes) -> Response:
    account = world.account(request.headers, connect=True)
    if isinstance(account, Reply):
        return refused(account)
    seed = decoded(body, Seed)
    replies = {
        "customers": [_create(world, account, item) for item in seed.customers],
        "meters": [_create(world, account, item) for item in seed.meters],
    }
    refusal = next((one for made in replies.values() for one in made if one.status >= 400), None)  # noqa: PLR2004 - HTTP
    if refusal is not None:
        return refused(refusal)
    ids = {noun: [one.body["id"] for one in made] for noun, made in replies.items()}
    return JSONResponse({"account": account.object_id, **ids})


def _create(world: World, account: Account, item: SeedCustomer | SeedMeter) -> Reply:
    given = {name: value for name, value in msgspec.to_builtins(item).items() if value is not None}
    if isinstance(item, SeedCustomer):
        return customers.create(account, Call("seed", "seed", {}, given), world.now())
    given["default_aggregation"] = {"formula": given.pop("formula")}
    given["display_name"] = item.event_name
    return meters.create(account, Call("seed", "seed", {}, given), world.now())


def _page(world: World, _request: Request, _body: bytes) -> Response:
    return HTMLResponse(rendered(world))
