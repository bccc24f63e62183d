"""The one door to Stripe's SDK: what UsageFlow asks of Stripe, in UsageFlow's words.

It decides nothing: an answer to a meter event becomes a verdict in `answers`, events and reports
are read in `inbound`; everything else that goes wrong is a DeliveryError. The key is never logged
or shown.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
import stripe as stripe_sdk

from usageflow.errors import DeliveryError
from usageflow.forwarding.transport import Lost, Pool
from usageflow.ledger.verdicts import Accepted, Verdict
from usageflow.stripe import inbound
from usageflow.stripe.answers import NOT_SENT, verdict, without_session
from usageflow.stripe.inbound import (
    AccountInfo,
    Connected,
    Endpoint,
    ErrorReport,
    InboundEvent,
)
from usageflow.stripe.invoice_calls import InvoiceCalls
from usageflow.stripe.meter_events import Meter, MeterEvent
from usageflow.stripe.streaming import Stream
from usageflow.stripe.transport import Wire

# It would write a file into the user's configuration and report on us with every request.
stripe_sdk.enable_telemetry = False
# It would log whole answers, and some hold secrets: of webhooks, sessions and connections.
logging.getLogger("stripe").setLevel(logging.WARNING)

PAGE_MAX: Final = 100
"""Objects in one page of a list, Stripe's limit: fewest reads."""
WEBHOOK_AGE_S_MAX: Final = 300
"""How long ago a webhook may have been signed, Stripe's recommendation: older is a replay."""
_KEY_REFUSED: Final = (401, 403)
_MISSING: Final = ("resource_missing", "not_found")
"""What v1 and v2 call an object that is not there."""


@dataclass(frozen=True, slots=True)
class StripeCustomer:
    """A customer as Stripe has it."""

    customer_id: str
    metadata: Mapping[str, str]


