"""What a command works on: the database, the settings and one organization's part of it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from usageflow.cli.options import server_settings

if TYPE_CHECKING:
    from usageflow.config import Settings
    from usageflow.db.session import Database, Tx
    from usageflow.stripe.client import StripeGateway

NOBODY = ""
"""The id of `default` in a database that only reads and has no organization yet: of nothing."""

OrganizationOption = Annotated[
    str, typer.Option("--organization", metavar="NAME", help="whose things are meant")
]
AccountOption = Annotated[
    str | None,
    typer.Option(
        "--account",
        metavar="ACCOUNT",
        help="acct_... or own; default: the one that usage goes to",
        show_default=False,
    ),
]


def require_no_options(context: typer.Context) -> None:
    """Raises typer.BadParameter for options before a subcommand, where they would mean nothing."""
    given = (context.get_parameter_source(name) for name in context.params)
    if any(source is not None and source.name == "COMMANDLINE" for source in given):
        raise typer.BadParameter(f"options go behind {context.invoked_subcommand!r}")


@dataclass(frozen=True, slots=True)
class Scope:
    """An open database, and whose part of it is meant."""

    db: "Database"
    settings: "Settings"
    organization_id: str

    @contextmanager
    def gateway(self, account: str | None) -> "Iterator[tuple[str, StripeGateway]]":
        """An account of the organization and Stripe as it sees it. Raises ConfigurationError."""
        from usageflow.stripe.access import reaching

        with reaching(self.db, self.settings, self.organization_id, account) as reached:
            yield reached


@contextmanager
def scope(
    database: str | None, organization: str, *, new: bool = False, reading: bool = False
) -> Iterator[Scope]:
    """The database as `opened`, and the organization in it.

    Raises ConfigurationError if there is no such organization.
    """
    with opened(database, new=new, reading=reading) as (db, settings):
        with db.reading() if reading else db.transaction() as tx:
            organization_id = _organization_id(tx, organization, reading=reading)
        yield Scope(db, settings, organization_id)


@contextmanager
def opened(
    database: str | None, *, new: bool = False, reading: bool = False
) -> "Iterator[tuple[Database, Settings]]":
    """The database, migrated unless it is only for `reading`, and the settings.

    Only a `new` one may be made: a mistyped one has nothing to look at.
    """
    from usageflow.db.session import Database

    settings = server_settings(database=database)
    with closing(Database.open(settings.database, create=new)) as db:
        if not reading:
            db.migrate()
        yield db, settings


def _organization_id(tx: "Tx", name: str, *, reading: bool) -> str:
    from usageflow.catalog import organizations

    if name != organizations.DEFAULT:
        return organizations.required(tx, name)
    if reading:
        return organizations.organization(tx, name) or NOBODY
    return organizations.default_organization(tx)
