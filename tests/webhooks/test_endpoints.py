"""Endpoints: made, changed, rotated, deleted; what is kept of their secrets, and of who did it."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import create as create_organization
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import NO_KEY, Keyring, Place
from usageflow.db.outbox_tables import WebhookDeliveryRow
from usageflow.db.tables import AuditRow
from usageflow.webhooks import endpoints, fan_out

ACTOR = Actor("owner@acme.example", "req_1")
URL = "https://hooks.example/x"


def entries(office: Any) -> list[tuple[str, str, str]]:
    """The audit log: action, actor, subject."""
    with office.db.reading() as tx:
        rows = tx.session.exec(select(AuditRow).order_by(col(AuditRow.seq)))
        return [(row.action, row.actor, row.subject) for row in rows]


def test_a_secret_is_shown_once_and_sealed(office: Any) -> None:
    """What is stored opens with the key alone, where it belongs; the audit log has none of it."""
    endpoint_id, secret = office.endpoint(URL, types=["invoice.paid"], description="books")
    row = office.row(endpoint_id)
    assert secret.startswith("whsec_")
    assert secret not in row.secret
    assert office.keyring.open(row.secret, Place.of(row)) == secret
    assert (row.url, endpoints.wanted(row), row.description) == (URL, ["invoice.paid"], "books")
    assert entries(office) == [("webhook.create", ACTOR.name, endpoint_id)]
    with office.db.reading() as tx:
        assert "whsec_" not in str([row.after for row in tx.session.exec(select(AuditRow))])


@pytest.mark.parametrize(
    ("wrong", "field", "message"),
    [
        ({"url": "ftp://x"}, "url", "must begin with https://"),
        ({"types": ["invoice.paid", "x"]}, "types", "'x' is none of invoice.created, "),
        ({"types": ["webhook.test"]}, "types", "'webhook.test' is none of "),
        ({"keyring": Keyring([])}, None, NO_KEY),
    ],
    ids=["url", "type", "test", "no key"],
)
def test_what_cannot_be_an_endpoint(
    office: Any, wrong: dict[str, Any], field: str | None, message: str
) -> None:
    """The reason names the field."""
    options = {"url": URL, "keyring": office.keyring, "actor": ACTOR} | wrong
    with office.db.transaction() as tx:
        refused = endpoints.create(tx, office.organization_id, **options)
        assert isinstance(refused, Refused)
        assert refused.field == field
        assert refused.message.startswith(message)
        assert endpoints.listing(tx, office.organization_id, offset=0, limit=9) == ([], 0)


def test_there_are_only_so_many(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted ones do not count."""
    monkeypatch.setattr(endpoints, "ENDPOINTS_MAX", 1)
    first, _ = office.endpoint(URL)
    with office.db.transaction() as tx:
        refused = endpoints.create(
            tx, office.organization_id, url=URL, keyring=office.keyring, actor=ACTOR
        )
        assert isinstance(refused, Refused)
        assert (refused.code, refused.message) == (
            "conflict",
            "there are 1 endpoints already; delete one",
        )
        endpoints.delete(tx, office.organization_id, first, actor=ACTOR)
    office.endpoint(URL)


def test_what_is_changed_and_what_stays(office: Any) -> None:
    """Only what is given changes; types are kept in one order, each once."""
    endpoint_id, _ = office.endpoint(URL, types=["invoice.paid"], description="books")
    with office.db.transaction() as tx:
        for change in (
            {"types": ["invoice.voided", "invoice.created", "invoice.voided"]},
            {"url": "https://hooks.example/y"},
            {"description": ""},
            {"enabled": False},
        ):
            endpoints.change(tx, office.organization_id, endpoint_id, actor=ACTOR, **change)
        refused = endpoints.change(tx, office.organization_id, endpoint_id, url="x", actor=ACTOR)
        assert isinstance(refused, Refused)
    row = office.row(endpoint_id)
    assert endpoints.wanted(row) == ["invoice.created", "invoice.voided"]
    assert (row.url, row.description, row.enabled) == ("https://hooks.example/y", "", False)
    with office.db.reading() as tx:
        last = tx.session.exec(select(AuditRow).order_by(col(AuditRow.seq).desc())).first()
        assert last is not None
        assert '"enabled":true' in str(last.before)
        assert '"enabled":false' in str(last.after)


def test_a_change_ends_the_waiting(office: Any, clock: Any, receiver: Any) -> None:
    """Who mends an endpoint need not wait hours for the next try; its failing is forgotten."""
    receiver.reply = lambda _: (500, b"")
    endpoint_id, _ = office.endpoint(receiver.url)
    office.tell(1)
    office.send()
    assert office.row(endpoint_id).blocked_until == clock.now + timedelta(seconds=5)
    with office.db.transaction() as tx:
        endpoints.change(tx, office.organization_id, endpoint_id, enabled=True, actor=ACTOR)
    row = office.row(endpoint_id)
    assert (row.failing_since, row.blocked_until) == (None, clock.now)
    office.send()
    assert receiver.numbers == [1, 1]


