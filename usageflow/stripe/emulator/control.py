"""The control endpoints under `/_emulator/` and the page at `/`: what a test asks and arranges.

They are ours, not Stripe's, and have no authentication: the emulator is for loopback. No key is
ever shown. `docs/stripe-emulator.md` documents each.
"""

from datetime import datetime, timedelta
from html import escape
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from usageflow.stripe.emulator import customers, meters
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.endpoints import decoded, endpoint, refused
from usageflow.stripe.emulator.faults import Fault
from usageflow.stripe.emulator.page import PAGE, SECTION
from usageflow.stripe.emulator.replies import Reply
from usageflow.stripe.emulator.state import Account, Applied
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
        endpoint(world, "POST", "/_emulator/faults", _faults),
        endpoint(world, "POST", "/_emulator/reset", _reset),
        endpoint(world, "POST", "/_emulator/seed", _seed),
    ]


def _state(world: World, _request: Request, _body: bytes) -> Response:
    return JSONResponse(
        {
            "now": world.now().isoformat(),
            "accounts": [_account(account) for account in world.accounts.values()],
            "faults": msgspec.to_builtins(world.faults.waiting),
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
        "calls": calls,
    }


def _journal(world: World, request: Request, _body: bytes) -> Response:
    after = int(request.query_params.get("after", "0"))
    rows = world.journal[after : after + JOURNAL_ROWS_MAX]
    more = len(world.journal) > after + len(rows)
    return JSONResponse({"journal": [_entry(row) for row in rows], "has_more": more})


def _entry(row: Applied) -> dict[str, Any]:
    return {
        "sequence": row.sequence,
        "account": row.account,
        "livemode": row.livemode,
        "event_name": row.event_name,
        "identifier": row.identifier,
        "customer": row.customer,
        "value": format(row.value, "f"),
        "timestamp": row.timestamp,
        "applied_at": row.applied_at.isoformat(),
    }


def _clock(world: World, _request: Request, body: bytes) -> Response:
    change = decoded(body, ClockChange)
    if change.now is not None:
        if change.now.tzinfo is None:
            raise ValueError("`now` needs a time zone, such as 2026-11-21T09:00:00Z")
        world.shift += change.now - world.now()
    world.shift += timedelta(seconds=change.advance_s)
    return JSONResponse({"now": world.now().isoformat()})


def _faults(world: World, _request: Request, body: bytes) -> Response:
    for fault in decoded(body, list[Fault]):
        world.faults.add(fault)
    return JSONResponse({"faults": msgspec.to_builtins(world.faults.waiting)})


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
    sections = "".join(map(_section, world.accounts.values())) or "<p>No calls yet.</p>"
    now = f"{world.now():%Y-%m-%d %H:%M:%S} UTC"
    return HTMLResponse(PAGE.format(now=now, sections=sections))


def _section(account: Account) -> str:
    """One account: what was applied, by customer and event name."""
    totals = sorted(account.totals(), key=lambda row: (_named(account, row[0]), row[1]))
    rows = "".join(
        f"<tr><td>{escape(_named(account, customer))}<small>{escape(customer)}</small></td>"
        f"<td>{escape(event_name)}</td><td>{value:f}</td><td>{events}</td></tr>"
        for customer, event_name, value, events in totals
    )
    mode = "live" if account.livemode else "test"
    return SECTION.format(account=escape(account.object_id), mode=mode, rows=rows)


def _named(account: Account, customer: str) -> str:
    """What tells a person who this is: the metadata that usage is assigned by."""
    metadata = account.customers[customer].metadata
    return ", ".join(f"{key} {value}" for key, value in metadata.items()) or "no metadata"
