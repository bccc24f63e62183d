"""Stripe accounts of organizations: which there are, and in which state each is.

An organization sends its usage to one account: its own, or one that its owner connected to our
platform. Test and live mode are kept apart: a database forwards to one of them, for ever. By which
key an account is reached is `access`'s, how an owner connects one is `connect`'s. Nobody is called.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlmodel import col, select

from usageflow.catalog import audit
from usageflow.catalog.secrets import Keyring, Place
from usageflow.db.session import Tx
from usageflow.db.tables import InstallationRow, StripeAccountRow
from usageflow.errors import ConfigurationError

OWN: Final = "own"
"""The kind of an account that is reached with its own key, and its name, which needs no other."""
CONNECT: Final = "connect"
"""The kind of an account that is reached through a platform; its name is `acct_...`."""
OF_STRIPE: Final = (OWN, CONNECT)
MODES: Final = {False: "test", True: "live"}
"""What Stripe calls a mode, by `livemode`."""

TRANSITIONS: Final[Mapping[tuple[str, str], str]] = {
    ("active", "pause"): "paused",
    ("paused", "resume"): "active",
    ("active", "deauthorize"): "deauthorized",
    ("paused", "deauthorize"): "deauthorized",
    ("active", "connect"): "active",
    ("paused", "connect"): "active",
    ("deauthorized", "connect"): "active",
}
"""(state, what happens) -> state. What is not here changes nothing."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an account cannot be used, in a sentence for the one who wanted it."""

    reason: str


def is_live(api_key: str) -> bool:
    """Whether a secret or restricted key is one of live mode."""
    return api_key[2:].startswith("_live_")


def ensure_own(tx: Tx, organization_id: str, *, livemode: bool) -> str:
    """The id of the organization's own account, made if absent, and active: a start tries again.

    Raises ConfigurationError if the database forwards in the other mode: usage that was sent in
    test mode would be missing in live mode, and nobody would notice. The same if the organization
    has another account, or a stored key: it must not be a matter of chance which one is used.
    """
    account = _joined(tx, organization_id, OWN, livemode=livemode, key="USAGEFLOW_STRIPE_API_KEY")
    if isinstance(account, Refused):
        raise ConfigurationError(account.reason)
    if account.secret is not None:
        raise ConfigurationError(
            "USAGEFLOW_STRIPE_API_KEY is set, and another key is stored; unset it, or run "
            "`usageflow stripe key remove`"
        )
    return account.id


def store_key(
    tx: Tx, organization_id: str, api_key: str, keyring: Keyring, *, actor: audit.Actor | str
) -> str:
    """Seal the key of the organization's own account, made if absent, and active; its id.

    Whose key it is must have been seen. Raises ConfigurationError as `ensure_own`, or if there is
    nothing to seal with.
    """
    account = _joined(tx, organization_id, OWN, livemode=is_live(api_key), key="the key")
    if isinstance(account, Refused):
        raise ConfigurationError(account.reason)
    account.secret = keyring.seal(api_key, Place.of(account))
    _record(tx, account, "stripe.key.set", actor, after={"sealed_with": keyring.sealing})
    return account.id


def remove_key(tx: Tx, organization_id: str, *, actor: audit.Actor | str) -> bool:
    """Forget the stored key of the organization's own account, which then stops; False if none.

    What was not sent yet stays, for another key of the same account.
    """
    account = own_account(tx, organization_id)
    if account is None or (account.state == "deauthorized" and account.secret is None):
        return False
    deauthorize(tx, account.id, "its key was removed", actor=actor)
    account.secret = None
    return True


def own_account(tx: Tx, organization_id: str) -> StripeAccountRow | None:
    """The account that the organization reaches with its own key, in whichever state."""
    return next((row for row in accounts(tx, organization_id) if row.kind == OWN), None)


def connect(
    tx: Tx,
    organization_id: str,
    account: str,
    *,
    livemode: bool,
    actor: audit.Actor | str = audit.SYSTEM,
) -> str | Refused:
    """Send the organization's usage to this `acct_...` from now on; or why that cannot be.

    One that was connected before goes on where it stopped.
    """
    joined = _joined(tx, organization_id, account, livemode=livemode, key="the platform's key")
    if isinstance(joined, Refused):
        return joined
    _record(tx, joined, "stripe.connect", actor, after={"account": account, "livemode": livemode})
    return joined.id


def deauthorize(
    tx: Tx, account_id: str, reason: str, *, actor: audit.Actor | str = audit.SYSTEM
) -> bool:
    """The account's owner has withdrawn it: nothing is sent from now on, and nothing is lost.

    False if that was known already.
    """
    return _happens(tx, account_id, "deauthorize", reason, actor)


