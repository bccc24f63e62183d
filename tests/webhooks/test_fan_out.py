"""From events to deliveries: who gets what, once, in order, also when several servers do it."""

import threading
from typing import Any

import pytest
from sqlmodel import col, select

from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import create as create_organization
from usageflow.db import outbox
from usageflow.db.outbox_tables import WebhookDeliveryRow, WebhookEventRow
from usageflow.webhooks import endpoints
from usageflow.webhooks.fan_out import fan_out, fan_out_due

ACTOR = Actor("owner@acme.example")
URL = "https://hooks.example/x"


def told(office: Any) -> list[tuple[str, str]]:
    """The deliveries in the order they are sent: endpoint and type."""
    with office.db.reading() as tx:
        return [
            (delivery.endpoint_id, event.type)
            for delivery, event in tx.session.exec(
                select(WebhookDeliveryRow, WebhookEventRow)
                .join(
                    WebhookEventRow, col(WebhookDeliveryRow.event_seq) == col(WebhookEventRow.seq)
                )
                .order_by(col(WebhookDeliveryRow.seq))
            )
        ]


def test_each_gets_what_it_wants(office: Any) -> None:
    """All types, some types, none while disabled or deleted; once, however often it is run."""
    everything, _ = office.endpoint(URL)
    paid, _ = office.endpoint(URL, types=["invoice.paid"])
    disabled, _ = office.endpoint(URL)
    deleted, _ = office.endpoint(URL)
    with office.db.transaction() as tx:
        organization_id = office.organization_id
        endpoints.change(tx, organization_id, disabled, enabled=False, actor=ACTOR)
        endpoints.delete(tx, organization_id, deleted, actor=ACTOR)
    office.tell(1, "invoice.created")
    office.tell(2, "invoice.paid")
    assert [fan_out_due(office.db) for _ in range(2)] == [2, 0]
    assert told(office) == [
        (everything, "invoice.created"),
        (everything, "invoice.paid"),
        (paid, "invoice.paid"),
    ]


def test_another_organization_is_told_nothing(office: Any) -> None:
    """Its endpoints hear of its own events alone."""
    ours, _ = office.endpoint(URL)
    with office.db.transaction() as tx:
        other = create_organization(tx, "other", actor="test")
        theirs = endpoints.create(tx, other, url=URL, keyring=office.keyring, actor=ACTOR)
        assert isinstance(theirs, tuple)
        their_id = theirs[0].id
        outbox.emit(tx, other, "invoice.failed", {})
    office.tell(1)
    fan_out_due(office.db)
    assert told(office) == [(their_id, "invoice.failed"), (ours, "invoice.paid")]


def test_an_event_commits_with_its_deliveries_or_not_at_all(office: Any) -> None:
    """A transaction that is rolled back left nothing; part by part, nothing is left out."""
    office.endpoint(URL)
    for number in range(5):
        office.tell(number)
    with pytest.raises(KeyError), office.db.transaction() as tx:
        assert fan_out(tx) == 5
        raise KeyError
    assert told(office) == []
    with office.db.transaction() as tx:
        assert [fan_out(tx, events_max=2) for _ in range(4)] == [2, 2, 1, 0]
    assert len(told(office)) == 5


def test_several_servers_keep_the_order(office: Any) -> None:
    """Whoever comes second waits, and finds it done: each event once, in order."""
    office.endpoint(URL)
    with office.db.transaction() as tx:
        made = [
            outbox.emit(tx, office.organization_id, "invoice.paid", {"number": number})
            for number in range(60)
        ]

    def work() -> None:
        for _ in range(20):
            with office.db.transaction() as tx:
                fan_out(tx, events_max=7)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with office.db.reading() as tx:
        events = tx.session.exec(
            select(WebhookEventRow.id)
            .join(WebhookDeliveryRow, col(WebhookDeliveryRow.event_seq) == col(WebhookEventRow.seq))
            .order_by(col(WebhookDeliveryRow.seq))
        )
        assert list(events) == made
