"""Policies over HTTP: published as a file or as JSON, guarded, versioned, put into use again."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlmodel import col, select

from usageflow.api.policy_bodies import PROBLEMS_MAX
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow, PolicyRow

SignIn = Callable[..., httpx.Client]

TOML = """
[[metric]]
key = "AI_TOKEN"
unit = "token"

[[policy]]
name     = "chat"
match    = "POST /v1/chat"
identify = [ { from = "header", name = "x-account-id" } ]
field    = "account_id"
metric   = "AI_TOKEN"
quantity = "response.body.usage.total_tokens"
"""


def policy(name: str = "calls", **changes: Any) -> dict[str, Any]:
    """A policy as JSON."""
    return {
        "name": name,
        "match": f"GET /{name}",
        "identify": [{"from": "header", "name": "x-account"}],
        "field": "account_id",
        "metric": "API_CALL",
        **changes,
    }


@pytest.fixture
def developer(sign_in: SignIn) -> httpx.Client:
    """May write policies."""
    return sign_in("DEVELOPER")


def put(client: httpx.Client, *policies: dict[str, Any], **headers: str) -> httpx.Response:
    """Make these the policies in use."""
    return client.put("/api/v1/policies", json={"policies": policies}, headers=headers)


def in_use(client: httpx.Client) -> dict[str, int]:
    """Version by name."""
    found = client.get("/api/v1/policies").json()["data"]
    return {one["name"]: one["version"] for one in found}


def test_a_file_is_published_and_read_again(developer: httpx.Client, database: Database) -> None:
    """What changed is told, with the ETag of what is in use now; the metric has its unit."""
    published = developer.put("/api/v1/policies", json={"toml": TOML})
    assert published.status_code == 200
    told = published.json()
    assert told == {
        "added": ["chat"],
        "changed": [],
        "removed": [],
        "unchanged": [],
        "metrics": ["AI_TOKEN"],
        "etag": published.headers["etag"],
    }
    listed = developer.get("/api/v1/policies")
    assert listed.headers["etag"] == told["etag"]
    assert listed.json()["data"] == [
        {
            "name": "chat",
            "version": 1,
            "policy": {
                "name": "chat",
                "match": ["POST /v1/chat"],
                "identify": [{"from": "header", "name": "x-account-id"}],
                "field": "account_id",
                "metric": "AI_TOKEN",
                "quantity": "response.body.usage.total_tokens",
            },
        }
    ]
    assert developer.get("/api/v1/metrics/AI_TOKEN").json()["unit"] == "token"
    with database.reading() as tx:
        noted = tx.session.exec(select(AuditRow).where(AuditRow.action == "policies.publish")).one()
        assert (noted.actor.startswith("developer"), bool(noted.request_id)) == (True, True)


def test_what_was_read_can_be_published(developer: httpx.Client) -> None:
    """The list's `policy` is what PUT takes; a number keeps its digits."""
    exact = policy(quantity=0.5)
    put(developer, exact, policy("other"))
    read = [one["policy"] for one in developer.get("/api/v1/policies").json()["data"]]
    again = put(developer, *read)
    assert again.json()["unchanged"] == ["calls", "other"]
    assert '"quantity":0.5' in developer.get("/api/v1/policies").text


def test_a_stale_set_is_refused(developer: httpx.Client) -> None:
    """With If-Match nobody's change is lost; without it the last one wins."""
    first = put(developer, policy()).headers["etag"]
    second = put(developer, policy(), policy("b"), **{"if-match": first})
    assert second.status_code == 200
    stale = put(developer, policy("c"), **{"if-match": first})
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "conflict")
    assert in_use(developer) == {"b": 1, "calls": 1}
    listed = f'"other", {second.headers["etag"]}'
    assert put(developer, policy("c"), **{"if-match": listed}).status_code == 200
    assert put(developer, **{"if-match": "*"}).json()["removed"] == ["c"]


def test_every_mistake_of_a_file_is_told(developer: httpx.Client) -> None:
    """Each with its line, and nothing is published."""
    wrong = TOML.replace('"POST /v1/chat"', '"POST v1"').replace("field ", "fields ")
    response = developer.put("/api/v1/policies", json={"toml": wrong})
    assert response.status_code == 422
    fields = response.json()["error"]["fields"]
    assert [one["field"] for one in fields] == ["toml:6", "toml:8", "toml:10"]
    assert fields[0]["message"] == 'policy "chat" (#1): field: is required'
    assert in_use(developer) == {}
    broken = developer.put("/api/v1/policies", json={"toml": "[[policy"}).json()["error"]
    assert broken["fields"][0]["field"] == "toml:1:9"


