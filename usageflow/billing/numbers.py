"""Numbers of invoices and credit notes: one after the other, without a gap, for each year anew.

A number is taken in the transaction that uses it, so what is rolled back leaves none unused, and
two transactions of one organization wait for each other.
"""

from datetime import datetime
from typing import Final, Literal, TypeAlias
from zoneinfo import ZoneInfo

from usageflow.db.billing_tables import NumberSeriesRow
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import insert

Series: TypeAlias = Literal["INV", "CN"]

DIGITS_MIN: Final = 4
"""Numbers are padded to this width; the ten thousandth of a year is simply longer."""


def take(tx: Tx, organization_id: str, series: Series, *, at: datetime, zone: str) -> str:
    """The next number of the year that `at` lies in there: `INV-2026-0001`."""
    year = at.astimezone(ZoneInfo(zone)).year
    rows = table(NumberSeriesRow).c
    statement = (
        insert(tx, NumberSeriesRow)
        .values(organization_id=organization_id, series=series, year=year, last=1)
        .on_conflict_do_update(
            index_elements=["organization_id", "series", "year"], set_={"last": rows.last + 1}
        )
        .returning(rows.last)
    )
    last: int = tx.session.execute(statement).scalar_one()
    return f"{series}-{year}-{last:0{DIGITS_MIN}}"
