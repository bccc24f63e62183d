"""Metrics: what is counted. One exists as soon as a policy or an event names it, or a person does.

How events add up under a metric is `ledger`'s.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Literal, TypedDict, Unpack

import msgspec
from sqlalchemy import ColumnElement
from sqlmodel import col, func, or_, select, update

from usageflow.catalog import audit, uses
from usageflow.catalog.audit import Actor
from usageflow.catalog.listings import paged
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import MetricRow
from usageflow.policies.models import Metric

Aggregation = Literal["SUM", "COUNT", "MAX", "UNIQUE_COUNT", "LAST"]
"""How the quantities of a period become one: `db.tables.AGGREGATIONS`."""

FILTERS_MAX: Final = 10
"""Filters of a metric; each is tried on every event."""
FILTER_VALUES_MAX: Final = 100
"""Values that one filter lets through."""


class Filter(msgspec.Struct, frozen=True):
    """An event counts only if this property of its metadata is one of these texts."""

    property: str
    values: tuple[str, ...]


class MetricDetails(TypedDict, total=False):
    """What a metric is beside its key; see `MetricRow`."""

    name: str
    unit: str
    aggregation: Aggregation
    property: str | None
    filters: Sequence[Filter]
    description: str


def known(tx: Tx, organization_id: str) -> list[str]:
    """The keys of the organization's metrics, in order."""
    return list(
        tx.session.exec(
            select(MetricRow.key)
            .where(col(MetricRow.organization_id) == organization_id)
            .order_by(col(MetricRow.key))
        )
    )


def create(tx: Tx, organization_id: str, keys: Collection[str]) -> list[str]:
    """Create those that do not exist, with their key as name; which ones that were, in order."""
    rows = [
        {"organization_id": organization_id, "key": key, "name": key, "created_at": tx.now}
        for key in keys
    ]
    made = insert_new(tx, MetricRow, rows, key=["organization_id", "key"], give="key")
    return sorted(row.key for row in made)


def describe(tx: Tx, organization_id: str, metrics: Iterable[Metric]) -> list[str]:
    """Give metrics the name and unit they are declared with; which of them are new, in order.

    What a declaration leaves out stays as it is.
    """
    declared = {metric.key: metric for metric in metrics}
    made = create(tx, organization_id, declared)
    for key, metric in declared.items():
        values = {"name": metric.name, "unit": metric.unit}
        given = {column: value for column, value in values.items() if value is not None}
        if given:
            tx.session.exec(
                update(MetricRow)
                .where(col(MetricRow.organization_id) == organization_id, col(MetricRow.key) == key)
                .values(given)
            )
    return made


def find(tx: Tx, organization_id: str, name: str) -> MetricRow | None:
    """The metric of this key, id or token; a key may be written in other capitals.

    None as well where several keys differ from `name` in capitals alone: nobody guesses.
    """
    if "\0" in name:  # PostgreSQL takes no such text, and no metric is called so
        return None
    exact = tx.session.get(MetricRow, (organization_id, name))
    if exact is not None:
        return exact
    found = tx.session.exec(
        select(MetricRow).where(
            col(MetricRow.organization_id) == organization_id,
            or_(
                col(MetricRow.id) == name,
                col(MetricRow.token) == name,
                _same_but_for_capitals(name),
            ),
        )
    ).all()
    named = [row for row in found if name in (row.id, row.token)] or found
    return named[0] if len(named) == 1 else None


def listing(
    tx: Tx, organization_id: str, *, search: str | None = None, offset: int, limit: int
) -> tuple[list[MetricRow], int]:
    """Metrics by key, and how many there are; `search` is a part of their key or name."""
    statement = select(MetricRow).where(col(MetricRow.organization_id) == organization_id)
    if search is not None:
        texts = (col(MetricRow.key), col(MetricRow.name))
        statement = statement.where(
            or_(*(text.icontains(search, autoescape=True) for text in texts))
        )
    return paged(tx, statement.order_by(col(MetricRow.key)), offset=offset, limit=limit)


