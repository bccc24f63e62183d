"""A client of the emulator's control endpoints, for tests, the demo and scripts.

It speaks only to `/_emulator/`; whatever uses Stripe's API does so through Stripe's own SDK.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx

TIMEOUT_S = 30.0
"""Longest wait for an answer; seeding thousands of customers takes a second or two."""
SETTLE_LOOK_S = 0.01
"""Pause between looks at what still waits."""


@dataclass(frozen=True, slots=True)
class RemoteEmulator:
    """A running emulator at `url`, seen as the account of `api_key`. Raises httpx.HTTPError."""

    url: str
    api_key: str

    def state(self) -> Any:
        """Accounts, meters, applied totals, calls by outcome, faults to come and the clock."""
        return self._sent("GET", "state")

    def journal(self, *, every: bool = False) -> Iterator[dict[str, Any]]:
        """Every meter event that counts, of every account, in the order of arrival.

        With `every` also those that no longer count, and each duplicate, refusal, rejection and
        cancellation, told apart by `kind`.
        """
        after, more = 0, True
        while more:
            answer = self._sent("GET", f"journal?after={after}{'&all=1' if every else ''}")
            yield from answer["journal"]
            after, more = answer["next"], answer["has_more"]

    def attempts(self, identifier: str) -> int:
        """How many calls named the meter event of this identifier, whatever became of them."""
        answer = self._sent("GET", f"attempts?identifier={quote(identifier, safe='')}")
        return int(answer["attempts"])

    def applied(self, field: str) -> dict[tuple[str, str], Decimal]:
        """The exact value applied per (metadata `field` of the customer, event name)."""
        return {
            (row["metadata"].get(field, row["customer"]), row["event_name"]): Decimal(row["value"])
            for account in self.state()["accounts"]
            for row in account["applied"]
        }

    def seed(
        self, customers: Iterable[dict[str, str]] = (), meters: Iterable[str | dict[str, str]] = ()
    ) -> list[str]:
        """Create customers with this metadata, and meters (a name means a `sum` meter).

        Returns the customers' ids.
        """
        named = [{"event_name": item} if isinstance(item, str) else item for item in meters]
        people = [{"metadata": metadata} for metadata in customers]
        answer = self._sent("POST", "seed", {"customers": people, "meters": named})
        ids: list[str] = answer["customers"]
        return ids

    def fault(self, kind: str, *, route: str = "/v1/billing/meter_events", **options: Any) -> None:
        """Let the next calls of `route` fail; the options are those of a fault."""
        self._sent("POST", "faults", [{"route": route, "kind": kind, **options}])

    def plan(self, *rules: dict[str, Any], seed: int = 0) -> None:
        """Let calls fail by chance, in place of every fault asked for before."""
        self._sent("POST", "faults", {"seed": seed, "rules": rules})

    def clear_faults(self) -> None:
        """Let no call fail any more."""
        self._sent("DELETE", "faults")

    def limit(self, *, enforce: bool = True, **rates: float) -> None:
        """Enforce the rate limits, changed by those that are given, or stop enforcing them."""
        self._sent("POST", "limits", {"enforce": enforce, **rates})

    def set(self, **settings: float) -> None:
        """Change settings: lags, delays and the number of samples in an error report."""
        self._sent("POST", "settings", settings)

    def reject(self, **wish: Any) -> None:
        """Reject an accepted meter event later: of an `identifier`, or the next `count` of an
        `event_name`, with this `code`.
        """
        self._sent("POST", "reject", wish)

    def set_clock(self, now: datetime) -> None:
        """Let the emulated clock show this moment, and go on from there."""
        self._sent("POST", "clock", {"now": now.isoformat()})

    def advance(self, seconds: float) -> None:
        """Move the emulated clock forward."""
        self._sent("POST", "clock", {"advance_s": seconds})

    def event(self, kind: str, data_object: dict[str, Any], **options: Any) -> str:
        """Let any snapshot event happen, with `previous_attributes` perhaps; its id."""
        answer = self._sent("POST", "events", {"type": kind, "object": data_object, **options})
        return str(answer["id"])

    def webhooks(self, **conduct: Any) -> None:
        """Change how webhooks are delivered: `pause`, `flush`, `duplicate_rate` and so on."""
        self._sent("POST", "webhooks", conduct)

    def deliveries(self) -> list[dict[str, Any]]:
        """Every attempt to deliver a webhook, and every one that was lost on purpose."""
        attempts: list[dict[str, Any]] = self._sent("GET", "deliveries")["attempts"]
        return attempts

    def deauthorize(self, account: str) -> None:
        """Let the owner of a connected account end its connection."""
        self._sent("POST", "deauthorize", {"account": account})

    def decline_payments(self, count: int = 1) -> None:
        """Let the next payments of invoices fail."""
        self._sent("POST", "payments", {"decline": count})

    def settle(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until no webhook waits. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while self._sent("GET", "deliveries")["waiting"]:
            if time.monotonic() > end:
                raise TimeoutError(f"webhooks are still waiting after {timeout_s} s")
            time.sleep(SETTLE_LOOK_S)

    def reset(self) -> None:
        """Forget everything."""
        self._sent("POST", "reset")

    def _sent(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            method,
            f"{self.url}/_emulator/{path}",
            json=body,
            headers={"authorization": f"Bearer {self.api_key}"},
            timeout=TIMEOUT_S,
        )
        return answer.raise_for_status().json()
