"""`usageflow stripe status`: how the way to each account is. Reads only."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from usageflow.cli.options import DatabaseOption
from usageflow.cli.scope import OrganizationOption, Scope, scope
from usageflow.cli.tables import printed, table

if TYPE_CHECKING:
    from usageflow.stripe.status import AccountStatus, LiveStatus, MeterStatus

METERS_HEADER: Final = ("event name", "formula", "status", "policies", "problem")


def status(
    *,
    live: Annotated[
        bool, typer.Option("--live", help="ask Stripe for its meters and the account's name")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Show accounts, their meters, what is on its way, and what differs."""
    from usageflow.stripe.status import statuses

    with scope(database, organization, reading=True) as found:
        told = _asked(found) if live else {}
        with found.db.reading() as tx:
            shown = statuses(tx, found.settings, found.organization_id, told)
    if as_json:
        _print_json(shown)
    elif not shown:
        print(
            "No Stripe account yet: set USAGEFLOW_STRIPE_API_KEY and start the server, or run\n"
            "`usageflow stripe key set` or `usageflow stripe connect`."
        )
    else:
        print("\n\n".join(map(_text, shown)))
    if any(isinstance(one.live, str) and one.state != "deauthorized" for one in shown):
        raise typer.Exit(1)


def _asked(found: Scope) -> "dict[str, LiveStatus | str]":
    """What Stripe says of each account, by its id; no transaction is open meanwhile."""
    from usageflow.catalog.secrets import Keyring
    from usageflow.stripe.access import access
    from usageflow.stripe.accounts import OF_STRIPE, accounts
    from usageflow.stripe.status import ask

    keyring = Keyring.read(found.settings.encryption_keys)
    with found.db.reading() as tx:
        reached = {
            row.id: access(row, found.settings, keyring)
            for row in accounts(tx, found.organization_id)
            if row.kind in OF_STRIPE
        }
    return {account_id: ask(found.settings, one) for account_id, one in reached.items()}


def _print_json(shown: "Sequence[AccountStatus]") -> None:
    """Numbers have every digit they have, never through a binary float."""
    import msgspec

    encoder = msgspec.json.Encoder(decimal_format="number")
    sys.stdout.buffer.write(encoder.encode({"accounts": shown}) + b"\n")
    sys.stdout.buffer.flush()


def _text(one: "AccountStatus") -> str:
    rows = [
        ("usage", _usage(one)),
        ("drift", _drift(one)),
        ("webhooks", ", ".join(f"{hook.kind} to {hook.url}" for hook in one.webhooks) or "none"),
        ("reads today", f"{one.reads_today}"),
    ]
    if one.late:
        rows.insert(1, ("late", f"{one.late} units of a billing period that has ended"))
    if one.live is not None:
        rows.append(("Stripe says", _live(one.live)))
    lines = [printed(_title(one)), *(printed(f"  {name:<12} {value}") for name, value in rows)]
    if one.meters:
        lines += ["", table(METERS_HEADER, [_meter(meter) for meter in one.meters])]
    return "\n".join(lines)


def _title(one: "AccountStatus") -> str:
    name = "own account" if one.kind == "own" else one.account
    state = f"{one.state}, but nothing is sent" if one.state == "active" else one.state
    return f"{name} ({one.mode} mode): " + (f"{state}: {one.problem}" if one.problem else one.state)


def _usage(one: "AccountStatus") -> str:
    """By state; and how far behind it is."""
    units = ", ".join(f"{count} {state}" for state, count in one.units.items())
    behind = "nothing waits" if one.lag_s is None else f"the oldest waits for {_span(one.lag_s)}"
    return f"{behind}; units: {units or 'none on their way'}"


def _drift(one: "AccountStatus") -> str:
    if not one.drifts:
        return "none"
    return f"{one.drift:f} in {one.drifts} {'hour' if one.drifts == 1 else 'hours'}"


def _span(seconds: float) -> str:
    """A time to grasp rather than to count with."""
    for name, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {name}"
    return f"{seconds:.0f} s"


def _live(live: "LiveStatus | str") -> str:
    if isinstance(live, str):
        return live
    return f"{live.owner.label}, its clock is {round(live.clock_skew_s):+d} s from ours"


def _meter(one: "MeterStatus") -> tuple[Any, ...]:
    policies = ", ".join(one.policies) or "-"
    return one.event_name, one.formula or "-", one.status, policies, one.problem or ""