def pause(tx: Tx, account_id: str, reason: str, *, actor: audit.Actor | str = audit.SYSTEM) -> bool:
    """Stripe refuses the key: nothing is sent until `resume`. False unless it was active."""
    return _happens(tx, account_id, "pause", reason, actor)


def resume(tx: Tx, account_id: str, *, actor: audit.Actor | str = audit.SYSTEM) -> bool:
    """Send again. False unless it was paused."""
    return _happens(tx, account_id, "resume", None, actor)


def accounts(tx: Tx, organization_id: str | None = None) -> Sequence[StripeAccountRow]:
    """Every account, or those of one organization, in the order in which they came."""
    found = select(StripeAccountRow).order_by(
        col(StripeAccountRow.created_at), col(StripeAccountRow.id)
    )
    if organization_id is not None:
        found = found.where(col(StripeAccountRow.organization_id) == organization_id)
    return tx.session.exec(found).all()


def account_of(tx: Tx, organization_id: str, name: str | None = None) -> StripeAccountRow:
    """The organization's Stripe account of this name; without one, the account it sends to.

    Raises ConfigurationError if there is none.
    """
    rows = [row for row in accounts(tx, organization_id) if row.kind in OF_STRIPE]
    if name is not None:
        rows = [row for row in rows if name in (row.account, row.id)]
    # As `folding` chooses: the first that is not withdrawn.
    rows.sort(key=lambda row: row.state == "deauthorized")
    if not rows:
        wanted = "no Stripe account yet" if name is None else f"no Stripe account {name!r}"
        raise ConfigurationError(
            f"there is {wanted}: set USAGEFLOW_STRIPE_API_KEY and start the server, or run "
            "`usageflow stripe key set` or `usageflow stripe connect`"
        )
    return rows[0]


def conflict(
    rows: Iterable[StripeAccountRow],
    organization_id: str,
    account: str,
    *,
    livemode: bool,
    key: str,
) -> str | None:
    """Why the organization cannot use `account` beside the accounts that there are. Pure."""
    for row in rows:
        ours = row.organization_id == organization_id
        if row.kind not in OF_STRIPE:
            continue
        if row.livemode != livemode:
            return (
                f"this database forwards to Stripe's {MODES[row.livemode]} mode, but {key} is a "
                f"{MODES[livemode]} key; use a database of its own for each mode"
            )
        if row.account == account != OWN and not ours:
            return f"{account} is connected to another organization"
        if ours and row.account != account and row.state != "deauthorized":
            return (
                f"usage of this organization goes to {_named(row)} already; end that first, with "
                f"{_way_out(row)}"
            )
    return None


def _joined(
    tx: Tx, organization_id: str, account: str, *, livemode: bool, key: str
) -> StripeAccountRow | Refused:
    """The row of an account that the organization uses from now on, made if absent; or why not."""
    # Others wait, so that two organizations cannot get the same account.
    tx.session.exec(select(InstallationRow).with_for_update(key_share=True)).one()
    rows = accounts(tx)
    reason = conflict(rows, organization_id, account, livemode=livemode, key=key)
    if reason is not None:
        return Refused(reason)
    for row in rows:
        if (row.organization_id, row.account) == (organization_id, account):
            row.state, row.reason = TRANSITIONS[row.state, "connect"], None
            return row
    made = StripeAccountRow(
        id=str(uuid.uuid4()),
        organization_id=organization_id,
        kind=OWN if account == OWN else CONNECT,
        account=account,
        livemode=livemode,
        state="active",
        created_at=tx.now,
    )
    tx.session.add(made)
    tx.session.flush()
    return made


def _happens(
    tx: Tx, account_id: str, what: str, reason: str | None, actor: audit.Actor | str
) -> bool:
    row = tx.session.get_one(StripeAccountRow, account_id, with_for_update=True)
    state = TRANSITIONS.get((row.state, what))
    if state is None:
        return False
    before = {"state": row.state, "reason": row.reason}
    row.state, row.reason = state, reason
    after = {"state": state, "reason": reason}
    _record(tx, row, f"stripe.{what}", actor, before=before, after=after)
    return True


def _record(
    tx: Tx,
    row: StripeAccountRow,
    action: str,
    actor: audit.Actor | str,
    *,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object],
) -> None:
    audit.record(
        tx,
        row.organization_id,
        actor=actor,
        action=action,
        subject=row.account,
        before=before,
        after=after,
    )


def _named(row: StripeAccountRow) -> str:
    return "its own account" if row.kind == OWN else row.account


def _way_out(row: StripeAccountRow) -> str:
    command = "key remove" if row.kind == OWN else f"disconnect {row.account}"
    return f"`usageflow stripe {command}`"
