"""What follows from an answer: order, retries, giving up, disabling, leases."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import col, delete, select
from standardwebhooks import Webhook

from usageflow.catalog.audit import SYSTEM, Actor
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import Keyring
from usageflow.db.outbox_tables import (
    WebhookAttemptRow,
    WebhookDeliveryRow,
    WebhookEndpointRow,
    WebhookEventRow,
)
from usageflow.db.tables import AuditRow
from usageflow.webhooks import deliveries, endpoints
from usageflow.webhooks.fan_out import fan_out_due
from usageflow.webhooks.posting import Outcome

ACTOR = Actor("owner@acme.example")
TAKEN = Outcome(200, None, "ok", 3)
LOST = Outcome(None, "no answer in time", "", 15_000)


def rows(office: Any) -> list[WebhookDeliveryRow]:
    """All deliveries in order."""
    with office.db.reading() as tx:
        found = list(
            tx.session.exec(select(WebhookDeliveryRow).order_by(col(WebhookDeliveryRow.seq)))
        )
        tx.session.expunge_all()
        return found


def states(office: Any) -> list[str]:
    """Their states."""
    return [row.state for row in rows(office)]


def claimed(office: Any, limit: int = 9) -> list[deliveries.Claim]:
    """What a server claims now."""
    with office.db.transaction() as tx:
        return deliveries.claim(tx, limit)


def settled(office: Any, claim: deliveries.Claim, outcome: Outcome) -> bool:
    """Whether a server's word counts."""
    with office.db.transaction() as tx:
        return deliveries.settle(tx, claim, outcome, chance=0.0)


def test_events_arrive_in_order_and_signed(office: Any, receiver: Any, clock: Any) -> None:
    """The envelope of the standard, the stored bytes, and a log of each attempt."""
    _, secret = office.endpoint(receiver.url)
    made = [office.tell(number) for number in range(3)]
    office.send()
    assert receiver.ids == made
    assert states(office) == ["delivered"] * 3
    first = receiver.requests[0]
    assert json.loads(first["body"]) == {
        "id": made[0],
        "type": "invoice.paid",
        "created_at": "2026-11-21T12:00:00Z",
        "data": {"number": 0},
    }
    expected = Webhook(secret).sign(made[0], clock.now, first["body"].decode())
    assert first["headers"]["webhook-signature"] == expected
    assert first["headers"]["webhook-timestamp"] == str(int(clock.now.timestamp()))
    assert first["headers"]["content-type"] == "application/json"
    assert first["headers"]["user-agent"].startswith("UsageFlow-Webhooks/")
    with office.db.reading() as tx:
        attempts = list(tx.session.exec(select(WebhookAttemptRow)))
        assert [(one.number, one.status, one.answer) for one in attempts] == [(1, 200, "ok")] * 3


def test_both_secrets_sign_for_a_day(office: Any, receiver: Any, clock: Any) -> None:
    """While a secret is replaced; then the new one alone."""
    endpoint_id, old = office.endpoint(receiver.url)
    with office.db.transaction() as tx:
        rotated = endpoints.rotate_secret(
            tx, office.organization_id, endpoint_id, keyring=office.keyring, actor=ACTOR
        )
    assert not isinstance(rotated, Refused)
    office.tell(1)
    office.send()
    clock.forward(hours=24)
    office.tell(2)
    office.send()
    for request, secrets in zip(receiver.requests, ([rotated[1], old], [rotated[1]]), strict=True):
        lines = request["headers"]
        at = datetime.fromtimestamp(int(lines["webhook-timestamp"]), tz=clock.now.tzinfo)
        body = request["body"].decode()
        expected = [Webhook(one).sign(lines["webhook-id"], at, body) for one in secrets]
        assert lines["webhook-signature"].split(" ") == expected


def test_younger_events_wait_for_the_oldest(office: Any, receiver: Any, clock: Any) -> None:
    """While it is tried again; the same event has the same id and body each time."""
    endpoint_id, _ = office.endpoint(receiver.url)
    receiver.reply = lambda _: (500, b"not now")
    office.tell(1)
    office.tell(2)
    office.send()
    assert receiver.numbers == [1]
    first = rows(office)[0]
    assert (first.state, first.attempts, first.last_status) == ("pending", 1, 500)
    assert (first.last_error, first.next_at) == ("answered 500", clock.now + timedelta(seconds=5))
    clock.forward(seconds=4.9)
    office.send()
    assert receiver.numbers == [1]
    clock.forward(seconds=0.1)
    office.send()
    assert receiver.numbers == [1, 1]
    assert office.row(endpoint_id).blocked_until == clock.now + timedelta(seconds=30)
    receiver.reply = lambda _: (200, b"")
    clock.forward(seconds=30)
    office.send()
    assert receiver.numbers == [1, 1, 1, 2]
    assert len({(one["headers"]["webhook-id"], one["body"]) for one in receiver.requests}) == 2
    assert office.row(endpoint_id).failing_since is None


