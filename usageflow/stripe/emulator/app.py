"""The emulator as a Starlette app: its world, Stripe's API over it, and the ways to steer it.

It only puts them together. How a call is answered is in `gate`.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.routing import Route

from usageflow.stripe.emulator import (
    accounts,
    adjustments,
    connect,
    control,
    customers,
    event_destinations,
    invoice_items,
    invoices,
    meter_event_stream,
    meter_events,
    meters,
    page,
    payments,
    snapshots,
    summaries,
    thin_events,
    webhook_endpoints,
    webhooks,
)
from usageflow.stripe.emulator.gate import Gate, Handler
from usageflow.stripe.emulator.limits import Limits
from usageflow.stripe.emulator.post import Post
from usageflow.stripe.emulator.settings import Settings
from usageflow.stripe.emulator.world import World


def create_emulator(
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    search_lag_s: float = 1.0,
    latency_s: float = 0.0,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    allow_remote_webhooks: bool = False,
) -> Starlette:
    """The emulator, empty. How far search is behind, how long a call takes at least and the rate
    limits, which are off by default, can be changed while it runs; a reset returns to these.

    Webhooks go to this machine only, unless `allow_remote_webhooks`.
    """
    settings = Settings(search_lag_s=search_lag_s, latency_s=latency_s)
    world = World(clock, settings=settings, limits=limits)
    post = Post(world, allow_remote=allow_remote_webhooks)
    world.sections.append(lambda: page.deliveries(post.log))
    gate = Gate(world, _handlers(world))
    methods = ["GET", "POST", "DELETE", "PUT", "PATCH"]
    return Starlette(
        routes=[
            *control.routes(world),
            *webhooks.routes(world, post),
            *connect.routes(world),
            *payments.routes(world),
            Route("/{path:path}", gate.respond, methods=methods),
        ]
    )


def _handlers(world: World) -> dict[str, Handler]:
    """The operations that are emulated, by their name in the API description."""
    return {
        **customers.HANDLERS,
        **meters.HANDLERS,
        **meter_events.HANDLERS,
        **meter_event_stream.handlers(world),
        **adjustments.HANDLERS,
        **summaries.HANDLERS,
        **thin_events.HANDLERS,
        **snapshots.HANDLERS,
        **webhook_endpoints.HANDLERS,
        **event_destinations.HANDLERS,
        **accounts.handlers(world),
        **invoices.HANDLERS,
        **invoice_items.HANDLERS,
    }
