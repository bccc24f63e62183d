"""One page of the rows of a statement, and how many there are in all."""

from typing import TypeVar

from sqlmodel import func, select
from sqlmodel.sql.expression import SelectOfScalar

from usageflow.db.columns import Row
from usageflow.db.session import Tx

Found = TypeVar("Found", bound=Row)


def paged(
    tx: Tx, statement: SelectOfScalar[Found], *, offset: int, limit: int
) -> tuple[list[Found], int]:
    """At most `limit` rows after `offset` others, in the statement's order; how many there are."""
    total = tx.session.exec(
        select(func.count()).select_from(statement.order_by(None).subquery())
    ).one()
    return list(tx.session.exec(statement.offset(offset).limit(limit))), total
