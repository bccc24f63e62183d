"""The one door to Stripe's SDK: what UsageFlow asks of Stripe, in UsageFlow's words.

It keeps no state and decides nothing: an answer to a meter event becomes a verdict in `answers`;
everything else that goes wrong is a DeliveryError. The key is never logged or shown.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

import requests
import stripe as stripe_sdk

from usageflow.errors import DeliveryError
from usageflow.ledger.verdicts import Accepted, Verdict
from usageflow.stripe.answers import verdict
from usageflow.stripe.meter_events import Meter, MeterEvent

# It would write a file into the user's configuration and report on us with every request.
stripe_sdk.enable_telemetry = False

PAGE_MAX: Final = 100
"""Objects in one page of a list, Stripe's limit: fewest reads."""
_KEY_REFUSED: Final = (401, 403)


@dataclass(frozen=True, slots=True)
class StripeCustomer:
    """A customer as Stripe has it."""

    customer_id: str
    metadata: Mapping[str, str]


class StripeGateway:
    """Stripe, as one account sees it. Safe to use from several threads; `close` it at the end.

    `base` replaces every address of Stripe, for the emulator. `account` is a connected account.
    Every method but `send_meter_event` raises DeliveryError if Stripe does not do what it is
    asked; `refused` then says that it was the key.
    """

    def __init__(
        self,
        api_key: str,
        *,
        timeout_s: float,
        base: str | None = None,
        account: str | None = None,
        connections_max: int = 8,
    ) -> None:
        self.livemode = "_live_" in api_key
        self._session = requests.Session()
        # A replaced address is a local one: the environment's proxies and .netrc are not for it.
        self._session.trust_env = base is None
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections_max)
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, adapter)
        bases: Any = dict.fromkeys(("api", "connect", "files", "meter_events"), base)
        self._v1 = stripe_sdk.StripeClient(
            api_key,
            stripe_account=account,
            base_addresses=bases if base else None,
            http_client=stripe_sdk.RequestsClient(timeout=timeout_s, session=self._session),
            max_network_retries=0,  # a verdict decides what is tried again, and when
        ).v1

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def send_meter_event(self, event: MeterEvent) -> Verdict:
        """Send one meter event, once.

        The idempotency key is a fresh one: under a repeated key Stripe replays a stored 500. The
        event's identifier is what keeps it from being counted twice.
        """
        try:
            self._v1.billing.meter_events.create(
                {
                    "event_name": event.event_name,
                    "payload": event.payload,
                    "identifier": event.identifier,
                    "timestamp": event.timestamp,
                },
                {"idempotency_key": str(uuid.uuid4())},
            )
        except stripe_sdk.StripeError as error:
            headers = {name.lower(): value for name, value in (error.headers or {}).items()}
            return verdict(error.http_status, _code(error), _message(error), headers)
        return Accepted()

    def list_meters(self) -> Iterator[Meter]:
        """Every meter, active or not."""
        with _explained():
            for meter in self._v1.billing.meters.list({"limit": PAGE_MAX}).auto_paging_iter():
                yield Meter(
                    event_name=meter.event_name,
                    meter_id=meter.id,
                    formula=meter.default_aggregation.formula,
                    status=meter.status,
                    time_window=meter.event_time_window,
                    customer_key=meter.customer_mapping.event_payload_key,
                    value_key=meter.value_settings.event_payload_key,
                )

    def list_customers(self) -> Iterator[StripeCustomer]:
        """Every customer. Immediately consistent, one read for each hundred."""
        with _explained():
            for customer in self._v1.customers.list({"limit": PAGE_MAX}).auto_paging_iter():
                yield _customer(customer)

    def customer(self, customer_id: str) -> StripeCustomer | None:
        """One customer as it is now; None if it is deleted or was never there."""
        try:
            with _explained():
                found = self._v1.customers.retrieve(customer_id)
        except DeliveryError as error:
            if isinstance(error.__cause__, stripe_sdk.InvalidRequestError):
                return None
            raise
        return None if getattr(found, "deleted", False) else _customer(found)

    def search_customers(self, field: str, value: str) -> list[StripeCustomer]:
        """Customers whose metadata `field` resembles `value`: without case, and up to a minute old.

        Compare before use.
        """
        query = f'metadata["{_escaped(field)}"]:"{_escaped(value)}"'
        with _explained():
            found = self._v1.customers.search({"query": query, "limit": PAGE_MAX})
            return [_customer(customer) for customer in found.auto_paging_iter()]

    def event_summaries(
        self,
        meter_id: str,
        customer_id: str,
        start: datetime,
        end: datetime,
        window: Literal["hour", "day"],
    ) -> Iterator[tuple[datetime, Decimal]]:
        """(start, value) of each hour or UTC day with usage in `[start, end)`.

        A value is what Stripe shows: a binary float at their side, in its shortest form here.
        """
        with _explained():
            listed = self._v1.billing.meters.event_summaries.list(
                meter_id,
                {
                    "customer": customer_id,
                    "start_time": int(start.timestamp()),
                    "end_time": int(end.timestamp()),
                    "value_grouping_window": window,
                    "limit": PAGE_MAX,
                },
            )
            for row in listed.auto_paging_iter():
                moment = datetime.fromtimestamp(row.start_time, UTC)
                value = Decimal(str(row.aggregated_value))
                whole = value.to_integral_value()
                # 3.0 is 3: the point is their JSON's, not a precision.
                yield moment, whole if whole == value else value


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except stripe_sdk.StripeError as error:
        raise DeliveryError(
            f"Stripe: {_message(error)}", refused=error.http_status in _KEY_REFUSED
        ) from error


def _message(error: stripe_sdk.StripeError) -> str:
    return str(error.user_message or type(error).__name__)


def _code(error: stripe_sdk.StripeError) -> str | None:
    """The SDK leaves `code` empty for 401, 403, 409, 429 and 5xx; the body has it."""
    return error.code or (error.error.code if error.error else None)


def _customer(customer: stripe_sdk.Customer) -> StripeCustomer:
    metadata = customer.metadata
    return StripeCustomer(customer.id, {} if metadata is None else metadata.to_dict())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
