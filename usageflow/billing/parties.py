"""Who bills and who is billed, as they stand on an invoice.

Kept with it as JSON when it is issued (`invoice.bill_from`, `invoice.bill_to`), so that what a
customer got does not change when an address does. Drafts show what is known today.
"""

from typing import Final

import msgspec

from usageflow.catalog import organization_settings
from usageflow.catalog.customers import Address
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, OrganizationRow

_NOBODY: Final = "{}"
"""What a draft has in place of a party."""


class Party(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name and what stands below it; what is not known is empty.

    Of an issuer too: the note at the foot of its invoices, and the zone that their days are of.
    """

    name: str
    address: tuple[str, ...] = ()
    email: str = ""
    tax_id: str = ""
    note: str = ""
    time_zone: str = "UTC"

    @property
    def lines(self) -> tuple[str, ...]:
        """What stands below the name."""
        return tuple(line for line in (*self.address, self.email, self.tax_id) if line)


def issuer(tx: Tx, organization_id: str) -> Party:
    """The organization as it is called on paper today."""
    row = tx.session.get_one(OrganizationRow, organization_id)
    settings = organization_settings.read(tx, organization_id)
    told = settings.issuer
    return Party(
        name=told.name or row.display_name or row.name,
        address=tuple(line for line in told.address if line),
        email=told.email,
        tax_id=told.tax_id,
        note=told.note,
        time_zone=settings.time_zone,
    )


def payer(customer: CustomerRow) -> Party:
    """The customer as known today; one without a name is called by what its owner calls it."""
    return Party(
        name=customer.name or customer.external_id,
        address=() if customer.address is None else _envelope(customer.address),
        email=customer.email or "",
    )


def frozen(party: Party) -> str:
    """What is kept with an invoice."""
    return msgspec.json.encode(party).decode()


def kept(text: str) -> Party | None:
    """The party that was kept; None for a draft, which keeps none."""
    return None if text == _NOBODY else msgspec.json.decode(text, type=Party)


def _envelope(text: str) -> tuple[str, ...]:
    """A customer's address as an envelope has it: street, then town, then country."""
    address = msgspec.json.decode(text, type=Address)
    region = " ".join(part for part in (address.state, address.postal_code) if part)
    town = ", ".join(part for part in (address.city, region) if part)
    return tuple(part for part in (address.line1, address.line2, town, address.country) if part)
