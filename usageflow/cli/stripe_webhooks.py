"""`usageflow stripe webhooks`: what Stripe tells by itself, set up."""

import sys
from typing import Annotated, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import AccountOption, OrganizationOption, scope
from usageflow.cli.tables import printed, table
from usageflow.errors import ConfigurationError

app = typer.Typer(help="Make, list and remove webhooks at Stripe.", no_args_is_help=True)

HEADER: Final = ("webhook", "events", "of", "made", "address")


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
        print(printed(f"made {row.endpoint_id} ({row.kind} events) at {row.url}"))
    if made:
        print(
            "a running server takes what they bring if it has the same USAGEFLOW_ENCRYPTION_KEYS",
            file=sys.stderr,
        )
    else:
        print("nothing was missing; see `usageflow stripe webhooks list`")


@app.command("list")
def list_webhooks(
    organization: OrganizationOption = "default", database: DatabaseOption = None
) -> None:
    """List the webhooks that were made here."""
    from usageflow.stripe.webhook_setup import webhooks

    with scope(database, organization, reading=True) as found, found.db.reading() as tx:
        rows = [
            (
                one.endpoint_id,
                one.kind,
                "every organization" if one.for_all else organization,
                f"{one.created_at:%Y-%m-%d %H:%M}",
                one.url,
            )
            for one in webhooks(tx, found.organization_id)
        ]
    print(table(HEADER, rows))


@app.command()
def remove(
    webhook: Annotated[str, typer.Argument(metavar="WEBHOOK", help="we_... or ed_..., as listed")],
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="end one that is for every organization")
    ] = False,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Delete a webhook at Stripe, and forget it: what it brings is refused from now on."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe import webhook_setup

    with scope(database, organization) as found:
        with found.db.reading() as tx:
            ours = webhook_setup.webhooks(tx, found.organization_id)
        meant = next((one for one in ours if one.endpoint_id == webhook), None)
        if meant is None:
            raise ConfigurationError(
                f"there is no webhook {webhook!r}; see `usageflow stripe webhooks list`"
            )
        if meant.for_all and not yes:
            raise ConfigurationError(
                f"{webhook} is our platform's: to remove it ends it for every organization; "
                "say --yes if that is meant"
            )
        objection = webhook_setup.remove(found.db, found.settings, meant, actor=CLI)
    print(f"removed {webhook}")
    if objection is not None:
        print(
            printed(f"Stripe did not delete it ({objection}); delete it in Stripe's dashboard"),
            file=sys.stderr,
        )
