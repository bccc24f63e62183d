"""The emulator's world: its clock, its accounts, the faults to come and the journal of all events.

It decides which account a request speaks to. One key, one account: `sk_test_X`, `rk_test_X` and
`sk_live_X` are keys of the same account, in test and live mode, and any X will do. `Stripe-Account`
or `Stripe-Context` names an account that has connected to this one, by OAuth or by being seeded
through it. Keys themselves are not kept.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

from usageflow.stripe.emulator.faults import Faults
from usageflow.stripe.emulator.journal import Entry
from usageflow.stripe.emulator.limits import Limits
from usageflow.stripe.emulator.replies import Reply, error
from usageflow.stripe.emulator.settings import Settings
from usageflow.stripe.emulator.state import Account

_KEY: Final = re.compile(r"(?:sk|rk)_(test|live)_(\w+)\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Session:
    """A token's leave to stream meter events into an account."""

    account: Account
    expires_at: datetime


class World:
    """Everything the emulator knows. `clock` is the real time; `shift` moves the emulated one.

    `deliver` is called with each new event of an account; `on_reset` after everything is forgotten;
    `sections` are asked for what the page shows beside the accounts.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self._clock = clock
        self._first = settings, limits
        self.request_numbers = count(1)
        self.deliver: Callable[[Account, dict[str, Any]], None] = lambda _account, _event: None
        self.sections: list[Callable[[], str]] = []
        self.on_reset: list[Callable[[], None]] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything: the clock's shift, what was set and what was limited included."""
        self.settings, self.limits = self._first
        self.shift = timedelta(0)
        self.accounts: dict[tuple[str, bool], Account] = {}
        self.journal: list[Entry] = []
        self.sessions: dict[str, Session] = {}
        self.faults = Faults()
        for forget in self.on_reset:
            forget()

    def now(self) -> datetime:
        """The emulated time, UTC."""
        return self._clock() + self.shift

    def account(self, headers: Mapping[str, str], *, connect: bool = False) -> Account | Reply:
        """The account these headers speak to, or Stripe's refusal.

        With `connect` (seeding) the account named by `Stripe-Account` connects.
        """
        key = _key(headers.get("authorization", ""))
        match = _KEY.match(key)
        if match is None:
            return error(401, _key_message(key))
        livemode = match[1] == "live"
        own = "acct_" + hashlib.sha256(match[2].encode()).hexdigest()[:16]
        wanted = headers.get("stripe-context") or headers.get("stripe-account", own)
        if wanted == own or connect:
            account = self.ensure(wanted, livemode=livemode)
            account.platforms.add(own)
            return account
        known = self.accounts.get((wanted, livemode))
        if known is None or own not in known.platforms:
            message = f"The provided key does not have access to account '{wanted}'."
            return error(403, message, code="account_invalid")
        return known

    def ensure(self, account_id: str, *, livemode: bool) -> Account:
        """The account, which comes into being when it is first named."""
        known = self.accounts.get((account_id, livemode))
        if known is None:
            known = Account(account_id, livemode, timedelta(0), self.journal, deliver=self._deliver)
            self.accounts[account_id, livemode] = known
            self._set_lags(known)
        return known

    def change(self, settings: Settings) -> None:
        """Let these settings hold from now on, for every account."""
        self.settings = settings
        for account in self.accounts.values():
            self._set_lags(account)

    def _set_lags(self, account: Account) -> None:
        account.search_lag = timedelta(seconds=self.settings.search_lag_s)
        account.summary_lag = timedelta(seconds=self.settings.summary_lag_s)

    def report(self, account: Account) -> None:
        """Emit the account's error reports that are due."""
        if account.rejections.waiting:
            delay = timedelta(seconds=self.settings.rejection_delay_s)
            account.report(self.now(), delay, self.settings.rejection_samples)

    def _deliver(self, account: Account, event: dict[str, Any]) -> None:
        self.deliver(account, event)


def _key(authorization: str) -> str:
    """The key of `Bearer KEY` or of basic authentication with the key as user; else empty."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    try:
        return base64.b64decode(rest, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _key_message(key: str) -> str:
    if key:
        return f"Invalid API Key provided: {key[:7]}****"
    return "You did not provide an API key. Send it as 'Authorization: Bearer YOUR_SECRET_KEY'."
