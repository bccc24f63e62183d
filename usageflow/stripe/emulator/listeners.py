"""Who is told of events: webhook endpoints (v1) and event destinations (v2) are one thing here.

A listener belongs to one account in one mode. It hears that account, the accounts connected to it,
or both, and takes either snapshot events or thin ones. Nothing is sent here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from usageflow.stripe.emulator.replies import Reply, invalid
from usageflow.stripe.emulator.signatures import secret_of
from usageflow.stripe.emulator.state import Account

LISTENERS_MAX: Final = 16
"""Endpoints and destinations in one account and mode, Stripe's limit."""
SELF: Final = "@self"
CONNECTED: Final = "@accounts"
ENDPOINT: Final = "we"
DESTINATION: Final = "ed"
PING: Final = "v2.core.event_destination.ping"
"""The type of the event that one destination gets because it was asked for."""

Payload = Literal["snapshot", "thin"]
Accounts = Mapping[tuple[str, bool], Account]


@dataclass(slots=True)
class Listener:
    """One address that events are posted to. `sources` are `@self`, `@accounts` or both."""

    object_id: str
    created: datetime
    updated: datetime
    url: str
    enabled_events: list[str]
    metadata: dict[str, str]
    sources: list[str]
    payload: Payload = "snapshot"
    api_version: str | None = None
    name: str = ""
    description: str | None = None
    enabled: bool = True

    @property
    def secret(self) -> str:
        """What its deliveries are signed with."""
        return secret_of(self.object_id)

    def takes(self, event: Mapping[str, Any], source: str) -> bool:
        """Whether an event from `source` is for this listener."""
        if event["type"] == PING:
            return self.enabled and event["related_object"]["id"] == self.object_id
        thin = event["object"] == "v2.core.event"
        return (
            self.enabled
            and source in self.sources
            and thin == (self.payload == "thin")
            and not {"*", event["type"]}.isdisjoint(self.enabled_events)
        )


def of(account: Account, kind: str) -> dict[str, Listener]:
    """The account's listeners of a kind (the prefix of their ids), oldest first."""
    return account.objects[kind]


def everyone(account: Account) -> Iterator[Listener]:
    """All listeners of the account."""
    for kind in (ENDPOINT, DESTINATION):
        yield from of(account, kind).values()


def wrong_url(params: Mapping[str, Any], name: str) -> Reply | None:
    """The refusal of something in `params` that nothing can be posted to; where nothing is given,
    nothing is wrong.
    """
    try:
        address = urlsplit(params.get(name, "http://localhost/"))
        right = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        right = False
    return None if right else invalid("Invalid URL.", param=name, code="url_invalid")


def full(account: Account) -> Reply | None:
    """The refusal of one listener too many."""
    if sum(1 for _ in everyone(account)) < LISTENERS_MAX:
        return None
    return invalid(f"You have reached the maximum of {LISTENERS_MAX} webhook endpoints.")


def told(
    accounts: Accounts, account: Account, event: Mapping[str, Any]
) -> Iterator[tuple[Listener, bool]]:
    """Who hears of an event of `account`, and whether as a platform it is connected to.

    A platform's live listeners hear test events as well, so a receiver must look at `livemode`.
    An event about the connection itself is the platform's alone.
    """
    if not event["type"].startswith("account.application."):
        yield from ((one, False) for one in everyone(account) if one.takes(event, SELF))
    for platform in sorted(account.platforms - {account.object_id}):
        for livemode in sorted({account.livemode, True}):
            owner = accounts.get((platform, livemode))
            if owner is not None:
                found = (one for one in everyone(owner) if one.takes(event, CONNECTED))
                yield from ((one, True) for one in found)
