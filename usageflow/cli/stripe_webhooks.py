"""`usageflow stripe webhooks`: what Stripe tells by itself, set up."""

import sys
from typing import Annotated, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import AccountOption, OrganizationOption, scope
from usageflow.errors import ConfigurationError

app = typer.Typer(help="Make, list and remove webhooks at Stripe.", no_args_is_help=True)

HEADER: Final = ("webhook", "events", "made", "address")


@app.command()
def create(
    account: AccountOption = None,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Have Stripe tell of changes: of the account's own, or of all that are connected."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe.accounts import account_of
    from usageflow.stripe.webhook_setup import create as make

    with scope(database, organization) as found:
        with found.db.reading() as tx:
            account_id = account_of(tx, found.organization_id, account).id
        made = make(found.db, found.settings, account_id, actor=CLI)
    for row in made:
        print(f"made {row.endpoint_id} ({row.kind} events) at {row.url}")
    if not made:
        print("nothing was missing; see `usageflow stripe webhooks list`")


@app.command("list")
def list_webhooks(
    organization: OrganizationOption = "default", database: DatabaseOption = None
) -> None:
    """List the webhooks that were made here."""
    from usageflow.cli.tables import table
    from usageflow.stripe.webhook_setup import webhooks

    with scope(database, organization) as found, found.db.reading() as tx:
        rows = [
            (row.endpoint_id, row.kind, f"{row.created_at:%Y-%m-%d %H:%M}", row.url)
            for row in webhooks(tx, found.organization_id)
        ]
    print(table(HEADER, rows))


@app.command()
def remove(
    webhook: Annotated[str, typer.Argument(metavar="WEBHOOK", help="we_... or ed_..., as listed")],
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Forget a webhook: what it brings is refused from now on."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe.webhook_setup import remove as forget

    with scope(database, organization) as found, found.db.transaction() as tx:
        removed = forget(tx, found.organization_id, webhook, actor=CLI)
    if not removed:
        raise ConfigurationError(
            f"there is no webhook {webhook!r}; see `usageflow stripe webhooks list`"
        )
    print(f"removed {webhook}")
    print("delete it in Stripe's dashboard, too, under Developers, Webhooks", file=sys.stderr)
