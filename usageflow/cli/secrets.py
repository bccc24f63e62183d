"""`usageflow secrets`: by which keys stored secrets are sealed, and sealing them anew."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

import typer

from usageflow.cli.options import DatabaseOption, server_settings

if TYPE_CHECKING:
    from usageflow.catalog.secrets import Keyring
    from usageflow.db.session import Tx

app = typer.Typer(
    help="Look at how stored secrets are sealed; seal them anew.", no_args_is_help=True
)

HEADER: Final = ("key", "secrets", "here")


@app.command()
def status(database: DatabaseOption = None) -> None:
    """Show how many secrets are sealed with which key, and whether it is here."""
    from usageflow.catalog.secrets import by_key
    from usageflow.cli.tables import table

    with _opened(database) as (tx, keyring):
        found = by_key(tx)
    ours = {key_id: "seals" if not position else "opens" for position, key_id in enumerate(keyring)}
    rows = [
        (key_id, str(found.get(key_id, 0)), ours.get(key_id, "missing"))
        for key_id in dict.fromkeys([*ours, *found])
    ]
    print(table(HEADER, rows))
    if found.keys() - ours.keys():
        raise typer.Exit(1)


@app.command()
def rotate(database: DatabaseOption = None) -> None:
    """Seal every stored secret with the first of USAGEFLOW_ENCRYPTION_KEYS."""
    from usageflow.catalog.audit import CLI
    from usageflow.catalog.secrets import rotate as seal_anew

    with _opened(database) as (tx, keyring):
        changed = seal_anew(tx, keyring, actor=CLI)
        key_id = keyring.sealing
    print(f"sealed {changed} anew; all are sealed with the key {key_id}")


@contextmanager
def _opened(database: str | None) -> "Iterator[tuple[Tx, Keyring]]":
    """A transaction on the (migrated) database, and the keys of the environment."""
    from usageflow.catalog.secrets import Keyring
    from usageflow.db.session import Database

    settings = server_settings(database=database)
    keyring = Keyring.read(settings.encryption_keys)
    with closing(Database.open(settings.database, create=False)) as db:
        db.migrate()
        with db.transaction() as tx:
            yield tx, keyring
