"""The directory of Stripe's customers: what their metadata was, from when to when.

A row of `stripe_customer` is a moment of a customer's field: from `valid_from` on it was `value`,
"" for none, until the next moment. A customer that is gone has a row without a field, and no value
since; a field for which all customers were listed has a row without a customer. What moments mean
is decided in `identities`; Stripe is asked in `customers`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, case, delete, func, or_, select, update

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import insert, insert_new
from usageflow.db.tables import LaneRow, StripeCustomerRow
from usageflow.ledger import lanes
from usageflow.stripe import identity_lanes
from usageflow.stripe.identities import Identity, Meant, Moment, Place, place
from usageflow.stripe.identity_lanes import by_field

ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Since when a person's word holds: for all usage that is not on its way yet."""

_KEY: Final = ("account_id", "field", "value", "stripe_customer_id", "valid_from")
_rows: Final = table(StripeCustomerRow)


class Change(NamedTuple):
    """A moment of a customer's field, and where it belongs."""

    customer_id: str
    field: str
    moment: Moment
    place: Place


def known(tx: Tx, account_id: str, identities: Collection[Identity]) -> dict[Identity, list[Meant]]:
    """Whom each of these identities meant, and when; those that never meant anybody are absent."""
    found: dict[Identity, list[Meant]] = defaultdict(list)
    row, other = _rows.c, _rows.alias().c
    last = (  # what was last heard of the customer; that it is gone has no field
        select(other.field)
        .where(
            other.account_id == row.account_id,
            other.stripe_customer_id == row.stripe_customer_id,
            other.source == "stripe",
        )
        .order_by(other.valid_from.desc())
        .limit(1)
        .scalar_subquery()
    )
    gone = case((row.valid_until.is_(None), False), else_=last == "")
    attached = row.source == "attached"
    for field, values in by_field(identities):
        ours = select(
            row.value, row.stripe_customer_id, row.valid_from, row.valid_until, attached, gone
        ).where(row.account_id == account_id, row.field == field, row.value.in_(values))
        for value, *one in tx.session.execute(ours):
            found[field, value].append(Meant(*one))
    return found


def lanes_of(tx: Tx, account_id: str, stripe_customer_id: str) -> list[int]:
    """The lanes whose usage is this customer's now, as far as one can tell from its metadata."""
    lane, row = table(LaneRow).c, _rows.c
    return list(
        tx.session.scalars(
            select(lane.id)
            .join(
                _rows,
                (row.account_id == lane.account_id)
                & (row.field == lane.identity_field)
                & (row.value == lane.identity_value),
            )
            .where(
                row.account_id == account_id,
                row.stripe_customer_id == stripe_customer_id,
                row.value != "",
                row.valid_until.is_(None),
            )
            .distinct()
        )
    )


def changed(
    tx: Tx,
    account_id: str,
    customer_id: str,
    values: Mapping[str, str],
    at: datetime,
    *,
    certain: bool = False,
) -> bool:
    """At this moment these fields of a customer became these values ("": none).

    May come in any order, late and again. False, and nothing is changed, if another value came at
    the same moment: Stripe counts seconds, and which was the last must be read (`certain`).
    """
    _take_turns(tx, account_id)
    histories = _histories(tx, account_id, [customer_id])
    changes = list(_changes(histories, {customer_id: values}, at))
    news = [one for one in changes if one.place.same != one.moment]
    if not certain and any(one.place.same for one in news):
        return False
    _apply(tx, account_id, news)
    return True


def seen(
    tx: Tx,
    account_id: str,
    found: Mapping[str, Mapping[str, str] | None],
    wanted: Collection[str],
    at: datetime,
) -> None:
    """What Stripe showed of some customers at this moment: their metadata, None for one deleted.

    Kept is what is new about the `wanted` fields, as a change at this moment: when it really
    happened is told by an event, or by nobody.
    """
    _take_turns(tx, account_id)
    alive = {}
    for customer_id, metadata in found.items():
        if metadata is None:
            forget(tx, account_id, customer_id, at)
        else:
            alive[customer_id] = {field: metadata.get(field, "") for field in wanted}
    changes = _changes(_histories(tx, account_id, alive), alive, at)
    _apply(tx, account_id, [one for one in changes if one.place.value != one.moment.value])


