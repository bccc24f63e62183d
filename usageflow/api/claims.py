"""What becomes of claims, in one transaction: who sends them, what they mean, what is taken.

API keys are looked up in the transaction that takes the usage, so that a revoked one ends at once.
HTTP is `track`'s.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple, TypeAlias

from starlette.requests import Request

from usageflow.api.access import ACCESS_COOKIE, CHALLENGE, presented_key
from usageflow.api.dialects import Claim, number
from usageflow.api.problems import Problem
from usageflow.api.signup import foreign
from usageflow.catalog import customers, keys, metrics, organization_settings, permissions, sessions
from usageflow.db.session import Tx
from usageflow.db.tables import MetricRow
from usageflow.ledger import tracking
from usageflow.ledger.tracking import Filter, Measure, Outcome, Rules, Tracked

PERMISSION: Final = "usage.write"
_OF_ITSELF: Final = ("COUNT", "UNIQUE_COUNT")
"""Aggregations under which an event is one, if it tells no quantity."""


class Credentials(NamedTuple):
    """What a request shows of who it is from. `foreign`: another site leads a browser to us."""

    key: str | None
    session: str | None
    foreign: bool

    @classmethod
    def of(cls, request: Request) -> "Credentials":
        """Those of a request."""
        session = request.cookies.get(ACCESS_COOKIE)
        return cls(presented_key(request), session, foreign(request.headers))


class Caller(NamedTuple):
    """Who may tell usage of which organization. `key_id` is None for a person."""

    organization_id: str
    key_id: str | None


class Submission(NamedTuple):
    """The events of one request. `source` is the path it came to."""

    credentials: Credentials
    claims: Sequence[Claim | Problem]
    source: str


class Taken(NamedTuple):
    """What became of a claim, and the id of the metric it names."""

    outcome: Outcome
    meter_id: str = ""


class Answer(NamedTuple):
    """What became of each claim of a submission, and who sent it."""

    caller: Caller
    taken: Sequence[Taken | Problem]


def take(tx: Tx, submissions: Sequence[Submission]) -> list[Answer | Problem]:
    """Take every submission, all of one organization together; a problem if it may not be."""
    callers = {
        shown: caller_of(tx, shown)
        for shown in dict.fromkeys(one.credentials for one in submissions)
    }
    desks: dict[str, _Desk] = {}
    put: list[tuple[Caller, _Desk, list[_Place]] | Problem] = []
    for one in submissions:
        caller = callers[one.credentials]
        if isinstance(caller, Problem):
            put.append(caller)
            continue
        organization_id = caller.organization_id
        desk = desks.get(organization_id)
        if desk is None:
            desk = desks[organization_id] = _Desk(tx, organization_id)
        put.append((caller, desk, [desk.put(claim, one.source) for claim in one.claims]))
    for organization_id in sorted(desks):  # in one order everywhere, so none wait in a circle
        desks[organization_id].settle()
    return [
        one
        if isinstance(one, Problem)
        else Answer(one[0], [one[1].taken(place) for place in one[2]])
        for one in put
    ]


def caller_of(tx: Tx, shown: Credentials) -> Caller | Problem:
    """Whose usage it is, if who shows this may tell it."""
    if shown.key is not None:
        key = keys.lookup(tx, shown.key)
        if isinstance(key, keys.Refusal):
            return Problem(401, key.code, key.message, CHALLENGE)
        if PERMISSION not in permissions.of_scopes(key.scopes.split()):
            message = f"this API key does not have the permission {PERMISSION}"
            return Problem(403, "forbidden", message)
        return Caller(key.organization_id, key.id)
    if shown.session is None:
        message = "send an API key, or sign in and send its cookies"
        return Problem(401, "missing_credentials", message, CHALLENGE)
    person = sessions.authenticate(tx, shown.session)
    if person is None:
        message = "the session has ended; sign in, or refresh it at /api/v1/auth/refresh"
        return Problem(401, "invalid_session", message, CHALLENGE)
    if shown.foreign:
        return Problem(403, "cross_site_request", "the request came from another site")
    if PERMISSION not in permissions.of_role(person.role):
        message = f"the role {person.role} does not have the permission {PERMISSION}"
        return Problem(403, "forbidden", message)
    return Caller(person.organization_id, None)


_Place: TypeAlias = int | Taken | Problem
"""Where a claim waits, or what became of it already."""


class _Desk:
    """The claims of one organization: read one by one, taken together."""

    def __init__(self, tx: Tx, organization_id: str) -> None:
        self._tx = tx
        self._organization_id = organization_id
        self._measures: dict[str, Measure | None] = {}
        self._told: list[Tracked] = []
        self._outcomes: list[Outcome] = []

    def put(self, claim: Claim | Problem, source: str) -> _Place:
        """Find out what is meant, and wait to be taken if that is clear."""
        if isinstance(claim, Problem):
            return claim
        measure = self._measure(claim.metric)
        if measure is None:
            return _refused("unknown_metric", f"there is no metric {claim.metric}; make it first")
        customer = claim.customer
        if claim.customer_id is not None:
            row = customers.find(self._tx, self._organization_id, claim.customer_id)
            if row is None:
                return _refused("unknown_customer", f"there is no customer {claim.customer_id}")
            customer = row.external_id
        quantity = _quantity(claim, measure)
        if isinstance(quantity, str):
            return _refused("invalid_quantity", quantity)
        self._told.append(
            Tracked(
                customer,
                measure,
                quantity,
                claim.occurred_at,
                claim.idempotency_key,
                claim.metadata,
                source,
            )
        )
        return len(self._told) - 1

    def settle(self) -> None:
        """Take all that waits."""
        chosen = organization_settings.read(self._tx, self._organization_id)
        rules = Rules(chosen.late_hours, chosen.unknown_customer)
        self._outcomes = tracking.take(self._tx, self._organization_id, self._told, rules)

    def taken(self, place: _Place) -> Taken | Problem:
        """What became of what was put there."""
        if not isinstance(place, int):
            return place
        return Taken(self._outcomes[place], self._told[place].metric.id)

    def _measure(self, name: str) -> Measure | None:
        if name not in self._measures:
            row = metrics.find(self._tx, self._organization_id, name)
            self._measures[name] = None if row is None else _measure(row)
        return self._measures[name]


def _measure(row: MetricRow) -> Measure:
    filters = [Filter(one.property, one.values) for one in metrics.filters_of(row)]
    return Measure(row.id, row.key, row.aggregation, row.property, filters)


def _quantity(claim: Claim, measure: Measure) -> Decimal | str:
    """What the claim tells or its metadata has, or why there is none."""
    if claim.quantity is not None:
        return claim.quantity
    if measure.aggregation in _OF_ITSELF:
        return Decimal(1)
    if measure.property is None:
        return f"there is no quantity, and {measure.key} has no property to take it from"
    found = number((claim.metadata or {}).get(measure.property))
    return f"there is no number in {measure.property}" if found is None else found


def _refused(code: str, message: str) -> Taken:
    return Taken(Outcome("refused", code=code, message=message))
