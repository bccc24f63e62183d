"""`usageflow keys`: make, list and revoke the API keys of edges, also while the server runs."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from usageflow.cli.options import DatabaseOption, server_settings
from usageflow.errors import ConfigurationError

if TYPE_CHECKING:
    from usageflow.db.session import Tx

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

OrganizationOption = Annotated[str, typer.Option("--organization", help="whose keys")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="what the key is for, such as the edge's name")],
    scope: Annotated[
        list[str],
        typer.Option(help="usage.write, usage.read, policies.write, metrics.read; repeatable"),
    ],
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Make a key and print it, once."""
    from usageflow.catalog.keys import create_key

    with _organization(database, organization) as (tx, organization_id):
        made = create_key(tx, organization_id, name, scope)
    # Only after the commit: a key that is shown works. Alone on stdout, for $(...) in a shell.
    print(made.secret)
    print(
        f"key {name!r} ({made.api_key.scopes}): keep it, it cannot be shown again", file=sys.stderr
    )


@app.command("list")
def list_keys(
    organization: OrganizationOption = "default", database: DatabaseOption = None
) -> None:
    """List the keys; of each only its beginning is known."""
    from usageflow.catalog.keys import listing
    from usageflow.cli.tables import table

    with _organization(database, organization, new=False) as (tx, organization_id):
        rows = [
            (
                key.prefix,
                key.name,
                key.scopes,
                _day(key.created_at),
                _day(key.last_used_at),
                _day(key.revoked_at),
                key.id,
            )
            for key in listing(tx, organization_id)
        ]
    print(table(("key", "name", "scopes", "created", "last used", "revoked", "id"), rows))


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="id of the key, or its beginning as listed")],
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Revoke a key: from now on it is refused."""
    from usageflow.catalog.keys import revoke as revoke_key

    with _organization(database, organization, new=False) as (tx, organization_id):
        if not revoke_key(tx, organization_id, key):
            raise ConfigurationError(f"no key in use is {key!r}; see `usageflow keys list`")
    print(f"revoked {key}")


@contextmanager
def _organization(
    database: str | None, name: str, *, new: bool = True
) -> "Iterator[tuple[Tx, str]]":
    """A transaction on the (migrated) database, and the organization's id.

    Only a `new` database may be made: a mistyped one has no keys to list or revoke.
    """
    from usageflow.catalog.organizations import DEFAULT, default_organization, organization
    from usageflow.db.session import Database

    url = server_settings(database=database).database
    with closing(Database.open(url, create=new)) as db:
        db.migrate()
        with db.transaction() as tx:
            found = default_organization(tx) if name == DEFAULT else organization(tx, name)
            if found is None:
                raise ConfigurationError(f"there is no organization {name!r}")
            yield tx, found


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
