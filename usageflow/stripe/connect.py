"""Connecting an account by OAuth: from a link to the account that usage is sent to.

A link's ticket begins a connection once, or somebody who is signed in does; the connection has a
state, which ends it once, in the browser that began it. Only hashes of them are kept. Tokens are
not: we act with the platform's own key. Pages are `usageflow.api`'s.
"""

import hashlib
import secrets
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from urllib.parse import urlencode

from sqlmodel import col, delete, update

from usageflow.catalog import audit
from usageflow.config import Settings
from usageflow.db.session import Database, Tx
from usageflow.db.tables import OauthStateRow, OrganizationRow, StripeAccountRow
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.stripe import accounts
from usageflow.stripe.access import platform, platform_key
from usageflow.stripe.accounts import MODES, OWN, Refused, is_live
from usageflow.stripe.inbound import Connected

BEGIN_PATH: Final = "/stripe/connect"
CALLBACK_PATH: Final = "/stripe/callback"
TICKET_LIFE: Final = timedelta(minutes=15)
STATE_LIFE: Final = timedelta(minutes=10)
"""Time to log in at Stripe and to choose an account; what Stripe then answers is good for 5."""
KEPT: Final = timedelta(days=1)
"""How long what cannot be used any more is kept, for who looks why."""
REACHABLE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""From this machine, a server that listens on every address."""
SCOPE: Final = "read_write"
"""What is asked for: sending usage is writing."""
NO_SESSION: Final = ""
"""The session of a ticket: no browser has it yet. No hash of a session is empty."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A connection that was begun: what the browser keeps, and what comes back from Stripe."""

    session: str = field(repr=False)
    state: str = field(repr=False)


def public_url(settings: Settings) -> str:
    """Where browsers and Stripe reach this server; without the final slash."""
    if settings.public_url is not None:
        return settings.public_url.rstrip("/")
    host = REACHABLE.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def link(tx: Tx, settings: Settings, organization_id: str) -> str:
    """The link by which the organization's owner connects an account; good once, for TICKET_LIFE.

    Raises ConfigurationError if none can be connected, see `_require_connectable`.
    """
    _require_connectable(tx, settings, organization_id)
    ticket = _token(tx, organization_id, NO_SESSION, TICKET_LIFE)
    return f"{public_url(settings)}{BEGIN_PATH}?{urlencode({'ticket': ticket})}"


def start(tx: Tx, settings: Settings, organization_id: str, *, actor: audit.Actor | str) -> Begun:
    """Begin a connection without a ticket, for somebody who is known to act for the organization.

    Raises ConfigurationError if none can be connected, see `_require_connectable`.
    """
    _require_connectable(tx, settings, organization_id)
    begun = _begun(tx, organization_id)
    audit.record(
        tx, organization_id, actor=actor, action="stripe.connect.begin", subject=organization_id
    )
    return begun


def offered(db: Database, ticket: str) -> str | None:
    """What the organization is called that a ticket connects an account to; None if it is used up.

    A look uses nothing up: scanners of mail open links as well.
    """
    with db.reading() as tx:
        row = tx.session.get(OauthStateRow, _hash(ticket))
        if row is None or not _is_good(tx, row, NO_SESSION):
            return None
        organization = tx.session.get_one(OrganizationRow, row.organization_id)
        return organization.display_name or organization.name


def begin(db: Database, ticket: str) -> Begun | None:
    """Use a ticket up and begin a connection; None if it is good for none."""
    if not _is_open(db, ticket, NO_SESSION):
        return None
    with db.transaction() as tx:
        organization_id = _use(tx, ticket, NO_SESSION)
        return None if organization_id is None else _begun(tx, organization_id)


def claim(db: Database, state: str, session: str) -> str | None:
    """Use a state up, in the browser that has the session: for which organization; None if none."""
    if not _is_open(db, state, _hash(session)):
        return None
    with db.transaction() as tx:
        return _use(tx, state, _hash(session))


def authorize_url(settings: Settings, state: str) -> str:
    """Where the owner decides, at Stripe."""
    with closing(platform(settings)) as gateway:
        return gateway.authorize_url(
            state=state, redirect_uri=f"{public_url(settings)}{CALLBACK_PATH}"
        )