def test_one_that_fails_blocks_no_other(office: Any, receiver: Any, another_receiver: Any) -> None:
    """Another endpoint gets everything while the first is tried again."""
    office.endpoint(receiver.url)
    office.endpoint(another_receiver.url)
    receiver.reply = lambda _: (503, b"")
    for number in range(3):
        office.tell(number)
    office.send()
    assert (receiver.numbers, another_receiver.numbers) == ([0], [0, 1, 2])


def test_after_three_days_the_next_one_goes(office: Any, clock: Any) -> None:
    """The last try is at the end of three days; its failure is final, and ends the waiting."""
    office.endpoint("http://127.0.0.1:1/")
    office.tell(1)
    office.tell(2)
    began = clock.now
    office.send()
    while rows(office)[0].state == "pending":
        clock.now = rows(office)[0].next_at
        office.send()
    first, second = rows(office)
    assert (first.state, first.ended_at) == ("failed", began + timedelta(days=3))
    assert first.attempts == 11
    assert (second.state, second.attempts) == ("pending", 1)
    assert "Connection refused" in str(second.last_error)


def test_five_days_of_failing_disable_it(office: Any, clock: Any) -> None:
    """With a reason and a word in the audit log; what waits, waits until it is enabled."""
    endpoint_id, _ = office.endpoint("http://127.0.0.1:1/")
    for number in range(3):
        office.tell(number)
    began = clock.now
    office.send()
    while (row := office.row(endpoint_id)).enabled:
        clock.now = row.blocked_until
        office.send()
    assert timedelta(days=5) <= clock.now - began < timedelta(days=6, hours=1)
    assert row.disabled_reason == "nothing succeeded for 5 days"
    assert states(office) == ["failed", "pending", "pending"]
    with office.db.reading() as tx:
        last = tx.session.exec(select(AuditRow).order_by(col(AuditRow.seq).desc())).first()
        assert last is not None
        assert (last.action, last.actor, last.subject) == ("webhook.disable", SYSTEM, endpoint_id)
    clock.forward(days=1)
    office.send()
    assert claimed(office) == []
    with office.db.transaction() as tx:
        endpoints.change(tx, office.organization_id, endpoint_id, enabled=True, actor=ACTOR)
    office.send()
    row = office.row(endpoint_id)
    assert (row.enabled, row.failing_since, row.disabled_reason) == (True, clock.now, None)


def test_gone_disables_it_at_once(office: Any, receiver: Any) -> None:
    """410 Gone is what an endpoint says that wants no more."""
    endpoint_id, _ = office.endpoint(receiver.url)
    receiver.reply = lambda _: (410, b"")
    office.tell(1)
    office.tell(2)
    office.send()
    row = office.row(endpoint_id)
    assert (row.enabled, row.disabled_reason) == (False, "it answered 410 Gone")
    assert states(office) == ["failed", "pending"]
    assert receiver.numbers == [1]


def test_a_lease_is_for_one_sender(office: Any, clock: Any) -> None:
    """Nobody else claims the endpoint; when the lease has ended, the same event is claimed again.

    Then the word of who lost it no longer counts.
    """
    office.endpoint("https://hooks.example/")
    event_id = office.tell(1)
    office.tell(2)
    fan_out_due(office.db)
    (first,) = claimed(office)
    assert claimed(office) == []
    clock.forward(seconds=deliveries.LEASE_S)
    (second,) = claimed(office)
    assert (first.event_id, second.event_id) == (event_id, event_id)
    assert (first.number, second.number) == (1, 2)
    assert first.lease != second.lease
    assert not settled(office, first, LOST)
    assert settled(office, second, TAKEN)
    assert not settled(office, second, TAKEN)
    assert states(office) == ["delivered", "pending"]
    assert [one.event_id == event_id for one in claimed(office)] == [False]


