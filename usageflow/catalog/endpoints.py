"""Endpoints that no policy matches, as the edges report them: what could be metered, too.

One row per method and template. Each edge sees other requests and finds templates by itself; here
their reports become one list, by the rules that an edge applies to its own paths, and bounded.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from sqlmodel import col, select

from usageflow.catalog.policies import current
from usageflow.db.session import Tx
from usageflow.db.tables import OrganizationRow, UnmatchedEndpointRow
from usageflow.middleware.endpoints import OTHERS, Endpoint
from usageflow.middleware.sketch import Sketch, merged
from usageflow.middleware.templates import Templates, steps
from usageflow.policies import PolicySet, parse_document

ENDPOINTS_MAX: Final = 2_000
"""Endpoints of an organization that are told apart; what is beyond it is counted together."""
REQUESTS_MAX: Final = 2**63 - 1
"""The largest number the database holds."""


class Unmatched(NamedTuple):
    """What is known of one endpoint; see `middleware.endpoints`."""

    method: str
    template: str
    requests: int
    routed: bool
    sketch: Sketch
    first_seen_at: datetime
    last_seen_at: datetime


def report(tx: Tx, organization_id: str, found: Sequence[Endpoint]) -> None:
    """Add what an edge found. Other reports of the organization wait until this is committed."""
    tx.session.exec(
        select(OrganizationRow.id)
        .where(OrganizationRow.id == organization_id)
        .with_for_update(key_share=True)
    ).one()
    stored = {(row.method, row.template): row for row in _rows(tx, organization_id)}
    before = {key: _read(row) for key, row in stored.items()}
    together = _together([*before.values()], found, tx.now)
    after = {(one.method, one.template): one for one in together}
    for key, row in stored.items():
        if key not in after:
            tx.session.delete(row)
    for key, one in after.items():
        if before.get(key) != one:
            _write(tx, organization_id, stored.get(key), one)
    tx.session.flush()


def listed(tx: Tx, organization_id: str) -> list[Unmatched]:
    """Those that the policies in use still do not match, the busiest first."""
    policies = _in_use(tx, organization_id)
    found = [
        one
        for one in map(_read, _rows(tx, organization_id))
        if policies.match(one.method, _example(one.template)) is None
    ]
    return sorted(found, key=lambda one: (-one.requests, one.template, one.method))


def _in_use(tx: Tx, organization_id: str) -> PolicySet:
    items = [
        {"version": version, "policy": msgspec.Raw(document.encode())}
        for document, version in current(tx, organization_id).items
    ]
    return PolicySet.build(parse_document(msgspec.json.encode({"policies": items})).policies)


def _example(template: str) -> str:
    """A path that the template matches; most parameters take a number."""
    return re.sub(r"\{[^}]*\}", "1", template)


def _rows(tx: Tx, organization_id: str) -> Sequence[UnmatchedEndpointRow]:
    ours = col(UnmatchedEndpointRow.organization_id) == organization_id
    return tx.session.exec(select(UnmatchedEndpointRow).where(ours)).all()


def _read(row: UnmatchedEndpointRow) -> Unmatched:
    return Unmatched(
        row.method,
        row.template,
        row.requests,
        row.routed,
        msgspec.json.decode(row.sketch, type=Sketch),
        row.first_seen_at,
        row.last_seen_at,
    )


def _write(tx: Tx, organization_id: str, row: UnmatchedEndpointRow | None, one: Unmatched) -> None:
    values = one._asdict() | {"sketch": msgspec.json.encode(one.sketch).decode()}
    if row is None:
        tx.session.add(UnmatchedEndpointRow(organization_id=organization_id, **values))
    else:
        row.sqlmodel_update(values)


def _together(
    known: Sequence[Unmatched], found: Sequence[Endpoint], now: datetime
) -> Iterator[Unmatched]:
    """Both, under the templates that they have together."""
    templates: Templates[Unmatched] = Templates(_sum)
    for one in known:
        templates.add(one.method, steps(one.template), one, routed=one.routed)
    for new in found:
        place = new.method, new.template
        if templates.size >= ENDPOINTS_MAX and templates.get(place[0], steps(place[1])) is None:
            place = OTHERS
        one = Unmatched(*place, new.requests, new.routed, new.sketch, now, now)
        templates.add(one.method, steps(one.template), one, routed=one.routed)
    return (one._replace(template=template) for _, template, one in templates.items())


def _sum(one: Unmatched, other: Unmatched) -> Unmatched:
    return one._replace(
        requests=min(one.requests + other.requests, REQUESTS_MAX),
        routed=one.routed or other.routed,
        sketch=merged(one.sketch, other.sketch),
        first_seen_at=min(one.first_seen_at, other.first_seen_at),
        last_seen_at=max(one.last_seen_at, other.last_seen_at),
    )
