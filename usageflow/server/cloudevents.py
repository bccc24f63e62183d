"""The place in `USAGEFLOW_FORWARD_TO`, as the account that usage is sent to instead of Stripe."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from sqlmodel import col, select

from usageflow.config import Settings
from usageflow.db.session import Tx
from usageflow.db.tables import InstallationRow, StripeAccountRow
from usageflow.errors import ConfigurationError
from usageflow.forwarding.addresses import ByIdentity
from usageflow.forwarding.cloudevents import source_of
from usageflow.forwarding.files import FileSink
from usageflow.forwarding.http import HttpSink
from usageflow.forwarding.sink import Sink

FILE: Final = "file:"
CALLS_PER_S: Final = 100.0
"""Requests that begin in a second, of 100 units each; `USAGEFLOW_STRIPE_CALLS_PER_S` says other."""


@dataclass(frozen=True, slots=True)
class CloudEventsAccount:
    """Where CloudEvents go. `target` is what may be shown: without a password."""

    account_id: str
    target: str
    source: str
    addresses: ByIdentity

    @classmethod
    def ensure(cls, tx: Tx, organization_id: str, settings: Settings) -> Self:
        """The organization's account of `settings.forward_to`, made if absent.

        Raises ConfigurationError if the place cannot be used, or usage goes elsewhere already.
        """
        target = shown(settings.forward_to or "")
        rows = tx.session.exec(
            select(StripeAccountRow).where(
                col(StripeAccountRow.organization_id) == organization_id,
                col(StripeAccountRow.state) != "deauthorized",
            )
        ).all()
        if other := next((row for row in rows if row.account != target), None):
            raise ConfigurationError(
                f"usage goes to {other.account} already, and would go to {target} by "
                "USAGEFLOW_FORWARD_TO; use a database of its own for each"
            )
        account = rows[0] if rows else _made(tx, organization_id, target)
        installation = tx.session.exec(select(InstallationRow.id)).one()
        made = cls(account.id, target, source_of(installation, account.id), ByIdentity())
        made.sink(settings).close()  # a place that cannot be used is not remembered
        return made

    def sink(self, settings: Settings) -> Sink:
        """The sink, open. Raises ConfigurationError if it cannot be used."""
        url = settings.forward_to or ""
        if url.startswith(FILE):
            return FileSink(Path(url.removeprefix(FILE)), source=self.source)
        return HttpSink(
            url,
            source=self.source,
            window_s=None,
            timeout_s=settings.stripe_timeout_s,
            calls_per_s=CALLS_PER_S,
            connections_max=settings.stripe_concurrency,
        )


def shown(url: str) -> str:
    """The place without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _made(tx: Tx, organization_id: str, target: str) -> StripeAccountRow:
    account = StripeAccountRow(
        id=str(uuid.uuid4()),
        organization_id=organization_id,
        kind="cloudevents",
        account=target,
        livemode=False,
        state="active",
        folding="all",
        created_at=tx.now,
    )
    tx.session.add(account)
    tx.session.flush()
    return account
