"""`usageflow stripe connect`, `disconnect` and `key`: which account usage is sent to."""

import sys
from typing import Annotated

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, scope
from usageflow.cli.tables import printed
from usageflow.errors import ConfigurationError

key = typer.Typer(help="Store the key of your own account, or remove it.", no_args_is_help=True)


def connect(organization: OrganizationOption = "default", database: DatabaseOption = None) -> None:
    """Print the link by which its owner connects an account."""
    from usageflow.stripe.connect import link

    with scope(database, organization, new=True) as found, found.db.transaction() as tx:
        url = link(tx, found.settings, found.organization_id)
    print(url)
    print("open it in a browser within 15 minutes; it works once", file=sys.stderr)


def disconnect(
    account: Annotated[
        str | None,
        typer.Argument(help="acct_...; default: the one that usage goes to", show_default=False),
    ] = None,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """End the connection to an account: nothing is sent to it, and nothing is lost."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe.access import platform_key
    from usageflow.stripe.accounts import CONNECT, account_of
    from usageflow.stripe.connect import disconnect as end

    with scope(database, organization) as found:
        platform_key(found.settings)
        with found.db.reading() as tx:
            row = account_of(tx, found.organization_id, account)
            account_id, name, kind = row.id, row.account, row.kind
        if kind != CONNECT:
            raise ConfigurationError("your own account is ended with `usageflow stripe key remove`")
        objection = end(found.db, found.settings, account_id, actor=CLI)
    print(f"disconnected {name}; what was not sent yet is kept")
    if objection is not None:
        print(
            printed(f"Stripe did not confirm it ({objection}); its owner can end it there"),
            file=sys.stderr,
        )


@key.command("set")
def set_key(organization: OrganizationOption = "default", database: DatabaseOption = None) -> None:
    """Store your own account's key, sealed; it is read from standard input."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe.accounts import MODES, is_live
    from usageflow.stripe.own_key import store

    with scope(database, organization, new=True) as found:
        api_key = _read_key()
        owner = store(found.db, found.settings, found.organization_id, api_key, actor=CLI)
    whose = "an account" if owner is None else printed(owner.label)
    print(f"stored the {MODES[is_live(api_key)]} key of {whose}")
    print(
        "a running server uses it at once, if it has the same USAGEFLOW_ENCRYPTION_KEYS",
        file=sys.stderr,
    )


@key.command("remove")
def remove_key(
    organization: OrganizationOption = "default", database: DatabaseOption = None
) -> None:
    """Forget your own account's key: nothing is sent any more, and nothing is lost."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe.own_key import remove as forget

    with scope(database, organization) as found, found.db.transaction() as tx:
        removed = forget(tx, found.organization_id, actor=CLI)
    if not removed:
        raise ConfigurationError("this organization has no key of its own to remove")
    print("removed; what was not sent yet is kept")


def _read_key() -> str:
    """One line: typed without being shown, or piped."""
    if sys.stdin.isatty():
        return str(typer.prompt("Stripe key", hide_input=True, err=True)).strip()
    return sys.stdin.readline().strip()
