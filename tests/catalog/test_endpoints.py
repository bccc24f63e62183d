"""Reports of many edges become one list, bounded and without identities."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from usageflow.catalog import endpoints
from usageflow.catalog.endpoints import Unmatched, listed, report
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import publish
from usageflow.db.session import Database, Tx
from usageflow.db.tables import OrganizationRow, UnmatchedEndpointRow
from usageflow.middleware.endpoints import OTHERS, Endpoint
from usageflow.middleware.sketch import Sketch
from usageflow.policies import Policy

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
CHAT = Sketch(response={"usage.total_tokens": ("integer",)}, statuses=(200,))


class Clock:
    """A clock that is set by hand."""

    now = NOON

    def __call__(self) -> datetime:
        """The time it shows."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at noon."""
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    """A database whose transactions happen when the clock says."""
    opened = Database.open(database_url, clock=clock)
    yield opened
    opened.close()


def tell(database: Database, *found: Endpoint) -> list[Unmatched]:
    """Report, and list what there is then."""
    with database.transaction() as tx:
        report(tx, default_organization(tx), found)
    with database.reading() as tx:
        return listed(tx, default_organization(tx))


def counts(found: list[Unmatched]) -> list[tuple[str, int]]:
    """Requests by endpoint."""
    return [(f"{one.method} {one.template}", one.requests) for one in found]


def test_reports_add_up(database: Database, clock: Clock) -> None:
    """Requests are summed, sketches merged, and it is known since when and until when."""
    tell(database, Endpoint("POST", "/chat", 2, routed=True, sketch=CHAT), Endpoint("GET", "/a", 5))
    clock.now += timedelta(hours=1)
    error = Sketch(headers=("x-account-id",), statuses=(400,))
    found = tell(database, Endpoint("POST", "/chat", 40, routed=True, sketch=error))
    both = Sketch(response=CHAT.response, headers=("x-account-id",), statuses=(200, 400))
    assert found == [
        Unmatched("POST", "/chat", 42, True, both, NOON, clock.now),
        Unmatched("GET", "/a", 5, False, Sketch(), NOON, NOON),
    ]


def test_parameters_of_one_place_are_one(database: Database) -> None:
    """Whatever each edge calls them: a middleware knows the name, a proxy does not."""
    tell(database, Endpoint("GET", "/users/{name}", 1, routed=True))
    found = tell(database, Endpoint("GET", "/users/{id}", 2), Endpoint("PUT", "/users/{id}", 1))
    assert counts(found) == [("GET /users/{name}", 3), ("PUT /users/{name}", 1)]


def test_names_that_are_values_are_forgotten(database: Database) -> None:
    """Two edges saw ten users each and took them for names; together they are too many."""
    for edge in "ab":
        found = tell(
            database,
            *(Endpoint("GET", f"/users/{edge}{chr(97 + n)}", 1) for n in range(10)),
            Endpoint("GET", "/health", 3),
        )
    assert len(found) == 21
    found = tell(database, Endpoint("GET", "/users/zoe", 4))
    assert counts(found) == [("GET /users/{id}", 24), ("GET /health", 6)]
    with database.reading() as tx:
        rows = tx.session.exec(select(UnmatchedEndpointRow.template)).all()
    assert sorted(rows) == ["/health", "/users/{id}"]


def test_more_than_the_most_are_counted_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the edges count together already."""
    monkeypatch.setattr(endpoints, "ENDPOINTS_MAX", 2)
    tell(database, Endpoint("GET", "/a", 1), Endpoint("GET", "/b", 1), Endpoint("GET", "/c", 7))
    found = tell(database, Endpoint("GET", "/a", 1), Endpoint(*OTHERS, 5), Endpoint("GET", "/d", 1))
    assert counts(found) == [(" ".join(OTHERS), 13), ("GET /a", 2), ("GET /b", 1)]


def test_no_count_is_too_large(database: Database) -> None:
    """It stops at what the database holds."""
    for _ in range(2):
        found = tell(database, Endpoint("GET", "/a", 2**62))
    found = tell(database, Endpoint("GET", "/a", 2**62))
    assert counts(found) == [("GET /a", 2**63 - 1)]


def test_organizations_are_told_apart(database: Database) -> None:
    """One does not see another's endpoints."""

    def other(tx: Tx) -> str:
        tx.session.merge(OrganizationRow(id="other", name="other", created_at=tx.now))
        tx.session.flush()
        return "other"

    tell(database, Endpoint("GET", "/a", 1))
    with database.transaction() as tx:
        report(tx, other(tx), [Endpoint("GET", "/b", 2)])
        report(tx, "other", [])
    with database.reading() as tx:
        assert counts(listed(tx, "other")) == [("GET /b", 2)]
        assert counts(listed(tx, default_organization(tx))) == [("GET /a", 1)]


def test_what_a_policy_matches_now_is_not_listed(database: Database) -> None:
    """Nobody has to look at it again; without the policy it is there as before."""
    tell(
        database,
        Endpoint("POST", "/chat", 3),
        Endpoint("GET", "/items/{id}/parts/{id_2}", 2),
        Endpoint("GET", "/health", 1),
    )
    calls = {
        "name": "calls",
        "match": ["POST /chat", "GET /items/{id:int}/parts/:part"],
        "identify": [{"from": "header", "name": "x-account-id"}],
        "field": "account_id",
        "metric": "CALL",
        "quantity": 2,
    }
    for policies, left in (([Policy.model_validate(calls)], 1), ([], 3)):
        with database.transaction() as tx:
            publish(tx, default_organization(tx), policies)
            assert len(listed(tx, default_organization(tx))) == left