def test_rotation(office: Any, clock: Any) -> None:
    """The new secret seals over the old one, which is kept for a day; one before that is gone."""
    endpoint_id, first = office.endpoint(URL)
    made = []
    for _ in range(2):
        with office.db.transaction() as tx:
            rotated = endpoints.rotate_secret(
                tx, office.organization_id, endpoint_id, keyring=office.keyring, actor=ACTOR
            )
            assert not isinstance(rotated, Refused)
            made.append(rotated[1])
    row = office.row(endpoint_id)
    assert office.keyring.open(row.secret, Place.of(row)) == made[1]
    assert office.keyring.open(row.previous_secret, Place.of(row, "previous_secret")) == made[0]
    assert row.previous_until == clock.now + timedelta(hours=24)
    assert len({first, *made}) == 3
    assert entries(office)[-1][0] == "webhook.rotate_secret"


def test_without_its_key_a_secret_stays(office: Any) -> None:
    """It is not replaced by one that signs alone: its receivers could verify nothing."""
    endpoint_id, _ = office.endpoint(URL)
    before = office.row(endpoint_id)
    with office.db.transaction() as tx:
        refused = endpoints.rotate_secret(
            tx,
            office.organization_id,
            endpoint_id,
            keyring=Keyring([b"x" * 32]),
            actor=ACTOR,
        )
        assert isinstance(refused, Refused)
        assert "which is not in USAGEFLOW_ENCRYPTION_KEYS" in refused.message
    assert office.row(endpoint_id).secret == before.secret


def test_deleted_is_as_if_never_there(office: Any) -> None:
    """Nothing finds it; what was on its way is cancelled, and says why."""
    endpoint_id, _ = office.endpoint(URL)
    office.tell(1)
    fan_out.fan_out_due(office.db)
    with office.db.transaction() as tx:
        assert not isinstance(
            endpoints.delete(tx, office.organization_id, endpoint_id, actor=ACTOR), Refused
        )
    with office.db.transaction() as tx:
        (left,) = tx.session.exec(select(WebhookDeliveryRow))
        assert (left.state, left.last_error) == ("cancelled", "the endpoint was deleted")
        assert endpoints.listing(tx, office.organization_id, offset=0, limit=9) == ([], 0)
        assert endpoints.find(tx, office.organization_id, endpoint_id) is None


def test_another_organization_has_none_of_it(office: Any) -> None:
    """Every function says that there is none, for a wrong id and for a foreign one."""
    endpoint_id, _ = office.endpoint(URL)
    with office.db.transaction() as tx:
        other = create_organization(tx, "other", actor="test")
        for organization_id, name in ((other, endpoint_id), (office.organization_id, "whe_x")):
            refused = Refused("not_found", f"there is no webhook endpoint {name}")
            given: dict[str, Any] = {"actor": ACTOR}
            assert endpoints.change(tx, organization_id, name, url=URL, **given) == refused
            assert endpoints.delete(tx, organization_id, name, **given) == refused
            assert endpoints.send_test(tx, organization_id, name, **given) == refused
            ring = office.keyring
            assert refused == endpoints.rotate_secret(
                tx, organization_id, name, keyring=ring, **given
            )
        assert endpoints.listing(tx, other, offset=0, limit=9) == ([], 0)


def test_pages(office: Any) -> None:
    """The oldest first, part by part."""
    made = [office.endpoint(f"{URL}/{number}")[0] for number in range(3)]
    with office.db.reading() as tx:
        rows, total = endpoints.listing(tx, office.organization_id, offset=1, limit=1)
        assert ([row.id for row in rows], total) == ([made[1]], 3)


def test_a_test_event_is_for_one_endpoint(
    office: Any, receiver: Any, another_receiver: Any
) -> None:
    """Whatever types it wants; a disabled one cannot be told anything."""
    endpoint_id, _ = office.endpoint(receiver.url, types=["invoice.voided"])
    office.endpoint(another_receiver.url)
    with office.db.transaction() as tx:
        event_id = endpoints.send_test(tx, office.organization_id, endpoint_id, actor=ACTOR)
    office.send()
    assert receiver.ids == [event_id]
    assert another_receiver.ids == []
    with office.db.transaction() as tx:
        endpoints.change(tx, office.organization_id, endpoint_id, enabled=False, actor=ACTOR)
        refused = endpoints.send_test(tx, office.organization_id, endpoint_id, actor=ACTOR)
        assert refused == Refused("conflict", f"{endpoint_id} is disabled; enable it first")
