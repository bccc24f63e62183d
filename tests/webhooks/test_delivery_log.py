"""The log for people, and telling anew."""

from typing import Any

from sqlmodel import col, select

from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import create as create_organization
from usageflow.catalog.refusals import Refused
from usageflow.db.tables import AuditRow
from usageflow.webhooks import delivery_log, endpoints

ACTOR = Actor("owner@acme.example")
PAGE: dict[str, Any] = {"offset": 0, "limit": 9}


def test_events_and_deliveries_the_newest_first(office: Any, receiver: Any) -> None:
    """By type, by state, part by part, with the attempts."""
    endpoint_id, _ = office.endpoint(receiver.url)
    made = [office.tell(1), office.tell(2, "invoice.failed"), office.tell(3)]
    receiver.reply = lambda _: (200 if len(receiver.requests) == 1 else 500, b"words")
    office.send()
    with office.db.reading() as tx:
        organization_id = office.organization_id
        rows, total = delivery_log.events(tx, organization_id, **PAGE)
        assert ([row.id for row in rows], total) == (made[::-1], 3)
        rows, total = delivery_log.events(tx, organization_id, kind="invoice.paid", **PAGE)
        assert ([row.id for row in rows], total) == ([made[2], made[0]], 2)
        rows, total = delivery_log.events(tx, organization_id, offset=1, limit=1)
        assert ([row.id for row in rows], total) == ([made[1]], 3)
        found, total = delivery_log.deliveries(tx, organization_id, endpoint_id, **PAGE)
        assert [(row.state, what.id) for row, what in found] == [
            ("pending", made[2]),
            ("pending", made[1]),
            ("delivered", made[0]),
        ]
        found, total = delivery_log.deliveries(
            tx, organization_id, endpoint_id, state="pending", offset=1, limit=9
        )
        assert ([what.id for _, what in found], total) == ([made[1]], 2)
        (attempt,) = delivery_log.attempts(tx, organization_id, found[0][0].seq or 0)
        assert (attempt.number, attempt.status, attempt.error, attempt.answer) == (
            *(1, 500, "answered 500", "words"),
        )


def test_what_is_over_is_told_anew(office: Any, receiver: Any) -> None:
    """The same event with the same id, as often as somebody asks; the audit log says who did."""
    office.endpoint(receiver.url)
    event_id = office.tell(1)
    office.send()
    with office.db.reading() as tx:
        seq = _newest(tx, office)
    for _ in range(2):
        with office.db.transaction() as tx:
            assert isinstance(
                delivery_log.replay(tx, office.organization_id, seq, actor=ACTOR), tuple
            )
        office.send()
    assert receiver.ids == [event_id] * 3
    with office.db.reading() as tx:
        entry = tx.session.exec(select(AuditRow).order_by(col(AuditRow.seq).desc())).first()
        assert entry is not None
        assert (entry.action, entry.actor) == ("webhook.replay", ACTOR.name)
        assert event_id in str(entry.after)


def _newest(tx: Any, office: Any) -> int:
    """The newest delivery of the organization's only endpoint."""
    (endpoint,), _ = endpoints.listing(tx, office.organization_id, **PAGE)
    found, _ = delivery_log.deliveries(tx, office.organization_id, endpoint.id, **PAGE)
    return found[0][0].seq or 0


def test_what_waits_is_tried_at_once(office: Any, receiver: Any) -> None:
    """There is no second delivery, and the time until the next try is over."""
    office.endpoint(receiver.url)
    receiver.reply = lambda _: (500, b"")
    office.tell(1)
    office.send()
    receiver.reply = lambda _: (200, b"")
    office.send()
    assert receiver.numbers == [1]
    with office.db.transaction() as tx:
        delivery_log.replay(tx, office.organization_id, _newest(tx, office), actor=ACTOR)
    office.send()
    assert receiver.numbers == [1, 1]


def test_an_event_from_before_can_be_told(office: Any, receiver: Any) -> None:
    """Also to an endpoint that was not there, or was disabled, when it happened."""
    early = office.tell(1)
    office.send()
    endpoint_id, _ = office.endpoint(receiver.url)
    with office.db.transaction() as tx:
        delivery_log.replay_event(tx, office.organization_id, early, endpoint_id, actor=ACTOR)
    office.send()
    assert receiver.ids == [early]


def test_telling_before_the_fan_out_tells_twice(office: Any, receiver: Any) -> None:
    """Asked for before its turn, an event has its turn nevertheless."""
    endpoint_id, _ = office.endpoint(receiver.url)
    event_id = office.tell(1)
    with office.db.transaction() as tx:
        delivery_log.replay_event(tx, office.organization_id, event_id, endpoint_id, actor=ACTOR)
    office.send()
    assert receiver.ids == [event_id, event_id]


def test_what_cannot_be_told_anew(office: Any, receiver: Any) -> None:
    """What is not there, what is of another organization, and endpoints that are disabled."""
    endpoint_id, _ = office.endpoint(receiver.url)
    event_id = office.tell(1)
    office.send()
    with office.db.transaction() as tx:
        ours, seq = office.organization_id, _newest(tx, office)
        other = create_organization(tx, "other", actor="test")
        no_delivery = Refused("not_found", f"there is no delivery {seq}")
        no_event = Refused("not_found", f"there is no event {event_id}")
        no_endpoint = Refused("not_found", "there is no webhook endpoint whe_x")
        again, event_again = delivery_log.replay, delivery_log.replay_event
        assert again(tx, other, seq, actor=ACTOR) == no_delivery
        assert event_again(tx, other, event_id, endpoint_id, actor=ACTOR) == no_event
        assert event_again(tx, ours, event_id, "whe_x", actor=ACTOR) == no_endpoint
        assert delivery_log.events(tx, other, **PAGE) == ([], 0)
        assert delivery_log.deliveries(tx, other, endpoint_id, **PAGE) == ([], 0)
        assert delivery_log.attempts(tx, other, seq) == []
        endpoints.change(tx, ours, endpoint_id, enabled=False, actor=ACTOR)
        disabled = Refused("conflict", f"{endpoint_id} is disabled; enable it first")
        assert again(tx, ours, seq, actor=ACTOR) == disabled
        assert event_again(tx, ours, event_id, endpoint_id, actor=ACTOR) == disabled
