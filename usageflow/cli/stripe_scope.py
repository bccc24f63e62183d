"""What the commands about Stripe work on: the database, the settings and an organization."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from usageflow.cli.options import server_settings
from usageflow.errors import ConfigurationError

if TYPE_CHECKING:
    from usageflow.config import Settings
    from usageflow.db.session import Database
    from usageflow.stripe.client import StripeGateway

OrganizationOption = Annotated[str, typer.Option("--organization", help="whose account")]
AccountOption = Annotated[
    str | None,
    typer.Option(
        "--account",
        metavar="ACCOUNT",
        help="acct_... or own; default: the one that usage goes to",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Scope:
    """An open database, and whose part of it is meant."""

    db: "Database"
    settings: "Settings"
    organization_id: str

    @contextmanager
    def gateway(self, account: str | None) -> "Iterator[tuple[str, StripeGateway]]":
        """An account of the organization and Stripe as it sees it. Raises ConfigurationError."""
        from usageflow.catalog.secrets import Keyring
        from usageflow.stripe.access import access
        from usageflow.stripe.accounts import Refused, account_of

        keyring = Keyring.read(self.settings.encryption_keys)
        with self.db.reading() as tx:
            reached = access(account_of(tx, self.organization_id, account), self.settings, keyring)
        if isinstance(reached, Refused):
            raise ConfigurationError(reached.reason)
        with closing(reached.gateway(self.settings)) as gateway:
            yield reached.account_id, gateway


@contextmanager
def scope(database: str | None, organization: str, *, new: bool = False) -> Iterator[Scope]:
    """The database, migrated. Only a `new` one may be made: a mistyped one has no accounts.

    Raises ConfigurationError if there is no such organization.
    """
    from usageflow.catalog import organizations
    from usageflow.db.session import Database

    settings = server_settings(database=database)
    with closing(Database.open(settings.database, create=new)) as db:
        db.migrate()
        with db.transaction() as tx:
            found = (
                organizations.default_organization(tx)
                if organization == organizations.DEFAULT
                else organizations.organization(tx, organization)
            )
        if found is None:
            raise ConfigurationError(f"there is no organization {organization!r}")
        yield Scope(db, settings, found)
