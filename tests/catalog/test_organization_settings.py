"""An organization's settings: defaults, what may be chosen, and that a change is noted."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from sqlmodel import select

from usageflow.catalog import organization_settings
from usageflow.catalog.audit import Actor
from usageflow.catalog.organization_settings import Issuer, OrganizationSettings
from usageflow.catalog.organizations import create, default_organization
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Database, Tx
from usageflow.db.tables import AuditRow

ADA = Actor("ada@example.com", "req_1")


@pytest.fixture
def tx(database: Database) -> Iterator[Tx]:
    """An open transaction."""
    with database.transaction() as opened:
        yield opened


@pytest.fixture
def organization_id(tx: Tx) -> str:
    """The default organization."""
    return default_organization(tx)


def change(tx: Tx, organization_id: str, **changes: Any) -> OrganizationSettings | Refused:
    """As Ada."""
    return organization_settings.change(tx, organization_id, changes, actor=ADA)


def test_the_defaults(tx: Tx, organization_id: str) -> None:
    """Who has chosen nothing bills in dollars, by UTC, after an hour."""
    assert organization_settings.read(tx, organization_id) == OrganizationSettings(
        currency="USD",
        time_zone="UTC",
        grace_s=3600,
        payment_terms_days=14,
        suspend_after_days=14,
        late_hours=72,
        unknown_customer="create",
        tax_percent=None,
        issuer=Issuer(),
    )


def test_a_change_keeps_the_rest(tx: Tx, organization_id: str) -> None:
    """Also within the issuer; what may be nothing can be set to nothing; others are untouched."""
    other = create(tx, "other", actor=ADA)
    change(tx, organization_id, currency="EUR", tax_percent=Decimal("19.5"))
    change(tx, organization_id, issuer={"name": "Acme", "tax_id": "DE1"}, suspend_after_days=None)
    changed = change(tx, organization_id, issuer={"address": ["Main St 1", "Berlin"]})
    assert changed == organization_settings.read(tx, organization_id)
    assert changed == OrganizationSettings(
        currency="EUR",
        tax_percent=Decimal("19.5"),
        suspend_after_days=None,
        issuer=Issuer(name="Acme", tax_id="DE1", address=("Main St 1", "Berlin")),
    )
    assert organization_settings.read(tx, other) == OrganizationSettings()


def test_a_change_is_noted_once(tx: Tx, organization_id: str) -> None:
    """By whom, and what it was before; what changes nothing leaves no trace."""
    for _ in range(2):
        change(tx, organization_id, time_zone="Europe/Berlin")
    (noted,) = tx.session.exec(select(AuditRow)).all()
    assert (noted.actor, noted.request_id, noted.action) == (*ADA, "organization.settings")
    assert msgspec.json.decode(noted.before or "") == {"time_zone": "UTC"}
    assert msgspec.json.decode(noted.after or "") == {"time_zone": "Europe/Berlin"}


def test_what_cannot_be_chosen(tx: Tx, organization_id: str) -> None:
    """The refusal names the field, and nothing changes."""
    cases: list[tuple[str, Any, str | None, str]] = [
        ("currency", "usd", "currency", "write USD"),
        ("currency", "XXX", "currency", "not a currency"),
        ("time_zone", "Mars/Base", "time_zone", "time zone"),
        ("grace_s", -1, "grace_s", "Expected int >= 0"),
        ("grace_s", True, "grace_s", "Expected int"),
        ("payment_terms_days", 366, "payment_terms_days", "Expected int <= 365"),
        ("late_hours", 1.5, "late_hours", "Expected int"),
        ("unknown_customer", "guess", "unknown_customer", "Invalid enum value 'guess'"),
        ("tax_percent", Decimal("100.1"), "tax_percent", "from 0 to 100"),
        ("tax_percent", Decimal("-0.1"), "tax_percent", "from 0 to 100"),
        ("issuer", {"email": "nobody"}, "issuer.email", "An address"),
        ("issuer", {"name": "x" * 201}, "issuer.name", "length <= 200"),
        ("issuer", {"address": ["x"] * 7}, "issuer.address", "length <= 6"),
        ("issuer", {"logo": "x"}, "issuer", "unknown field logo"),
        ("colour", "red", None, "unknown field colour"),
    ]
    for field, value, where, words in cases:
        refused = change(tx, organization_id, **{"payment_terms_days": 7, field: value})
        assert isinstance(refused, Refused)
        assert (refused.code, refused.field) == ("invalid", where)
        assert words in refused.message
    assert organization_settings.read(tx, organization_id) == OrganizationSettings()