class StripeGateway:
    """Stripe, as one account sees it. Safe to use from several threads; `close` it at the end.

    `base` replaces every address of Stripe, for the emulator. `account` is a connected account,
    `client_id` that of the platform they are connected to. Every method but those that give a
    verdict raises DeliveryError if Stripe does not do what it is asked; `refused` then says that it
    was the key.
    """

    def __init__(
        self,
        api_key: str,
        *,
        timeout_s: float,
        base: str | None = None,
        account: str | None = None,
        client_id: str | None = None,
        connections_max: int = 8,
    ) -> None:
        self.livemode = "_live_" in api_key
        self._wire = Wire(
            Pool(
                timeout_s=timeout_s,
                connections_max=connections_max,
                environment=base is None,
                ca_file=None if base else stripe_sdk.ca_bundle_path,
            )
        )
        bases: Any = dict.fromkeys(("api", "connect", "files", "meter_events"), base)
        options: Any = {
            "base_addresses": bases if base else None,
            "http_client": _Http(self._wire),
            "client_id": client_id,
            "max_network_retries": 0,  # a verdict decides what is tried again, and when
        }
        client = stripe_sdk.StripeClient(api_key, stripe_account=account, **options)
        self._v1, self._oauth = client.v1, client.oauth
        self.invoices = InvoiceCalls(client.v1, _explained)
        # An account is named by another header there.
        self._v2 = stripe_sdk.StripeClient(api_key, stripe_context=account, **options).v2
        host = base or stripe_sdk.DEFAULT_METER_EVENTS_API_BASE
        self._stream = Stream(self._wire, host, stripe_sdk.api_version, self._open_session)

    def close(self) -> None:
        """Close every connection."""
        self._wire.close()

    @property
    def reads(self) -> int:
        """How many requests only read; Stripe allots them."""
        return self._wire.reads

    @property
    def clock_skew_s(self) -> float:
        """How far Stripe's clock was ahead of ours at its last answer, to the second."""
        return self._wire.clock_skew_s

    def send_meter_event(self, event: MeterEvent) -> Verdict:
        """Send one meter event, once.

        The idempotency key is a fresh one: under a repeated key Stripe replays a stored 500. The
        event's identifier is what keeps it from being counted twice. The key begins with it, so
        that an error report tells the unit by either.
        """
        key = f"{event.identifier}{inbound.KEY_SEPARATOR}{secrets.token_hex(8)}"
        try:
            self._v1.billing.meter_events.create(
                {
                    "event_name": event.event_name,
                    "payload": event.payload,
                    "identifier": event.identifier,
                    "timestamp": event.timestamp,
                },
                {"idempotency_key": key},
            )
        except stripe_sdk.StripeError as error:
            return _verdict(error)
        return Accepted()

    def send_stream(self, events: Sequence[MeterEvent]) -> Verdict:
        """Send at most 100 meter events in one call of the v2 stream; the verdict is each one's."""
        return self._stream.send(events)

    def cancel_meter_event(self, event_name: str, identifier: str) -> None:
        """Take a meter event back; Stripe does so within 24 hours of having received it."""
        with _explained():
            self._v1.billing.meter_event_adjustments.create(
                {"event_name": event_name, "type": "cancel", "cancel": {"identifier": identifier}}
            )

    def list_meters(self) -> Iterator[Meter]:
        """Every meter, active or not."""
        with _explained():
            for meter in self._v1.billing.meters.list({"limit": PAGE_MAX}).auto_paging_iter():
                yield inbound.meter(meter.to_dict())

    def create_meter(
        self,
        event_name: str,
        *,
        display_name: str,
        formula: Literal["count", "last", "sum"] = "sum",
    ) -> Meter:
        """Make a meter. Its event name is taken for ever, even when it is deactivated."""
        with _explained():
            made = self._v1.billing.meters.create(
                {
                    "event_name": event_name,
                    "display_name": display_name,
                    "default_aggregation": {"formula": formula},
                }
            )
            return inbound.meter(made.to_dict())

    def reactivate_meter(self, meter_id: str) -> Meter:
        """Let a deactivated meter take events again."""
        with _explained():
            return inbound.meter(self._v1.billing.meters.reactivate(meter_id).to_dict())

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

    def events_since(self, types: Sequence[str], created_gte: datetime) -> Iterator[InboundEvent]:
        """Snapshot events of at most 20 types, oldest first; Stripe keeps them for 30 days."""
        since = int(created_gte.timestamp())
        with _explained():
            listed = self._v1.events.list(
                {"types": list(types), "created": {"gte": since}, "limit": PAGE_MAX}
            )
            newest_first = [event.to_dict() for event in listed.auto_paging_iter()]
        yield from inbound.understood(reversed(newest_first), inbound.inbound_event)

    def error_reports_since(self, created_gte: datetime) -> Iterator[ErrorReport]:
        """What Stripe dropped after accepting it, oldest report first; kept for 30 days."""
        with _explained():
            listed = self._v2.core.events.list(
                {
                    "types": [inbound.ERROR_REPORT, inbound.NO_METER_FOUND],
                    "created": {"gte": created_gte.isoformat()},
                    "limit": PAGE_MAX,
                }
            )
            newest_first = [event.to_dict() for event in listed.auto_paging_iter()]
        yield from inbound.understood(reversed(newest_first), inbound.error_report)

    def error_report(self, event_id: str) -> ErrorReport:
        """The report that a notification only tells the id of."""
        with _explained():
            return inbound.error_report(self._v2.core.events.retrieve(event_id).to_dict())

    def create_webhook_endpoint(
        self, url: str, enabled_events: Sequence[str], *, connect: bool
    ) -> Endpoint:
        """Have snapshot events posted to `url`: one's own, or with `connect` those of others."""
        params: Any = {
            "url": url,
            "enabled_events": list(enabled_events),
            "connect": connect,
            "api_version": stripe_sdk.api_version,  # else the account's, and other shapes
        }
        with _explained():
            made = self._v1.webhook_endpoints.create(params)
            return Endpoint(made.id, str(made.secret))

    def create_event_destination(
        self, url: str, event_types: Sequence[str], *, connected: bool
    ) -> Endpoint:
        """Have thin events posted to `url`: one's own, or those of the `connected` accounts."""
        params: Any = {
            "name": "UsageFlow",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": list(event_types),
            "events_from": ["@accounts" if connected else "@self"],
            "webhook_endpoint": {"url": url},
            "include": ["webhook_endpoint.signing_secret"],
        }
        with _explained():
            made = self._v2.core.event_destinations.create(params).to_dict()
            return Endpoint(made["id"], made["webhook_endpoint"]["signing_secret"])

    def delete_webhook_endpoint(self, endpoint_id: str) -> None:
        """Have no more snapshot events posted there; fine if it is gone already."""
        with _gone_already(), _explained():
            self._v1.webhook_endpoints.delete(endpoint_id)

    def delete_event_destination(self, destination_id: str) -> None:
        """Have no more thin events posted there; fine if it is gone already."""
        with _gone_already(), _explained():
            self._v2.core.event_destinations.delete(destination_id)

    def account_info(self) -> AccountInfo:
        """The account that this key, or `account`, is."""
        with _explained():
            found = self._v1.accounts.retrieve_current()
            return inbound.account_info(found.to_dict(), livemode=self.livemode)

    def authorize_url(self, *, state: str, redirect_uri: str) -> str:
        """Where the owner of an account is sent to connect it. Asks nobody."""
        with _explained():
            return self._oauth.authorize_url(
                {"scope": "read_write", "state": state, "redirect_uri": redirect_uri}
            )

    def exchange_code(self, code: str) -> Connected:
        """Connect the account that gave this code.

        Never try a code twice: Stripe answers a second use by revoking the connection.
        """
        with _explained():
            told = self._oauth.token({"grant_type": "authorization_code", "code": code})
            return Connected(str(told.stripe_user_id), bool(told.livemode), str(told.scope))

    def deauthorize(self, account_id: str) -> None:
        """End the connection to an account."""
        with _explained():
            self._oauth.deauthorize({"stripe_user_id": account_id})

    def _open_session(self) -> str | Verdict:
        """A new token for the stream, or what its lack means for what was to be sent."""
        try:
            return self._v2.billing.meter_event_session.create().authentication_token
        except stripe_sdk.StripeError as error:
            return without_session(_verdict(error))


