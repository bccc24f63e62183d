"""Deliveries: what is posted to whom, and when. Decisions only; `post` does them.

Events of a listener leave in the order they happened, one at a time, and again after a while when
the receiver does not answer 2xx. On demand they are doubled, lost, shuffled, late or held back;
chance comes from a seed. Times here are seconds of a steady clock, not the emulated one.
"""

import heapq
import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from usageflow.stripe.emulator.listeners import Listener

SPREAD_S: Final = 0.2
"""How far a duplicate is behind, and how long a shuffled event waits to be overtaken, at most."""
RETRY_AFTER_S: Final = (0.2, 1.0, 5.0)
RETRIES_MAX: Final = 10
THIN_FIELDS: Final = ("id", "object", "type", "created", "livemode", "related_object")

Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]
Delay = Annotated[float, msgspec.Meta(ge=0)]


class Conduct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How deliveries behave. After a failed attempt the next follows in `retry_after_s[0]`, and so
    on; when the list is used up, no more. `pause` holds everything back.
    """

    duplicate_rate: Rate = 0.0
    drop_rate: Rate = 0.0
    shuffle: bool = False
    delay_s: Delay = 0.0
    pause: bool = False
    seed: int = 0
    retry_after_s: Annotated[tuple[Delay, ...], msgspec.Meta(max_length=RETRIES_MAX)] = (
        RETRY_AFTER_S
    )


@dataclass(slots=True)
class Delivery:
    """One event on its way to one listener. `body` is what is signed, at every attempt the same."""

    listener: Listener
    event: dict[str, Any]
    account: str
    body: bytes
    duplicate: bool = False
    attempts: int = 0


@dataclass(slots=True)
class Queue:
    """The deliveries of one listener that wait, each until its moment."""

    _waiting: list[tuple[float, float, int, Delivery]] = field(default_factory=list)
    _number: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, delivery: Delivery, due_s: float, rank: float = 0.0) -> None:
        """Let it wait until `due_s`. `rank` decides among those that are flushed together."""
        self._number += 1
        heapq.heappush(self._waiting, (due_s, rank, self._number, delivery))

    def next_s(self, *, paused: bool) -> float | None:
        """When the next is due; None if nothing will be. In a pause only what is flushed is."""
        if not self._waiting or (paused and self._waiting[0][0] > 0):
            return None
        return self._waiting[0][0]

    def take(self) -> Delivery:
        """The next delivery."""
        return heapq.heappop(self._waiting)[-1]

    def flush(self) -> None:
        """What waits now is due now, a pause or not."""
        self._waiting = [(0.0, rank, number, one) for _, rank, number, one in self._waiting]
        heapq.heapify(self._waiting)


def planned(
    conduct: Conduct, chance: Random, delivery: Delivery, now_s: float
) -> Iterator[tuple[Delivery, float, float]]:
    """(delivery, due, rank) of an event and its duplicate; nothing if it is to be lost."""
    due_s = now_s + conduct.delay_s
    if chance.random() < conduct.drop_rate:
        return
    yield delivery, *_place(conduct, chance, due_s)
    if chance.random() < conduct.duplicate_rate:
        copy = Delivery(
            delivery.listener, delivery.event, delivery.account, delivery.body, duplicate=True
        )
        yield copy, *_place(conduct, chance, due_s + chance.random() * SPREAD_S)


def _place(conduct: Conduct, chance: Random, due_s: float) -> tuple[float, float]:
    if not conduct.shuffle:
        return due_s, 0.0
    return due_s + chance.random() * SPREAD_S, chance.random()


def body(listener: Listener, event: Mapping[str, Any], account: str | None) -> bytes:
    """The bytes to send: a snapshot whole, of a thin event the notification without its data.

    `account` names the connected account to a platform that listens.
    """
    if event["object"] == "v2.core.event":
        content = {name: event[name] for name in THIN_FIELDS} | {"context": account}
    else:
        content = {**event, "api_version": listener.api_version or event["api_version"]}
        if account is not None:
            content["account"] = account
    return json.dumps(content, separators=(",", ":")).encode()


def is_local(url: str) -> bool:
    """Whether the address is of this machine, by its text: names are not looked up."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
