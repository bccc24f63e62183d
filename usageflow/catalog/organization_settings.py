"""What an organization bills by: its currency, time zone, what is due when, and who it is on paper.

Kept as one JSON document in the organization's row. What follows from a setting is decided where it
is used; a change is for what comes, never for an invoice that was issued.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta
from sqlmodel import col, select, update

from usageflow import money, periods
from usageflow.catalog import audit
from usageflow.catalog.audit import Actor
from usageflow.catalog.people import email_problem
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.db.session import Tx
from usageflow.db.tables import OrganizationRow

GRACE_S_MAX: Final = 30 * 86_400
"""A draft that waits for longer is forgotten, not reviewed."""
DAYS_MAX: Final = 365
"""Payment terms and patience of more than a year are a slip of the hand."""
LATE_HOURS_MAX: Final = 24 * 35
"""As long as invoices look for late usage: what is taken is billed."""
PERCENT_MAX: Final = 100
LINE_CHARS_MAX: Final = 200
LINES_MAX: Final = 6
"""As much as the head of an invoice holds."""
NOTE_CHARS_MAX: Final = 2_000

UnknownCustomer = Literal["create", "refuse"]
Days: TypeAlias = Annotated[int, Meta(ge=0, le=DAYS_MAX)]
Line: TypeAlias = Annotated[str, Meta(max_length=LINE_CHARS_MAX)]


class Issuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose invoices they are: what stands at their head, and the note at their foot."""

    name: Line = ""
    address: Annotated[tuple[Line, ...], Meta(max_length=LINES_MAX)] = ()
    email: Line = ""
    tax_id: Line = ""
    note: Annotated[str, Meta(max_length=NOTE_CHARS_MAX)] = ""


class OrganizationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an organization may choose, with its default.

    `grace_s`: how long a draft waits before it is issued. `suspend_after_days`: days after which an
    unpaid invoice suspends its subscription, None never. `late_hours`: how late usage may come.
    `unknown_customer`: what tracking does with a customer id there is not.
    """

    currency: str = "USD"
    time_zone: str = "UTC"
    grace_s: Annotated[int, Meta(ge=0, le=GRACE_S_MAX)] = 3_600
    payment_terms_days: Days = 14
    suspend_after_days: Days | None = 14
    late_hours: Annotated[int, Meta(ge=0, le=LATE_HOURS_MAX)] = 72
    unknown_customer: UnknownCustomer = "create"
    tax_percent: Decimal | None = None
    issuer: Issuer = Issuer()


_decoder: Final = msgspec.json.Decoder(OrganizationSettings)


def read(tx: Tx, organization_id: str) -> OrganizationSettings:
    """What the organization has chosen; the defaults for what it has not."""
    kept = tx.session.exec(
        select(OrganizationRow.settings).where(col(OrganizationRow.id) == organization_id)
    ).one()
    return OrganizationSettings() if kept is None else _decoder.decode(kept)


def change(
    tx: Tx, organization_id: str, changes: Mapping[str, Any], *, actor: Actor
) -> OrganizationSettings | Refused:
    """Set what `changes` names, also within `issuer`; the rest stays. What is set from now on."""
    take_turn(tx, organization_id)
    before = read(tx, organization_id)
    after = _merged(before, changes)
    if isinstance(after, Refused) or after == before:
        return after
    tx.session.exec(
        update(OrganizationRow)
        .where(col(OrganizationRow.id) == organization_id)
        .values(settings=msgspec.json.encode(after).decode())
    )
    audit.record(
        tx,
        organization_id,
        actor=actor,
        action="organization.settings",
        subject=organization_id,
        before=_named(before, changes),
        after=_named(after, changes),
    )
    return after


def problem(settings: OrganizationSettings) -> Refused | None:
    """What no type can tell: a currency or a zone there is not, and the like."""
    issuer_email = settings.issuer.email
    found = {
        "currency": money.currency_problem(settings.currency),
        "time_zone": periods.zone_problem(settings.time_zone),
        "tax_percent": _tax_problem(settings.tax_percent),
        "issuer.email": email_problem(issuer_email) if issuer_email else None,
    }
    return next((Refused("invalid", why, field) for field, why in found.items() if why), None)


def _tax_problem(percent: Decimal | None) -> str | None:
    fits = percent is None or 0 <= percent <= PERCENT_MAX
    return None if fits else f"from 0 to {PERCENT_MAX}, please"


def _merged(
    before: OrganizationSettings, changes: Mapping[str, Any]
) -> OrganizationSettings | Refused:
    kept = msgspec.to_builtins(before, builtin_types=(Decimal,))
    wanted = {**kept, **changes, "issuer": {**kept["issuer"], **changes.get("issuer", {})}}
    try:
        after = msgspec.convert(wanted, OrganizationSettings)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$.")
        return Refused("invalid", words.replace("`", ""), place.rstrip("`") or None)
    return problem(after) or after


def _named(settings: OrganizationSettings, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names}
