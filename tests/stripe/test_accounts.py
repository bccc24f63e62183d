"""The organization's own Stripe account."""

from typing import TYPE_CHECKING

import pytest
from sqlmodel import select

from usageflow.db.tables import StripeAccountRow
from usageflow.errors import ConfigurationError
from usageflow.stripe.accounts import ensure_own

if TYPE_CHECKING:
    from tests.stripe.conftest import Way


def test_it_is_made_once_and_activated_at_each_start(way: "Way") -> None:
    """A pause ends with a new start: perhaps the key is another one."""
    with way.database.transaction() as tx:
        account = tx.session.exec(select(StripeAccountRow)).one()
        assert (account.id, account.account) == (way.account_id, "own")
        account.state, account.reason = "paused", "Invalid API Key"
    with way.database.transaction() as tx:
        assert ensure_own(tx, way.organization_id, livemode=False) == way.account_id
        account = tx.session.exec(select(StripeAccountRow)).one()
        assert (account.state, account.reason) == ("active", None)


def test_modes_are_not_mixed(way: "Way") -> None:
    """A live key on a database that forwards to test mode is refused."""
    with (
        pytest.raises(ConfigurationError, match=r"test mode, but .* is a live key"),
        way.database.transaction() as tx,
    ):
        ensure_own(tx, way.organization_id, livemode=True)
