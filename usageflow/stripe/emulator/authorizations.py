"""Connect: who may act for whom. Authorization codes, and the connections that come of them.

Rules and state, no HTTP. A code works once and for five minutes; a second use revokes what the
first connected. A live connection opens the account's test mode as well, a test one never its live
mode. What connects or ends is told to the platform as an event.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Final

from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

CODE_VALID_FOR: Final = timedelta(minutes=5)
SCOPES: Final = ("read_only", "read_write")
APPLICATION: Final = "application"
SEEDED_CLIENT_ID: Final = "ca_seeded"
"""The application of a connection that was seeded."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An OAuth error: its name and what a person reads."""

    name: str
    description: str


@dataclass(slots=True)
class Code:
    """What an account's owner allowed a client. `used_by` is the platform that has had it."""

    text: str
    client_id: str
    account_id: str
    scope: str
    redirect_uri: str
    issued_at: datetime
    used_by: Account | None = None


class Authorizations:
    """The codes of one world and the connections made with them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.reset()
        world.on_reset.append(self.reset)

    def reset(self) -> None:
        """Forget every code."""
        self._codes: dict[str, Code] = {}
        self._numbers = count(1)

    def issue(self, client_id: str, account_id: str, scope: str, redirect_uri: str) -> Code:
        """A code that stands for the owner's consent."""
        text = f"ac_emulated{next(self._numbers):016d}"
        code = Code(text, client_id, account_id, scope, redirect_uri, self._world.now())
        self._codes[text] = code
        return code

    def exchange(self, platform: Account, text: str, redirect_uri: str | None) -> Code | Refused:
        """Use a code up: its account is connected to `platform`, in the mode of its key."""
        code = self._codes.get(text)
        if code is None:
            return _no_grant(f"Authorization code does not exist: {text}")
        if code.used_by is not None:
            self.disconnect(code.used_by, code.account_id)
            return _no_grant(f"This authorization code has already been used: {text}")
        refusal = self._refusal(code, platform, redirect_uri)
        if refusal is not None:
            return refusal
        code.used_by = platform
        for livemode in sorted({platform.livemode, False}):
            account = self._world.ensure(code.account_id, livemode=livemode)
            account.platforms.add(platform.object_id)
            account.objects[APPLICATION][platform.object_id] = code.client_id
        self._tell(platform, code.account_id, "authorized")
        return code

    def _refusal(self, code: Code, platform: Account, redirect_uri: str | None) -> Refused | None:
        if self._world.now() - code.issued_at >= CODE_VALID_FOR:
            return _no_grant(f"Authorization code expired: {code.text}")
        if redirect_uri not in (None, code.redirect_uri):
            return _no_grant("The redirect URI is not the one of the authorization.")
        if livemode_of(code.client_id) not in (None, platform.livemode):
            return _no_grant("The code and the API key are not of the same mode.")
        if code.account_id == platform.object_id:
            return _no_grant("A platform cannot connect to itself.")
        return None

    def client_of(self, platform: Account, account_id: str) -> str | None:
        """The client the account is connected to this platform by; None if it is not."""
        account = self._world.accounts.get((account_id, platform.livemode))
        if account is None or platform.object_id not in account.platforms - {account_id}:
            return None
        client_id: str = account.objects[APPLICATION].get(platform.object_id, SEEDED_CLIENT_ID)
        return client_id

    def disconnect(self, platform: Account, account_id: str) -> bool:
        """End a connection, with the test mode that a live one opened; whether there was one."""
        if self.client_of(platform, account_id) is None:
            return False
        self._tell(platform, account_id, "deauthorized")
        for livemode in {platform.livemode, False}:
            account = self._world.ensure(account_id, livemode=livemode)
            account.platforms.discard(platform.object_id)
            account.objects[APPLICATION].pop(platform.object_id, None)
        return True

    def _tell(self, platform: Account, account_id: str, change: str) -> None:
        """An event about the connection, for this platform and no other."""
        account = self._world.ensure(account_id, livemode=platform.livemode)
        application = {"id": self.client_of(platform, account_id), "object": APPLICATION}
        everyone, account.platforms = account.platforms, {platform.object_id}
        account.emit(f"account.application.{change}", application, self._world.now())
        account.platforms = everyone


def livemode_of(client_id: str) -> bool | None:
    """The mode a client id names: `ca_live_...` or `ca_test_...`; any other one fits both."""
    return {"live": True, "test": False}.get(client_id.split("_")[1])


def _no_grant(description: str) -> Refused:
    return Refused("invalid_grant", description)
