"""Who stands on an invoice, and that it is kept."""

import msgspec

from usageflow.billing.parties import Party, frozen, issuer, kept, payer
from usageflow.catalog import organization_settings
from usageflow.catalog.audit import Actor
from usageflow.catalog.customers import Address
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import CustomerRow

ACTOR = Actor("test")


def test_what_is_kept_is_what_was_known() -> None:
    """A party survives its JSON, whatever its name; a draft has none."""
    party = Party(name='Ä "quoted" \\ </script>', address=("1", "2"), note="IBAN", time_zone="UTC")
    assert kept(frozen(party)) == party
    assert kept("{}") is None


def test_an_issuer_is_what_its_settings_say(database: Database) -> None:
    """Before there are any, it is called by its name."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        assert issuer(tx, organization_id) == Party(name="default")
        issued = {"name": "CloudAI", "address": ["Street 1", "", "Berlin"], "tax_id": "DE1"}
        organization_settings.change(
            tx, organization_id, {"issuer": issued, "time_zone": "Europe/Berlin"}, actor=ACTOR
        )
        assert issuer(tx, organization_id) == Party(
            name="CloudAI",
            address=("Street 1", "Berlin"),
            tax_id="DE1",
            time_zone="Europe/Berlin",
        )


def test_a_payer_has_the_address_of_an_envelope() -> None:
    """Without gaps where something is not known."""
    row = CustomerRow(id="c", organization_id="o", external_id="acme-1")
    assert payer(row) == Party(name="acme-1")
    row.name, row.email = "Acme", "billing@acme.com"
    address = Address(line1="1 Main St", city="Springfield", state="IL", postal_code="62701")
    row.address = msgspec.json.encode(address).decode()
    assert payer(row).lines == ("1 Main St", "Springfield, IL 62701", "billing@acme.com")
    row.address = msgspec.json.encode(Address(country="US")).decode()
    assert payer(row).lines == ("US", "billing@acme.com")