def complete(db: Database, settings: Settings, organization_id: str, code: str) -> str | Refused:
    """Exchange the code, once, and send the organization's usage to the account: its `acct_...`.

    Raises DeliveryError if Stripe does not say that it is connected, and DatabaseError if that
    cannot be noted; it may be connected all the same. To begin anew does no harm; to use the code
    again would end the connection.
    """
    with closing(platform(settings)) as gateway:
        told, ours = gateway.exchange_code(code), gateway.livemode
    reason = problem(told, livemode=ours)
    if reason is not None:
        return Refused(reason)
    with db.transaction() as tx:
        joined = accounts.connect(tx, organization_id, told.account_id, livemode=told.livemode)
    return joined if isinstance(joined, Refused) else told.account_id


def problem(told: Connected, *, livemode: bool) -> str | None:
    """Why usage cannot be sent to an account that Stripe has connected. Pure."""
    if told.livemode != livemode:
        return (
            f"{told.account_id} was connected in {MODES[told.livemode]} mode, and this server "
            f"forwards in {MODES[livemode]} mode"
        )
    return f"{told.account_id} was connected for reading alone" if told.scope != SCOPE else None


def disconnect(
    db: Database, settings: Settings, account_id: str, *, actor: audit.Actor | str
) -> str | None:
    """End a connection; nothing is sent any more. None, or what Stripe said against it."""
    with db.transaction() as tx:
        account = tx.session.get_one(StripeAccountRow, account_id).account
        accounts.deauthorize(tx, account_id, "it was disconnected", actor=actor)
    try:
        with closing(platform(settings)) as gateway:
            gateway.deauthorize(account)
    except DeliveryError as error:
        return str(error)
    return None


def _require_connectable(tx: Tx, settings: Settings, organization_id: str) -> None:
    """Raises ConfigurationError if there is no platform, Stripe would not come back to our address,
    or the organization sends its usage to an account of its own. Forgets what is over.
    """
    livemode = is_live(platform_key(settings))
    if livemode and not public_url(settings).startswith("https://"):
        raise ConfigurationError(
            "Stripe sends owners back to https addresses only in live mode; set "
            "USAGEFLOW_PUBLIC_URL to the one of this server"
        )
    own = [row for row in accounts.accounts(tx) if row.kind == OWN]
    reason = accounts.conflict(
        own, organization_id, "acct_", livemode=livemode, key="the platform's key"
    )
    if reason is not None:
        raise ConfigurationError(reason)
    tx.session.execute(delete(OauthStateRow).where(col(OauthStateRow.expires_at) < tx.now - KEPT))


def _begun(tx: Tx, organization_id: str) -> Begun:
    """A connection that only the browser that gets this session can end."""
    session = secrets.token_urlsafe(32)
    return Begun(session, _token(tx, organization_id, _hash(session), STATE_LIFE))


def _token(tx: Tx, organization_id: str, session_hash: str, life: timedelta) -> str:
    """A new token of 256 random bits, of which the hash is kept."""
    token = secrets.token_urlsafe(32)
    tx.session.add(
        OauthStateRow(
            state_hash=_hash(token),
            session_hash=session_hash,
            organization_id=organization_id,
            created_at=tx.now,
            expires_at=tx.now + life,
        )
    )
    return token


def _is_open(db: Database, token: str, session_hash: str) -> bool:
    """Whether it can be used: who only guesses does not make the database write."""
    with db.reading() as tx:
        row = tx.session.get(OauthStateRow, _hash(token))
        return row is not None and _is_good(tx, row, session_hash)


def _is_good(tx: Tx, row: OauthStateRow, session_hash: str) -> bool:
    return row.session_hash == session_hash and row.used_at is None and tx.now < row.expires_at


def _use(tx: Tx, token: str, session_hash: str) -> str | None:
    """Use it up: of several at the same moment one gets the organization's id."""
    found: str | None = tx.session.scalar(
        update(OauthStateRow)
        .where(
            col(OauthStateRow.state_hash) == _hash(token),
            col(OauthStateRow.session_hash) == session_hash,
            col(OauthStateRow.used_at).is_(None),
            col(OauthStateRow.expires_at) > tx.now,
        )
        .values(used_at=tx.now)
        .returning(col(OauthStateRow.organization_id))
    )
    return found


def _hash(token: str) -> str:
    """256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()