def forget(tx: Tx, account_id: str, stripe_customer_id: str, at: datetime | None = None) -> None:
    """The customer is gone since `at` (default: now), and nobody may be sent what was its usage.

    When it had which values is kept, and what comes late of moments before is added. A person's
    word for it ends. Should it be seen again, this was not so.
    """
    _take_turns(tx, account_id)
    _moved(tx, account_id, _forgotten(tx, account_id, stripe_customer_id, at or tx.now))


def forget_all(
    tx: Tx, account_id: str, customer_ids: Collection[str], lane_ids: Collection[int]
) -> None:
    """As `forget`, several at once and now. All their lanes, and these, are locked in one order."""
    _take_turns(tx, account_id)
    had = {
        identity
        for customer_id in customer_ids
        for identity in _forgotten(tx, account_id, customer_id, tx.now)
    }
    theirs = (lane.lane_id for lane in identity_lanes.having(tx, account_id, had))
    lanes.lock(tx, {*theirs, *lane_ids})
    _moved(tx, account_id, had)


def _forgotten(
    tx: Tx, account_id: str, stripe_customer_id: str, at: datetime
) -> Collection[Identity]:
    """Note that the customer is gone; the identities that it had."""
    row = _rows.c
    its = row.account_id == account_id, row.stripe_customer_id == stripe_customer_id
    had = tx.session.execute(select(row.field, row.value).where(*its, row.valid_from <= at)).all()
    ended = or_(row.source == "attached", row.valid_from == at)
    tx.session.execute(delete(_rows).where(*its, row.valid_from <= at, ended))
    lasted = or_(row.valid_until.is_(None), row.valid_until > at)
    tx.session.execute(
        update(_rows).where(*its, row.valid_from < at, lasted).values(valid_until=at)
    )
    _insert(tx, account_id, [("", "", stripe_customer_id, at, at)])
    return {(field, value) for field, value in had}


def attach(tx: Tx, account_id: str, identity: Identity, stripe_customer_id: str) -> int:
    """A person says whose an identity is; how many lanes that waited for it go on.

    It holds for all usage that is not on its way yet, whatever Stripe says, until the next word.
    """
    _take_turns(tx, account_id)
    field, value = identity
    row = _rows.c
    tx.session.execute(
        delete(_rows).where(
            row.account_id == account_id,
            row.field == field,
            row.value == value,
            row.source == "attached",
        )
    )
    key = account_id, field, value, stripe_customer_id, ALWAYS
    _put(tx, key, valid_until=None, source="attached")
    return _moved(tx, account_id, [identity])


def detach(tx: Tx, account_id: str, identity: Identity) -> str | None:
    """Take a person's word back: an identity is whose Stripe says it is. Who it was, if anybody."""
    _take_turns(tx, account_id)
    field, value = identity
    row = _rows.c
    said = tx.session.scalars(
        delete(_rows)
        .where(
            row.account_id == account_id,
            row.field == field,
            row.value == value,
            row.source == "attached",
        )
        .returning(row.stripe_customer_id)
    ).one_or_none()
    if said is not None:
        _moved(tx, account_id, [identity])
    return said


def listed(tx: Tx, account_id: str) -> set[str]:
    """The fields for which all customers were ever listed."""
    row = _rows.c
    return set(
        tx.session.scalars(
            select(row.field).where(
                row.account_id == account_id,
                row.stripe_customer_id == "",
                row.value == "",
            )
        )
    )


def listed_at(tx: Tx, account_id: str, field: str) -> datetime | None:
    """When all customers were last listed for this field."""
    row = _rows.c
    return tx.session.scalars(
        select(row.seen_at).where(
            row.account_id == account_id,
            row.field == field,
            row.value == "",
            row.stripe_customer_id == "",
        )
    ).one_or_none()


def mark_listed(tx: Tx, account_id: str, wanted: Iterable[str]) -> None:
    """All customers were listed for these fields, as others may have just before or be just now."""
    for field in sorted(wanted):
        _put(tx, (account_id, field, "", "", ALWAYS), valid_until=ALWAYS, source="stripe")


def having(tx: Tx, account_id: str, wanted: Collection[str]) -> set[str]:
    """The customers that are known to have a value in one of these fields now."""
    row = _rows.c
    return set(
        tx.session.scalars(
            select(row.stripe_customer_id).where(
                row.account_id == account_id,
                row.field.in_(wanted),
                row.value != "",
                row.valid_until.is_(None),
                row.source == "stripe",
            )
        )
    )


