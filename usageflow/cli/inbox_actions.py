"""`usageflow inbox attach`, `detach`, `retry`, `carry`, `write-off`: what a person decides."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from usageflow.cli.options import DatabaseOption, ReasonOption
from usageflow.cli.scope import AccountOption, OrganizationOption, Scope, scope
from usageflow.cli.tables import printed
from usageflow.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from usageflow.db.session import Tx
    from usageflow.stripe.remedies import Outcome

UNITS_AT_ONCE = 500
"""Units in one transaction: the server goes on in between."""
PREFIX_CHARS_MIN = 12
"""Of an identifier that is not told in full: `uf1_` and 40 bits."""

FieldArgument = Annotated[str, typer.Argument(help="field of the identity, such as account_id")]
ValueArgument = Annotated[str, typer.Argument(help="its value, such as acct_42")]
IdentifiersArgument = Annotated[
    list[str],
    typer.Argument(metavar="IDENTIFIER...", help="units as the inbox shows them: uf1_..."),
]


def attach(
    field: FieldArgument,
    value: ValueArgument,
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="Stripe's id: cus_...")],
    *,
    account: AccountOption = None,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Say whose an identity is, above what Stripe's metadata say; its parked usage goes on."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe.attachment import attach as put

    with scope(database, organization) as found, found.gateway(account) as (account_id, gateway):
        lanes = put(found.db, account_id, gateway, (field, value), customer, actor=CLI)
    went_on = {0: "", 1: "; what was parked goes on"}.get(lanes, f"; {lanes} parked lanes go on")
    print(printed(f"{field} {value} is {customer} from now on{went_on}"))


def detach(
    field: FieldArgument,
    value: ValueArgument,
    *,
    account: AccountOption = None,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Take back what `attach` said: from now on Stripe's metadata say whose an identity is."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe.accounts import account_of
    from usageflow.stripe.attachment import detach as take_back

    with scope(database, organization) as found, found.db.transaction() as tx:
        account_id = account_of(tx, found.organization_id, account).id
        taken_back = take_back(tx, account_id, (field, value), actor=CLI)
    if not taken_back:
        raise ConfigurationError(f"{field} {value} is attached to no customer")
    print(printed(f"{field} {value} is whose Stripe's metadata say, from now on"))


def retry(
    identifiers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IDENTIFIER...",
            help="units as the inbox shows them: uf1_...",
            show_default=False,
        ),
    ] = None,
    *,
    code: Annotated[
        str | None,
        typer.Option("--code", help="all that Stripe refused with it, such as no_meter"),
    ] = None,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Send units again, after what was in their way is mended."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe import remedies

    if (code is None) is not bool(identifiers):
        raise ConfigurationError("say which units: their identifiers, or --code")

    def again(tx: "Tx", organization_id: str, some: Sequence[str]) -> "list[Outcome]":
        return remedies.retry(tx, organization_id, some, actor=CLI)

    _apply(again, identifiers or [], organization, database, code=code)


def carry(
    identifiers: IdentifiersArgument,
    *,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Send units that are too old for Stripe as usage of now."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe import remedies

    def over(tx: "Tx", organization_id: str, some: Sequence[str]) -> "list[Outcome]":
        return remedies.carry(tx, organization_id, some, actor=CLI)

    _apply(over, identifiers, organization, database)


def write_off(
    identifiers: IdentifiersArgument,
    *,
    reason: ReasonOption,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Give units up: they are never billed."""
    from usageflow.catalog.audit import CLI
    from usageflow.stripe import remedies

    def off(tx: "Tx", organization_id: str, some: Sequence[str]) -> "list[Outcome]":
        return remedies.write_off(tx, organization_id, some, reason, actor=CLI)

    _apply(off, identifiers, organization, database)


def _apply(
    remedy: "Callable[[Tx, str, Sequence[str]], list[Outcome]]",
    identifiers: Sequence[str],
    organization: str,
    database: str | None,
    *,
    code: str | None = None,
) -> None:
    """Tell what became of each unit; exit status 1 if one could not be helped."""
    from usageflow.stripe.remedies import refused_with

    refused = 0
    with scope(database, organization) as found:
        if code is not None:
            with found.db.reading() as tx:
                identifiers = refused_with(tx, found.organization_id, code)
            if not identifiers:
                print(printed(f"No unit is quarantined with {code}."))
        else:
            identifiers = _whole(found, identifiers)
        for start in range(0, len(identifiers), UNITS_AT_ONCE):
            with found.db.transaction() as tx:
                some = identifiers[start : start + UNITS_AT_ONCE]
                outcomes = remedy(tx, found.organization_id, some)
            for identifier, done, told in outcomes:
                file = sys.stdout if done else sys.stderr
                print(printed(f"{identifier}: {told}"), file=file)
            refused += sum(not outcome.done for outcome in outcomes)
    if refused:
        raise typer.Exit(1)


def _whole(found: Scope, identifiers: Sequence[str]) -> list[str]:
    """Identifiers in full, of which the beginning may have been told.

    Raises ConfigurationError for one that several units begin with.
    """
    from sqlmodel import col, select

    from usageflow.db.tables import UnitRow

    whole = []
    for told in identifiers:
        begins = col(UnitRow.identifier).startswith(told, autoescape=True)
        ours = col(UnitRow.organization_id) == found.organization_id
        with found.db.reading() as tx:
            known = tx.session.exec(
                select(UnitRow.identifier).where(ours, col(UnitRow.identifier) == told)
            ).all()
            if not known and len(told) >= PREFIX_CHARS_MIN:
                known = tx.session.exec(select(UnitRow.identifier).where(ours, begins)).all()
        if len(known) > 1:
            raise ConfigurationError(f"{len(known)} units begin with {told}; tell more of it")
        whole.append(known[0] if known else told)
    return whole