def test_every_mistake_of_a_list_is_told(developer: httpx.Client) -> None:
    """By its place; two policies that count the same requests are a mistake as well."""
    twice = put(developer, policy(), policy("b", match="GET /calls"), {"name": "c"})
    fields = twice.json()["error"]["fields"]
    assert [one["field"] for one in fields] == ["policies.1"] + ["policies.2"] * 4
    assert "both count API_CALL" in fields[0]["message"]
    many = put(developer, *({} for _ in range(PROBLEMS_MAX))).json()["error"]["fields"]
    assert len(many) == PROBLEMS_MAX


@pytest.mark.parametrize("body", [{}, {"toml": TOML, "policies": []}], ids=["none", "both"])
def test_one_of_two_ways_is_wanted(developer: httpx.Client, body: dict[str, Any]) -> None:
    """A file or a list."""
    response = developer.put("/api/v1/policies", json=body)
    assert (response.status_code, response.json()["error"]["fields"][0]["field"]) == (422, "toml")


def test_an_older_version_is_used_again(developer: httpx.Client) -> None:
    """As the newest version; the others stay, and versions are listed."""
    put(developer, policy(), policy("b"))
    put(developer, policy(quantity=2), policy("b"))
    used = developer.post("/api/v1/policies/calls/versions/1/use")
    assert (used.status_code, used.json()["changed"]) == (200, ["calls"])
    assert in_use(developer) == {"b": 1, "calls": 3}
    versions = developer.get("/api/v1/policies/calls/versions").json()
    assert [(one["version"], one["in_use"]) for one in versions["data"]] == [
        (3, True),
        (2, False),
        (1, False),
    ]
    assert versions["data"][0]["policy"] == versions["data"][2]["policy"]
    stale = {"if-match": '"old"'}
    assert developer.post("/api/v1/policies/calls/versions/2/use", headers=stale).status_code == 409
    assert developer.post("/api/v1/policies/calls/versions/9/use").status_code == 404


def test_a_version_that_was_removed_is_used_again(developer: httpx.Client) -> None:
    """Also under a name with a slash."""
    put(developer, policy("a/b"))
    put(developer)
    used = developer.post("/api/v1/policies/a%2Fb/versions/1/use")
    assert used.json()["added"] == ["a/b"]
    assert in_use(developer) == {"a/b": 1}


def test_usage_that_would_be_charged_twice_is_a_conflict(
    developer: httpx.Client, sign_in: SignIn
) -> None:
    """What a local plan charges is not forwarded to be priced at Stripe."""
    put(developer, policy())
    admin = sign_in("ADMIN")
    plan = {"name": "Ours", "charges": [{"metric": "API_CALL", "unit_price": 0.01}]}
    made = admin.post("/api/v1/plans", json=plan)
    assert made.status_code == 201, made.text
    subscription = admin.post("/api/v1/subscriptions", json={"plan_id": made.json()["id"]})
    assert subscription.status_code == 201, subscription.text
    response = put(developer, policy(event_name="call"))
    assert response.status_code == 409
    assert "API_CALL" in response.json()["error"]["message"]
    assert in_use(developer) == {"calls": 1}


def test_policies_of_others_are_not_there(developer: httpx.Client, sign_in: SignIn) -> None:
    """Not listed, no versions, nothing to use; a viewer reads and does not write."""
    put(sign_in("OWNER", organization="other"), policy("theirs"))
    assert in_use(developer) == {}
    assert developer.get("/api/v1/policies/theirs/versions").status_code == 404
    assert developer.post("/api/v1/policies/theirs/versions/1/use").status_code == 404
    viewer = sign_in("VIEWER")
    assert viewer.get("/api/v1/policies").status_code == 200
    assert put(viewer).status_code == 403


def test_what_this_release_cannot_read_is_kept(developer: httpx.Client, database: Database) -> None:
    """A rollback beside it is refused: it would take it out of use without a word."""
    put(developer, policy(), policy("b"))
    with database.transaction() as tx:
        row = tx.session.exec(select(PolicyRow).where(col(PolicyRow.name) == "b")).one()
        row.document = '{"name":"b","later":1}'
    refused = developer.post("/api/v1/policies/calls/versions/1/use")
    assert refused.status_code == 409
    assert "cannot read" in refused.json()["error"]["message"]
