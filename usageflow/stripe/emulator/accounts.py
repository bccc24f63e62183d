"""Accounts as the API shows them: one's own, and to a platform those connected to it."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.invoice import DEFAULT_CURRENCY
from usageflow.stripe.emulator.paging import page, within
from usageflow.stripe.emulator.replies import Reply, error, ok
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World


def own(account: Account, _call: Call, _now: datetime) -> Reply:
    """`GET /v1/account`: whom the request speaks to."""
    return ok(_shown(account))


def list_all(world: World, account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/accounts`: the connected ones, latest first. None tells when it was created."""
    shown = [
        _shown(one)
        for one in reversed(_connected(world, account))
        if within(None, call.params.get("created"))
    ]
    return page(shown, call.params, "/v1/accounts")


def retrieve(world: World, account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/accounts/{account}`: oneself or a connected one."""
    wanted = call.path["account"]
    for one in (account, *_connected(world, account)):
        if one.object_id == wanted:
            return ok(_shown(one))
    message = f"The provided key does not have access to account '{wanted}'."
    return error(403, message, code="account_invalid")


def handlers(world: World) -> dict[str, Callable[[Account, Call, datetime], Reply]]:
    """The operations on the accounts of one world."""
    return {
        "GetV1Account": own,
        "GetV1Accounts": partial(list_all, world),
        "GetV1AccountsAccount": partial(retrieve, world),
    }


def _connected(world: World, account: Account) -> list[Account]:
    return [
        one
        for one in world.accounts.values()
        if one is not account
        and one.livemode == account.livemode
        and account.object_id in one.platforms
    ]


def _shown(account: Account) -> dict[str, Any]:
    return {
        "id": account.object_id,
        "object": "account",
        "charges_enabled": True,
        "country": "US",
        "default_currency": DEFAULT_CURRENCY,
        "details_submitted": True,
        "email": None,
        "metadata": {},
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": account.object_id, "timezone": "Etc/UTC"}},
        "type": "standard",
    }
