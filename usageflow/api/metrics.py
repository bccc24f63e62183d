"""`GET /metrics`: how far usage has come, for Prometheus, in the exposition format 0.0.4.

By hand, as the proxy's: the figures are the ledger's already. One reading transaction for each
scrape, for the organization of the key alone. What each metric means is in docs/statement.md.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple, TypeAlias

from sqlmodel import select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from usageflow.api.edge import presented_key
from usageflow.api.problems import Problem
from usageflow.catalog import keys
from usageflow.config import Settings
from usageflow.db.exact import plain
from usageflow.db.session import Database, Tx
from usageflow.db.tables import OrganizationRow
from usageflow.ledger import statement
from usageflow.ledger.progress import UNSETTLED, Progress, progress

PATH: Final = "/metrics"
SCOPE: Final = "metrics.read"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

Labels: TypeAlias = dict[str, str]
Samples: TypeAlias = Sequence[tuple[Labels, Decimal | float]]


class Family(NamedTuple):
    """All samples of one gauge."""

    name: str
    text: str
    samples: Samples


class MetricsEndpoint:
    """The metrics of a server. `settings` say when usage of a period that ended is late."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._barrier_s = settings.stripe_barrier_s

    def routes(self) -> list[Route]:
        """The endpoint with its path."""
        return [Route(PATH, self.metrics, methods=["GET"])]

    def metrics(self, request: Request) -> Response:
        """The figures of the key's organization; 401 or 403 without a key for `metrics.read`."""
        secret = presented_key(request.headers) or ""
        with self._db.reading() as tx:
            caller = keys.authenticate(tx, secret, SCOPE)
            if isinstance(caller, keys.Refusal):
                return _refused(caller).response()
            text = self._exposition(tx, caller.organization_id)
        return Response(text, media_type=CONTENT_TYPE)

    def _exposition(self, tx: Tx, organization_id: str) -> str:
        name = tx.session.exec(
            select(OrganizationRow.name).where(OrganizationRow.id == organization_id)
        ).one()
        of = {"organization": name}
        accounts = progress(tx, organization_id, barrier_s=self._barrier_s)
        at = statement.latest(tx, organization_id)
        lines = [] if at is None else statement.stored(tx, organization_id, at)
        families = (*_of_accounts(of, accounts, tx.now), *_of_statement(of, lines, at, tx.now))
        return exposition(families)


def exposition(families: Sequence[Family]) -> str:
    """The families as text, each with its help and type."""
    return "".join(line for family in families for line in _lines(family))


def _of_accounts(of: Labels, accounts: Sequence[Progress], now: datetime) -> Iterator[Family]:
    by = [(of | _labels(account), account) for account in accounts]
    yield Family(
        "units",
        "Units by state, those that are done with aside",
        [
            (labels | {"state": state}, account.units[state])
            for labels, account in by
            for state in UNSETTLED
        ],
    )
    yield Family(
        "lag_seconds",
        "Age of the oldest usage that is on its way to Stripe, what is parked aside",
        [(labels, _age_s(account.waiting_since, now)) for labels, account in by],
    )
    yield Family(
        "oldest_unsettled_seconds",
        "Age of the oldest usage that Stripe was not yet seen to have",
        [(labels, _age_s(account.unsettled_since, now)) for labels, account in by],
    )
    for state, text in (
        ("ambiguous", "Units that Stripe may or may not have"),
        ("parked", "Units without exactly one Stripe customer"),
        ("quarantined", "Units that Stripe refused, or dropped after all"),
        ("held", "Units that wait for a person"),
    ):
        samples = [(labels, account.units[state]) for labels, account in by]
        yield Family(f"{state}_units", text, samples)
    yield Family(
        "drift",
        "Sum of the open differences between ledger and Stripe",
        [(labels, account.drift) for labels, account in by],
    )
    yield Family(
        "drifts",
        "Customers' hours in which ledger and Stripe differ",
        [(labels, account.drifts) for labels, account in by],
    )
    yield Family(
        "account_up",
        "1, or 0 while nothing can be sent to this account",
        [(labels, int(account.state == "active")) for labels, account in by],
    )
    yield Family(
        "barrier_late_units",
        "Units of a period that is over, which Stripe still has not accepted",
        [(labels, account.late) for labels, account in by],
    )


def _of_statement(
    of: Labels, lines: Sequence[statement.Line], at: datetime | None, now: datetime
) -> Iterator[Family]:
    yield Family(
        "statement_difference",
        "What is metered less the sum of its parts, in the last hourly statement",
        [(of | {"event_name": line.event_name}, line.difference) for line in lines],
    )
    yield Family(
        "statement_age_seconds",
        "Time since the hour of the last statement",
        [] if at is None else [(of, _age_s(at, now))],
    )


def _labels(account: Progress) -> Labels:
    return {"account": account.account, "mode": "live" if account.livemode else "test"}


def _age_s(since: datetime | None, now: datetime) -> float:
    """0 for nothing, and for what another clock dated ahead of ours."""
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP usageflow_{family.name} {family.text}.\n"
    yield f"# TYPE usageflow_{family.name} gauge\n"
    for labels, value in family.samples:
        pairs = ",".join(f'{name}="{of.translate(_ESCAPES)}"' for name, of in labels.items())
        yield f"usageflow_{family.name}{{{pairs}}} {_number(value)}\n"


def _number(value: Decimal | float) -> str:
    return plain(value) if isinstance(value, Decimal) else repr(value)


def _refused(refusal: keys.Refusal) -> Problem:
    if refusal.code == "insufficient_scope":
        return Problem(403, refusal.code, refusal.message)
    headers = {"www-authenticate": 'Bearer realm="usageflow"'}
    return Problem(401, refusal.code, refusal.message, headers)
