"""`usageflow stripe sync-meters`: the meters that the policies need, listed and made."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import AccountOption, OrganizationOption, scope
from usageflow.cli.tables import printed, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usageflow.stripe.sync_meters import Step

HEADER: Final = ("event name", "meter", "formula", "what", "policies", "why")


def sync_meters(
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="create and reactivate what is listed so")
    ] = False,
    account: AccountOption = None,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Compare the policies' event names with the account's meters; with --yes, make what lacks."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe.meters import Meters
    from usageflow.stripe.sync_meters import apply, plan, wanted

    with scope(database, organization) as found:
        with found.db.reading() as tx:
            names = wanted(tx, found.organization_id)
        with found.gateway(account) as (account_id, gateway):
            steps = plan(names, gateway.list_meters())
            _print(steps)
            if yes and any(step.action for step in steps):
                for meter in apply(found.db, account_id, gateway, steps, actor=CLI):
                    print(printed(f"done: {meter.event_name} is {meter.meter_id}"))
                Meters(found.db, account_id, gateway).refresh()
                steps = [step for step in steps if step.action is None]
    if any(step.state != "ok" for step in steps):
        raise typer.Exit(1)


def _print(steps: "Sequence[Step]") -> None:
    if not steps:
        print("No policy in use sends anything to Stripe.")
        return
    rows = [
        (
            step.wanted.event_name,
            step.meter.meter_id if step.meter else "-",
            step.meter.formula if step.meter else "-",
            step.action or step.state,
            ", ".join(step.wanted.policies),
            step.reason,
        )
        for step in steps
    ]
    print(table(HEADER, rows))
