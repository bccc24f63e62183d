"""Where Stripe posts its events: taken if they are genuine, and answered once they are dealt with.

What is answered with 503 comes again, for days. Everything else is `usageflow.stripe`'s.
"""

import logging
from collections.abc import Callable
from typing import Final

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from usageflow.api.problems import Problem, json_response
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.errors import DeliveryError
from usageflow.stripe.webhooks_in import Webhooks

PATH: Final = "/stripe/webhooks"
BODY_BYTES_MAX: Final = 524_288
"""Far above what we ask for: the metadata of a customer have 27,000 characters at most."""
AT_ONCE: Final = 8
"""Events dealt with at once, in threads of their own: some wait for Stripe, and usage must not."""

logger = logging.getLogger("usageflow.api")


class StripeWebhooks:
    """`/stripe/webhooks` over one database. `on_meters` gets an account whose meters changed."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        on_meters: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._webhooks = Webhooks(db, settings, on_meters)
        self._threads = CapacityLimiter(AT_ONCE)

    def routes(self) -> list[Route]:
        """The address with its path."""
        return [Route(PATH, self.take, methods=["POST"])]

    async def take(self, request: Request) -> Response:
        """Take one event. Who did not sign it is told nothing."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                return Problem(413, "body_too_large", "no event is so large").response()
        signature = request.headers.get("stripe-signature", "")
        try:
            genuine = await to_thread.run_sync(
                self._webhooks.take, bytes(body), signature, limiter=self._threads
            )
        except DeliveryError as error:
            logger.warning("a webhook is to come again: %s", error)
            return Problem(503, "stripe_unavailable", "not now; send it again later").response()
        if not genuine:
            return Problem(400, "invalid_signature", "this is no event for us").response()
        return json_response({"received": True})
