"""`usageflow keys`: make, list and revoke the API keys of edges, also while the server runs."""

import sys
from datetime import datetime
from typing import Annotated

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, scope
from usageflow.errors import ConfigurationError

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="what the key is for, such as the edge's name")],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope",
            help="usage.write, usage.read, policies.write, metrics.read, billing.read, "
            "billing.write; repeatable",
        ),
    ],
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Make a key and print it, once."""
    from usageflow.catalog.keys import create_key

    with scope(database, organization, new=True) as found, found.db.transaction() as tx:
        made = create_key(tx, found.organization_id, name, scopes)
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

    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
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
            for key in listing(tx, found.organization_id)
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

    with scope(database, organization) as found, found.db.transaction() as tx:
        if not revoke_key(tx, found.organization_id, key):
            raise ConfigurationError(f"no key in use is {key!r}; see `usageflow keys list`")
    print(f"revoked {key}")


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
