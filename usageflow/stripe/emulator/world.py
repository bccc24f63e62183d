"""The emulator's world: its clock, its accounts, the faults to come and the journal of all events.

It decides which account a request speaks to. One key, one account: `sk_test_X`, `rk_test_X` and
`sk_live_X` are keys of the same account, in test and live mode, and any X will do. `Stripe-Account`
names an account that has connected to this one, by OAuth or by being seeded through it. Keys
themselves are not kept.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

from usageflow.stripe.emulator.faults import FaultPlan
from usageflow.stripe.emulator.replies import Reply, error
from usageflow.stripe.emulator.state import Account, Applied

_KEY: Final = re.compile(r"(?:sk|rk)_(test|live)_(\w+)\Z", re.ASCII)


class World:
    """Everything the emulator knows. `clock` is the real time; `shift` moves the emulated one.

    `deliver` is called with each new event of an account; `on_reset` after everything is forgotten.
    """

    def __init__(self, clock: Callable[[], datetime], *, search_lag_s: float) -> None:
        self._clock = clock
        self._search_lag = timedelta(seconds=search_lag_s)
        self.request_numbers = count(1)
        self.deliver: Callable[[Account, dict[str, Any]], None] = lambda _account, _event: None
        self.on_reset: list[Callable[[], None]] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything, the clock's shift included."""
        self.shift = timedelta(0)
        self.accounts: dict[tuple[str, bool], Account] = {}
        self.journal: list[Applied] = []
        self.faults = FaultPlan()
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
        wanted = headers.get("stripe-account", own)
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
            known = Account(account_id, livemode, self._search_lag, self.journal, self._deliver)
            self.accounts[account_id, livemode] = known
        return known

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
