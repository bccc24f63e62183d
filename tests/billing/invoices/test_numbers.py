"""Numbers: one after the other, for each organization, series and year."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from usageflow.billing.numbers import take
from usageflow.catalog import organizations

if TYPE_CHECKING:
    from tests.billing.invoices.conftest import Books

_SILVESTER = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)


def test_numbers_count_up_by_series_year_and_organization(books: "Books") -> None:
    """Each series begins with 1 in each year; the year is that of the organization's clock."""
    with books.database.transaction() as tx:
        other = organizations.create(tx, "other", actor="test")

        def taken(series: str, organization: str = "", zone: str = "UTC") -> str:
            where = organization or books.organization_id
            return take(tx, where, series, at=_SILVESTER, zone=zone)  # type: ignore[arg-type]

        assert [taken("INV"), taken("INV")] == ["INV-2026-0001", "INV-2026-0002"]
        assert taken("CN") == "CN-2026-0001"
        assert taken("INV", other) == "INV-2026-0001"
        assert taken("INV", zone="Europe/Berlin") == "INV-2027-0001"


def test_what_is_rolled_back_leaves_no_gap(books: "Books") -> None:
    """A number that nobody used is given to the next."""
    with books.database.transaction() as tx:
        take(tx, books.organization_id, "INV", at=_SILVESTER, zone="UTC")
        tx.session.rollback()
    with books.database.transaction() as tx:
        number = take(tx, books.organization_id, "INV", at=_SILVESTER, zone="UTC")
    assert number == "INV-2026-0001"
