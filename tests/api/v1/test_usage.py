"""Usage as people and programs read it: sums over time, by customer, by endpoint."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from usageflow.catalog import metrics
from usageflow.catalog.audit import Actor
from usageflow.db.session import Database
from usageflow.ledger import tracking
from usageflow.ledger.tracking import Measure, Rules, Tracked

SignIn = Callable[..., httpx.Client]
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
ACTOR = Actor("test")


@pytest.fixture
def viewer(sign_in: SignIn) -> httpx.Client:
    """Somebody who may only look."""
    return sign_in("VIEWER")


@pytest.fixture
def measures(database: Database, organization_id: str) -> dict[str, Measure]:
    """Two metrics by key."""
    with database.transaction() as tx:
        for key, aggregation in (("API_CALL", "SUM"), ("PEAK", "MAX")):
            metrics.define(
                tx,
                organization_id,
                key=key,
                unit="calls",
                aggregation=aggregation,  # type: ignore[arg-type]  # one of them, in a loop
                actor=ACTOR,
            )
        rows = [metrics.find(tx, organization_id, key) for key in ("API_CALL", "PEAK")]
        return {row.key: Measure(row.id, row.key, row.aggregation) for row in rows if row}


@pytest.fixture
def use(
    database: Database, organization_id: str, measures: dict[str, Measure]
) -> Callable[..., None]:
    """`use(quantity, at, customer="acme", metric="API_CALL")`: one event."""

    def take(
        quantity: str, at: datetime, *, customer: str = "acme", metric: str = "API_CALL"
    ) -> None:
        item = Tracked(customer, measures[metric], Decimal(quantity), at, source=f"/{customer}")
        with database.transaction() as tx:
            rules = Rules(late_hours=24 * 90)
            later = replace(tx, now=MARCH + timedelta(days=40))
            (outcome,) = tracking.take(later, organization_id, [item], rules)
        assert outcome.status == "accepted", outcome

    return take


Use = Callable[..., None]


def read(client: httpx.Client, path: str, **query: str) -> Any:
    """The JSON of an answer; every number exact."""
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json(parse_float=Decimal)


def test_usage_is_told_by_metric(viewer: httpx.Client, use: Use) -> None:
    """Of everyone, in an interval; each metric as it aggregates, its digits as they are."""
    use("0.1", MARCH)
    use("0.2", MARCH + timedelta(minutes=90), customer="other")
    use("7", MARCH + timedelta(days=5), metric="PEAK")
    use("5", MARCH + timedelta(days=6), metric="PEAK")
    use("99", MARCH + timedelta(days=31))
    found = read(viewer, "/api/v1/usage", start="2026-03-01", end="2026-04-01T00:00:00Z")
    common = {"unit": "calls", "groups": []}
    assert found == {
        "start": "2026-03-01T00:00:00Z",
        "end": "2026-04-01T00:00:00Z",
        "time_zone": "UTC",
        "customer_id": None,
        "data": [
            {
                "metric": "API_CALL",
                "aggregation": "SUM",
                "quantity": Decimal("0.3"),
                "events": 2,
                "customers": 2,
                **common,
            },
            {
                "metric": "PEAK",
                "aggregation": "MAX",
                "quantity": 7,
                "events": 2,
                "customers": 1,
                **common,
            },
        ],
    }


def test_usage_of_one_customer_is_grouped(viewer: httpx.Client, use: Use) -> None:
    """By days of a time zone; the first and the last group are cut at the interval."""
    for hours in (0, 22, 23, 46, 47):  # 22:00 UTC is midnight in Athens
        use("1", MARCH + timedelta(hours=hours))
    use("50", MARCH, customer="other")
    query = {"metric": "api_call", "customer_id": "acme", "group_by": "day"}
    zone = {"time_zone": "Europe/Athens", "start": "2026-03-01", "end": "2026-03-03"}
    found = read(viewer, "/api/v1/usage", **query, **zone)
    (metric,) = found["data"]
    assert (metric["quantity"], metric["events"], metric["customers"]) == (5, 5, 1)
    assert [(one["start"], one["quantity"]) for one in metric["groups"]] == [
        ("2026-03-01T00:00:00Z", 1),
        ("2026-03-01T22:00:00Z", 2),
        ("2026-03-02T22:00:00Z", 2),
    ]
    assert found["customer_id"] is not None


@pytest.mark.parametrize(
    ("group_by", "count"), [("hour", 744), ("day", 31), ("week", 6), ("month", 1)]
)
def test_groups_tile_the_interval(
    viewer: httpx.Client, use: Use, group_by: str, count: int
) -> None:
    """Each begins where the one before ends, and together they are the whole."""
    for day in range(31):
        use("1.5", MARCH + timedelta(days=day, minutes=7 * day))
    query = {"metric": "API_CALL", "start": "2026-03-01", "end": "2026-04-01"}
    (metric,) = read(viewer, "/api/v1/usage", group_by=group_by, **query)["data"]
    groups = metric["groups"]
    assert len(groups) == count
    assert [one["start"] for one in groups[1:]] == [one["end"] for one in groups[:-1]]
    assert sum(Decimal(one["quantity"]) for one in groups) == Decimal("46.5") == metric["quantity"]


def test_hours_begin_when_hours_do(viewer: httpx.Client, use: Use) -> None:
    """Whenever the interval begins and ends."""
    use("1", MARCH + timedelta(minutes=40))
    use("2", MARCH + timedelta(minutes=61))
    query = {"start": "2026-03-01T00:30:00Z", "end": "2026-03-01T02:10:00Z", "group_by": "hour"}
    (metric, _) = read(viewer, "/api/v1/usage", **query)["data"]
    assert [(one["start"][11:16], one["quantity"]) for one in metric["groups"]] == [
        ("00:30", 1),
        ("01:00", 2),
        ("02:00", 0),
    ]


def test_a_meter_tells_its_usage(viewer: httpx.Client, use: Use, measures: Any) -> None:
    """In the words of meters: by day, with how many customers there were."""
    use("1", MARCH)
    use("2", MARCH + timedelta(days=1), customer="other")
    meter = measures["API_CALL"].id
    query = {"start_date": "2026-03-01", "end_date": "2026-03-03"}
    assert read(viewer, f"/api/v1/meters/{meter}/usage", **query) == {
        "meter_id": meter,
        "total_usage": 3,
        "event_count": 2,
        "unique_customers": 2,
        "period_start": "2026-03-01T00:00:00Z",
        "period_end": "2026-03-03T00:00:00Z",
        "grouped_data": [
            {"period": "2026-03-01T00:00:00Z", "usage": 1, "event_count": 1},
            {"period": "2026-03-02T00:00:00Z", "usage": 2, "event_count": 1},
        ],
    }
    query |= {"customer_id": "other", "group_by": "month"}
    one = read(viewer, f"/api/v1/meters/{meter}/usage", **query)
    assert (one["total_usage"], len(one["grouped_data"])) == (2, 1)


def test_a_meter_without_dates_is_that_of_thirty_days(
    viewer: httpx.Client, measures: dict[str, Measure]
) -> None:
    """Up to now."""
    found = read(viewer, f"/api/v1/meters/{measures['PEAK'].id}/usage")
    start, end = (datetime.fromisoformat(found[name]) for name in ("period_start", "period_end"))
    assert end - start == timedelta(days=30)
    assert len(found["grouped_data"]) == 31


def test_a_meter_tells_since_when_it_counts(
    viewer: httpx.Client, database: Database, organization_id: str, measures: dict[str, Measure]
) -> None:
    """The first and the last event, and what today, this week and this month come to."""
    path = f"/api/v1/meters/{measures['API_CALL'].id}/stats"
    assert read(viewer, path) == {
        "total_events": 0,
        "unique_customers": 0,
        "first_event_date": None,
        "last_event_date": None,
        "today_usage": 0,
        "this_week_usage": 0,
        "this_month_usage": 0,
    }
    with database.transaction() as tx:
        items = [Tracked(name, measures["API_CALL"], Decimal(2)) for name in ("a", "b", "a")]
        tracking.take(tx, organization_id, items, Rules())
        now = tx.now.isoformat().replace("+00:00", "Z")
    found = read(viewer, path)
    assert (found["total_events"], found["unique_customers"]) == (3, 2)
    assert found["first_event_date"] == found["last_event_date"] == now
    assert found["today_usage"] == found["this_week_usage"] == found["this_month_usage"] == 6


def test_usage_is_told_by_endpoint(viewer: httpx.Client, use: Use) -> None:
    """The largest first; of everyone or of one customer."""
    use("1", MARCH)
    use("1", MARCH)
    use("5", MARCH, customer="other")
    query = {"metric": "API_CALL", "start": "2026-03-01", "end": "2026-03-02"}
    found = read(viewer, "/api/v1/usage/endpoints", **query)
    assert found["data"] == [
        {"method": "POST", "route": "/other", "quantity": 5, "events": 1},
        {"method": "POST", "route": "/acme", "quantity": 2, "events": 2},
    ]
    found = read(viewer, "/api/v1/usage/endpoints", **query, customer_id="acme")
    assert [one["route"] for one in found["data"]] == ["/acme"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/usage?metric=GHOST", 404),
        ("/api/v1/usage?customer_id=nobody", 404),
        ("/api/v1/usage?start=soon", 422),
        ("/api/v1/usage?start=2026-03-01T00:00:00", 422),
        ("/api/v1/usage?start=0001-01-01", 422),
        ("/api/v1/usage?start=2026-03-02&end=2026-03-01", 422),
        ("/api/v1/usage?start=2000-03-02&end=2026-03-01", 422),
        ("/api/v1/usage?start=2020-03-02&end=2026-03-01&group_by=hour", 422),
        ("/api/v1/usage?group_by=second", 422),
        ("/api/v1/usage?time_zone=Mars", 422),
        ("/api/v1/meters/GHOST/usage", 404),
        ("/api/v1/meters/GHOST/stats", 404),
        ("/api/v1/usage/endpoints", 422),
        ("/api/v1/usage/endpoints?metric=API_CALL&start=2020-01-01&end=2021-01-01", 422),
    ],
)
def test_what_cannot_be_told_is_refused(
    viewer: httpx.Client, measures: object, path: str, status: int
) -> None:
    """With a sentence that says why."""
    answer = viewer.get(path)
    assert (answer.status_code, "message" in answer.json()["error"]) == (status, True)


def test_an_offset_may_be_written_plainly(viewer: httpx.Client, measures: object) -> None:
    """A + that became a space is still an offset."""
    url = "/api/v1/usage?start=2026-03-01T00:00:00+01:00&end=2026-03-02"
    assert viewer.get(url).json()["start"] == "2026-02-28T23:00:00Z"