def parse_webhook(raw: bytes, signature: str, secrets: Sequence[str]) -> InboundEvent | None:
    """The event of a webhook, snapshot or thin; None if no secret fits, or it is no event."""
    if not signature.isascii():  # the SDK cannot compare it
        return None
    for secret in secrets:
        with suppress(stripe_sdk.SignatureVerificationError, ValueError):
            stripe_sdk.WebhookSignature.verify_header(raw, signature, secret, WEBHOOK_AGE_S_MAX)
            return inbound.inbound_event(msgspec.json.decode(raw))
    return None


class _Http(stripe_sdk.HTTPClient):
    """The SDK's requests, over our wire."""

    name = "urllib3"

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[Any, int, Mapping[str, str]]:
        """As the SDK wants it; no answer is an APIConnectionError."""
        answer = self._wire.request(method.upper(), url, headers or {}, post_data)
        if isinstance(answer, Lost):
            code = None if answer.sent else NOT_SENT
            raise stripe_sdk.APIConnectionError(answer.reason, code=code)  # type: ignore[no-untyped-call]
        return answer.body, answer.status, answer.headers


@contextmanager
def _explained() -> Iterator[None]:
    """What the SDK raises as a DeliveryError; so too what it cannot find in a strange answer."""
    try:
        yield
    except stripe_sdk.StripeError as error:
        raise DeliveryError(
            f"Stripe: {_message(error)}", refused=error.http_status in _KEY_REFUSED
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DeliveryError(f"Stripe: an answer that cannot be understood: {error!r}") from error


@contextmanager
def _gone_already() -> Iterator[None]:
    """What Stripe no longer has needs no deleting."""
    try:
        yield
    except DeliveryError as error:
        cause = error.__cause__
        if not isinstance(cause, stripe_sdk.StripeError) or _code(cause) not in _MISSING:
            raise


def _verdict(error: stripe_sdk.StripeError) -> Verdict:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    kind = None if error.error is None else error.error.type
    return verdict(error.http_status, _code(error), _message(error), headers, kind)


def _code(error: stripe_sdk.StripeError) -> str | None:
    """The SDK leaves `code` empty for 401, 403, 409, 429 and 5xx; the body has it."""
    return error.code or (None if error.error is None else error.error.code)


def _message(error: stripe_sdk.StripeError) -> str:
    return str(error.user_message or type(error).__name__)


def _customer(customer: stripe_sdk.Customer) -> StripeCustomer:
    metadata = customer.metadata
    return StripeCustomer(customer.id, {} if metadata is None else metadata.to_dict())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