def ids(tx: Tx, organization_id: str, keys: Collection[str]) -> dict[str, str]:
    """The ids of metrics by their keys."""
    found = tx.session.exec(
        select(MetricRow.key, MetricRow.id).where(
            col(MetricRow.organization_id) == organization_id, col(MetricRow.key).in_(keys)
        )
    )
    return dict(found.all())


def filters_of(metric: MetricRow) -> tuple[Filter, ...]:
    """The filters of a metric: an event counts if all of them let it through."""
    return msgspec.json.decode(metric.filters, type=tuple[Filter, ...])


def define(
    tx: Tx, organization_id: str, *, key: str, actor: Actor, **details: Unpack[MetricDetails]
) -> MetricRow | Refused:
    """Make a metric; refused if there is one of this key, in whatever capitals."""
    take_turn(tx, organization_id)
    taken = tx.session.exec(
        select(MetricRow.key).where(
            col(MetricRow.organization_id) == organization_id, _same_but_for_capitals(key)
        )
    ).first()
    if taken is not None:
        return Refused("conflict", f"there is a metric {taken} already; change that one", "key")
    row = MetricRow(
        organization_id=organization_id,
        key=key,
        **({"name": key} | _columns(details)),
        created_at=tx.now,
    )
    tx.session.add(row)
    tx.session.flush()
    audit.record(
        tx, organization_id, actor=actor, action="metric.create", subject=key, after=told(row)
    )
    return row


def change(
    tx: Tx, organization_id: str, metric: str, *, actor: Actor, **details: Unpack[MetricDetails]
) -> MetricRow | Refused:
    """Change what is given. Property and filters concern the events to come.

    The aggregation is refused once something was counted: sums are not counts of values.
    """
    take_turn(tx, organization_id)
    row = find(tx, organization_id, metric)
    if row is None:
        return unknown(metric)
    aggregation = details.get("aggregation", row.aggregation)
    if aggregation != row.aggregation and uses.counted(tx, organization_id, row.key):
        return Refused(
            "conflict",
            f"usage was counted under {row.key} as {row.aggregation}; "
            f"make another metric to count it as {aggregation}",
            "aggregation",
        )
    before = told(row)
    for column, value in _columns(details).items():
        setattr(row, column, value)
    tx.session.flush()
    if told(row) != before:
        audit.record(
            tx,
            organization_id,
            actor=actor,
            action="metric.change",
            subject=row.key,
            before=before,
            after=told(row),
        )
    return row


def delete(tx: Tx, organization_id: str, metric: str, *, actor: Actor) -> Refused | None:
    """Delete a metric that nothing uses: no event, feature, policy or version of a plan."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, metric)
    if row is None:
        return unknown(metric)
    user = uses.of_metric(tx, organization_id, row.key)
    if user is not None:
        return Refused("conflict", f"the metric {row.key} cannot be deleted: {user}")
    before = told(row)
    tx.session.delete(row)
    audit.record(
        tx, organization_id, actor=actor, action="metric.delete", subject=row.key, before=before
    )
    return None


def unknown(name: str, field: str | None = None) -> Refused:
    """There is no such metric; `field` if it is named in a body."""
    if field is None:
        return Refused("not_found", f"there is no metric {name}")
    return Refused("invalid", f"there is no metric {name}; make it first", field)


def told(row: MetricRow) -> dict[str, Any]:
    """What a metric is, as plain values: what the audit log keeps of it."""
    return {
        "key": row.key,
        "name": row.name,
        "unit": row.unit,
        "aggregation": row.aggregation,
        "property": row.property,
        "filters": msgspec.json.decode(row.filters),
        "description": row.description,
    }


def _same_but_for_capitals(key: str) -> ColumnElement[bool]:
    return func.lower(col(MetricRow.key)) == key.lower()


def _columns(details: MetricDetails) -> dict[str, Any]:
    values: dict[str, Any] = {**details}
    if "filters" in values:
        values["filters"] = msgspec.json.encode(list(values["filters"])).decode()
    return values
