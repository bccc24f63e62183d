"""Stored policies: versions, what is in use, and the ETag edges poll with."""

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from usageflow.catalog import metrics, policies
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database, Tx
from usageflow.db.tables import PolicyRow
from usageflow.policies.document import from_json
from usageflow.policies.models import Policy


def policy(name: str, **changes: Any) -> Policy:
    """A small valid policy."""
    values: dict[str, Any] = {
        "name": name,
        "match": "GET /",
        "identify": [{"from": "header", "name": "x-account"}],
        "field": "account_id",
        "metric": "API_CALL",
    }
    return Policy.model_validate(values | changes)


@pytest.fixture
def tx(database: Database) -> Iterator[Tx]:
    """An open transaction."""
    with database.transaction() as opened:
        yield opened


@pytest.fixture
def organization_id(tx: Tx) -> str:
    """The default organization."""
    return default_organization(tx)


def in_use(tx: Tx, organization_id: str) -> dict[str, str]:
    """Version by name of what is in use."""
    items = policies.current(tx, organization_id).items
    return {json.loads(document)["name"]: version for document, version in items}


def test_publishing_tells_what_changed(tx: Tx, organization_id: str) -> None:
    """Added, changed, removed, unchanged, and the metrics that had to be created."""
    first = policies.publish(tx, organization_id, [policy("a"), policy("b"), policy("c")])
    assert first == policies.Published(("a", "b", "c"), (), (), (), ("API_CALL",))
    second = policies.publish(
        tx, organization_id, [policy("a"), policy("b", metric="TOKEN"), policy("d")]
    )
    assert second == policies.Published(("d",), ("b",), ("c",), ("a",), ("TOKEN",))
    assert in_use(tx, organization_id) == {"a": "1", "b": "2", "d": "1"}
    assert metrics.known(tx, organization_id) == ["API_CALL", "TOKEN"]


def test_the_same_set_changes_nothing(tx: Tx, organization_id: str) -> None:
    """Publishing again keeps versions and ETag; another order is the same set."""
    policies.publish(tx, organization_id, [policy("a"), policy("b")])
    before = policies.current(tx, organization_id)
    again = policies.publish(tx, organization_id, [policy("b"), policy("a")])
    assert again == policies.Published((), (), (), ("a", "b"), ())
    assert policies.current(tx, organization_id) == before


def test_a_policy_out_of_use_comes_back_as_it_was(tx: Tx, organization_id: str) -> None:
    """Unchanged it keeps its version; changed it gets the next one. Old versions stay stored."""
    policies.publish(tx, organization_id, [policy("a")])
    policies.publish(tx, organization_id, [])
    assert in_use(tx, organization_id) == {}
    assert policies.publish(tx, organization_id, [policy("a")]).added == ("a",)
    assert in_use(tx, organization_id) == {"a": "1"}
    policies.publish(tx, organization_id, [])
    policies.publish(tx, organization_id, [policy("a", quantity=2)])
    assert in_use(tx, organization_id) == {"a": "2"}
    assert tx.session.get(PolicyRow, (organization_id, "a", 1)) is not None


def test_stored_documents_are_the_policies(tx: Tx, organization_id: str) -> None:
    """What is read back is what was published, exact numbers too."""
    published = [
        policy("a", quantity="response.body.usage.total", event_name="used"),
        policy("b", quantity=Decimal("0.000000000001"), on_missing=2),
    ]
    policies.publish(tx, organization_id, published)
    items = policies.current(tx, organization_id).items
    stored = [f'{{"version": "{version}", "policy": {document}}}' for document, version in items]
    read = from_json(f'{{"policies": [{", ".join(stored)}]}}'.encode())
    assert read.policies == tuple((policy, "1") for policy in published)


def test_the_etag_changes_with_the_set(tx: Tx, organization_id: str) -> None:
    """A strong, quoted ETag for each content; the empty set has one too."""
    tags = [policies.current(tx, organization_id).etag]
    for published in ([policy("a")], [policy("a", quantity=2)], [policy("a")]):
        policies.publish(tx, organization_id, published)
        tags.append(policies.current(tx, organization_id).etag)
    assert len(set(tags)) == 4
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)


def test_publishers_at_one_moment_take_turns(database: Database) -> None:
    """Each of several concurrent publishers gets a version of its own; one is in use."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)

    def publish(quantity: int) -> None:
        with database.transaction() as tx:
            policies.publish(tx, organization_id, [policy("a", quantity=quantity)])

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as tx:
        assert in_use(tx, organization_id) == {"a": "5"}


def test_versions_are_kept_and_listed(tx: Tx, organization_id: str) -> None:
    """The newest first and page by page, of one policy of one organization."""
    for quantity in (1, 2, 3):
        published = [policy("a", quantity=quantity), policy("b")]
        policies.publish(tx, organization_id, published)
    rows, total = policies.versions(tx, organization_id, "a", offset=1, limit=1)
    assert ([(row.version, row.active) for row in rows], total) == ([(2, False)], 3)
    assert policies.versions(tx, "other", "a", offset=0, limit=9) == ([], 0)
    found = policies.version(tx, organization_id, "a", 2)
    assert found is rows[0]
    assert policies.version(tx, organization_id, "a", 4) is None
    assert policies.version(tx, "other", "a", 2) is None