def test_what_another_server_told_meanwhile(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that was chosen before its last event was noted as told: nothing is claimed."""
    endpoint_id, _ = office.endpoint("https://hooks.example/")
    with office.db.transaction() as tx:
        row = endpoints.find(tx, office.organization_id, endpoint_id)
        monkeypatch.setattr(deliveries, "_free", lambda *_: [row])
        assert deliveries.claim(tx, 9) == []
        assert row is not None
        assert row.lease_owner is None


def test_deleted_while_it_is_told(office: Any) -> None:
    """What was cancelled stays so, whatever comes of the attempt."""
    endpoint_id, _ = office.endpoint("https://hooks.example/")
    office.tell(1)
    fan_out_due(office.db)
    (claim,) = claimed(office)
    with office.db.transaction() as tx:
        endpoints.delete(tx, office.organization_id, endpoint_id, actor=ACTOR)
    assert settled(office, claim, LOST)
    (row,) = rows(office)
    assert (row.state, row.last_error) == ("cancelled", "no answer in time")


def test_who_waits_longest_is_first(office: Any, clock: Any) -> None:
    """With few threads, endpoints take turns."""
    made = [office.endpoint(f"https://hooks.example/{number}")[0] for number in range(3)]
    for number in range(2):
        office.tell(number)
    fan_out_due(office.db)
    served = []
    for _ in range(6):
        clock.forward(seconds=1)
        (claim,) = claimed(office, 1)
        served.append(claim.endpoint_id)
        settled(office, claim, TAKEN)
    assert served == made * 2


def test_without_its_key_nothing_is_sent(office: Any, receiver: Any) -> None:
    """An event without a signature would be worthless: it waits, and the log names the key."""
    office.endpoint(receiver.url)
    office.keyring = Keyring([b"x" * 32])
    office.tell(1)
    office.send()
    (row,) = rows(office)
    assert row.state == "pending"
    assert "which is not in USAGEFLOW_ENCRYPTION_KEYS" in str(row.last_error)
    assert receiver.requests == []


class Story:
    """Two endpoints that are told by servers which fail, die and come back; no network."""

    def __init__(self, office: Any, clock: Any) -> None:
        self.office = office
        self.clock = clock
        self.seen: dict[str, list[int]] = {}
        for number in range(2):
            self.seen[office.endpoint(f"https://hooks.example/{number}")[0]] = []
        self.told: list[int] = []
        self.open: list[deliveries.Claim] = []

    def tell(self) -> None:
        """Something happens."""
        self.told.append(len(self.told))
        self.office.tell(self.told[-1])

    def send(self) -> None:
        """A server sends what is due; the endpoints see it."""
        fan_out_due(self.office.db)
        for claim in claimed(self.office):
            self.open.append(claim)
            self.seen[claim.endpoint_id].append(json.loads(claim.body)["data"]["number"])

    def die(self) -> None:
        """A server dies before it can say what came of an attempt."""
        del self.open[:1]

    def answer(self, status: int | None = 200) -> None:
        """An attempt ends."""
        if self.open:
            settled(self.office, self.open.pop(0), Outcome(status, None, "", 0))

    def end(self) -> None:
        """From now on everything goes well."""
        for _ in range(2 * len(self.told) + 2):
            self.clock.forward(days=1)
            self.send()
            while self.open:
                self.answer()

    def forget(self) -> None:
        """As if nothing had happened, for the next story of this database."""
        with self.office.db.transaction() as tx:
            for row in (WebhookAttemptRow, WebhookDeliveryRow, WebhookEventRow, WebhookEndpointRow):
                tx.session.exec(delete(row))


STEPS: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.just(("tell",)),
    st.just(("send",)),
    st.just(("die",)),
    st.tuples(st.just("answer"), st.sampled_from([200, 500, None])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 700.0, 10_000.0])),
)
"""Forty of the longest waits are less than the five days that disable an endpoint."""


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, max_size=40))
def test_each_event_arrives_in_order_or_is_given_up(
    office: Any, clock: Any, steps: list[tuple[Any, ...]]
) -> None:
    """Whatever fails, dies or waits: each endpoint sees each event, some of them again, in order.

    At the end, when all goes well, nothing is left.
    """
    story = Story(office, clock)
    for name, *details in steps:
        if name == "wait":
            clock.forward(seconds=details[0])
        else:
            getattr(story, name)(*details)
    story.end()
    assert "pending" not in states(office)
    for numbers in story.seen.values():
        assert list(dict.fromkeys(numbers)) == story.told
        assert numbers == sorted(numbers)
    story.forget()