def _take_turns(tx: Tx, account_id: str) -> None:
    """Changes of one account happen one after the other: each looks at what was there before."""
    if tx.dialect == "postgresql":
        tx.session.execute(select(func.pg_advisory_xact_lock(func.hashtext(account_id))))


def _histories(
    tx: Tx, account_id: str, customer_ids: Collection[str]
) -> Mapping[tuple[str, str], list[Moment]]:
    """What is known of each (customer, field), in order; field "" tells that it was gone."""
    row = _rows.c
    ours = (
        select(row.stripe_customer_id, row.field, row.valid_from, row.value)
        .where(
            row.account_id == account_id,
            row.stripe_customer_id.in_(customer_ids),
            row.source == "stripe",
        )
        .order_by(row.valid_from)
    )
    found: dict[tuple[str, str], list[Moment]] = defaultdict(list)
    for customer_id, field, at, value in tx.session.execute(ours):
        found[customer_id, field].append(Moment(at, value))
    return found


def _changes(
    histories: Mapping[tuple[str, str], Sequence[Moment]],
    values: Mapping[str, Mapping[str, str]],
    at: datetime,
) -> Iterator[Change]:
    """What these values of each customer's fields mean at this moment, unless it was gone then.

    That it is gone is a moment of each field: it has no value from there on.
    """
    for customer_id, fields_ in values.items():
        gone = histories.get((customer_id, ""), ())
        if any(one.at == at for one in gone):
            continue
        for field, value in fields_.items():
            history = sorted([*histories.get((customer_id, field), ()), *gone])
            yield Change(customer_id, field, Moment(at, value), place(history, at))


def _apply(tx: Tx, account_id: str, changes: Sequence[Change]) -> None:
    """Write moments into their histories, and let the lanes know."""
    if not changes:
        return
    key = [_rows.c[name] == bindparam(f"the_{name}") for name in _KEY]

    def the(change: Change, moment: Moment) -> dict[str, Any]:
        values = (account_id, change.field, moment.value, change.customer_id, moment.at)
        return {f"the_{name}": value for name, value in zip(_KEY, values, strict=True)}

    if wrong := [the(one, one.place.same) for one in changes if one.place.same]:
        tx.session.execute(delete(_rows).where(*key), wrong)
    ended = [
        the(one, one.place.before) | {"end": one.moment.at}
        for one in changes
        if one.place.before and not one.place.same
    ]
    if ended:
        statement = update(_rows).where(*key).values(valid_until=bindparam("end"))
        tx.session.execute(statement, ended)
    _insert(
        tx,
        account_id,
        [
            (one.field, one.moment.value, one.customer_id, one.moment.at, _end(one.place))
            for one in changes
        ],
    )
    values = ((one.field, {one.place.value, one.moment.value}) for one in changes)
    _moved(tx, account_id, {(field, value) for field, both in values for value in both})


def _end(at: Place) -> datetime | None:
    return at.after.at if at.after else None


def _insert(
    tx: Tx, account_id: str, rows: Iterable[tuple[str, str, str, datetime, datetime | None]]
) -> None:
    """Insert (field, value, customer, from, until), those that are not there yet."""
    insert_new(
        tx,
        StripeCustomerRow,
        [
            {
                **dict(zip(_KEY, (account_id, field, value, customer_id, since), strict=True)),
                "valid_until": until,
                "source": "stripe",
                "seen_at": tx.now,
            }
            for field, value, customer_id, since, until in rows
        ],
        key=_KEY,
        give="seen_at",
    )


def _put(
    tx: Tx, key: tuple[str, str, str, str, datetime], *, valid_until: datetime | None, source: str
) -> None:
    """Write a row, whether or not it is there."""
    rest = {"valid_until": valid_until, "source": source, "seen_at": tx.now}
    tx.session.execute(
        insert(tx, StripeCustomerRow)
        .values({**dict(zip(_KEY, key, strict=True)), **rest})
        .on_conflict_do_update(index_elements=_KEY, set_=rest)
    )


def _moved(tx: Tx, account_id: str, identities: Collection[Identity]) -> int:
    """Who these identities are, or were, has changed; how many lanes go on that waited for it."""
    found = identity_lanes.having(tx, account_id, identities)
    if not found:
        return 0
    meant = known(tx, account_id, {lane.identity for lane in found})
    return identity_lanes.follow(tx, account_id, found, meant)
