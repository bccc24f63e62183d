"""The shell: threads that nobody waits for, and that may be killed at any moment."""

import base64
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from usageflow.db.session import Database, Tx
from usageflow.errors import DatabaseError
from usageflow.webhooks import delivery_log, endpoints
from usageflow.webhooks.deliveries import LEASE_S
from usageflow.webhooks.fan_out import fan_out_due
from usageflow.webhooks.sender import Sender, webhook_sender


def made(db: Database, items: list[int], send: Any, **options: Any) -> Sender[int, int]:
    """A sender of numbers."""

    def claim(tx: Tx, limit: int) -> list[int]:
        return [items.pop(0) for _ in range(min(limit, len(items)))]

    def settle(tx: Tx, item: int, result: int) -> None:
        """Nothing."""

    given: dict[str, Any] = {"claim": claim, "settle": settle, "threads_max": 2} | options
    return Sender(db, send=send, **given)


def test_a_slow_one_keeps_nobody_waiting(office: Any) -> None:
    """It has one thread, the others do the rest, and `begin` returns at once."""
    slow, sent = threading.Event(), []

    def send(item: int) -> int:
        if item == 0:
            assert slow.wait(10)
        sent.append(item)
        return item

    items = list(range(6))
    numbers = made(office.db, items, send)
    assert numbers.begin() == 2
    while len(sent) < 5:
        time.sleep(0.001)
    assert sent == [1, 2, 3, 4, 5]
    assert numbers.begin() == 0
    slow.set()
    numbers.close()
    assert sent == [1, 2, 3, 4, 5, 0]


def test_no_more_threads_than_allowed(office: Any) -> None:
    """While all are taken, nothing is claimed."""
    wait = threading.Event()
    items = [1, 2, 3]
    numbers = made(office.db, items, lambda item: wait.wait(10) and item)
    assert [numbers.begin() for _ in range(2)] == [2, 0]
    assert items == [3]
    wait.set()
    numbers.wait(10)
    assert items == []


def test_closed_means_that_nothing_new_is_begun(office: Any) -> None:
    """What is being sent ends; what waits stays."""
    items = [1, 2, 3]
    numbers = made(office.db, items, lambda item: item)
    numbers.close()
    assert numbers.begin() == 0
    assert items == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatabaseError("gone"), "gone; what was sent meanwhile will be sent again"),
        (KeyError("x"), "sending failed; the lease ends, then it is tried again"),
    ],
    ids=["database", "fault"],
)
def test_a_failure_ends_its_thread_alone(
    office: Any, caplog: pytest.LogCaptureFixture, error: Exception, message: str
) -> None:
    """It is told, and the next round goes on."""
    sent = []

    def send(item: int) -> int:
        if item == 1:
            raise error
        sent.append(item)
        return item

    items = [1]
    numbers = made(office.db, items, send)
    with caplog.at_level(logging.WARNING, "usageflow.webhooks"):
        numbers.begin()
        numbers.wait(10)
    assert [record.getMessage() for record in caplog.records] == [message]
    items.append(2)
    assert numbers.begin() == 1
    numbers.close()
    assert sent == [2]


def test_slow_endpoints_do_not_keep_others(
    office: Any, receiver: Any, another_receiver: Any
) -> None:
    """While one takes its time over the first event, another has got all of them."""
    slow = threading.Event()
    receiver.reply = lambda _: (200 if slow.wait(10) else 500, b"")
    office.endpoint(receiver.url)
    office.endpoint(another_receiver.url)
    for number in range(5):
        office.tell(number)
    fan_out_due(office.db)
    webhooks = webhook_sender(office.db, office.keyring, office.poster)
    webhooks.begin()
    while len(another_receiver.requests) < 5:
        time.sleep(0.001)
    assert len(receiver.requests) == 1
    slow.set()
    webhooks.wait(10)
    assert (receiver.numbers, another_receiver.numbers) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])


def test_several_servers_share_the_work(office: Any, receiver: Any, another_receiver: Any) -> None:
    """Each event arrives once at each endpoint, in order, whoever sends it."""
    for one in (receiver, another_receiver):
        office.endpoint(one.url)
    for number in range(30):
        office.tell(number)
    fan_out_due(office.db)
    servers = [webhook_sender(office.db, office.keyring, office.poster) for _ in range(3)]
    deadline_s = time.monotonic() + 30
    while len(receiver.requests) + len(another_receiver.requests) < 60:
        assert time.monotonic() < deadline_s
        for server in servers:
            server.begin()
    for server in servers:
        server.wait(10)
    assert receiver.numbers == another_receiver.numbers == list(range(30))


KILLED = """
import ssl, sys
from datetime import datetime
from usageflow.catalog.secrets import Keyring
from usageflow.db.session import Database
from usageflow.webhooks.posting import Poster
from usageflow.webhooks.sender import webhook_sender
url, key, now = sys.argv[1:]
db = Database.open(url, clock=lambda: datetime.fromisoformat(now))
poster = Poster(private=True, tls=ssl.create_default_context())
sender = webhook_sender(db, Keyring.read(key), poster)
sender.begin()
sender.wait(30)
"""


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "after it"])
def test_killed_while_it_sends(
    office: Any, receiver: Any, clock: Any, database_url: str, *, answered: bool
) -> None:
    """The event is sent again, with the same id, when the dead one's lease has ended; the rest
    follows in order.
    """
    endpoint_id, _ = office.endpoint(receiver.url)
    made = [office.tell(number) for number in range(3)]
    fan_out_due(office.db)
    taken, go_on = threading.Event(), threading.Event()

    def reply(_: Any) -> tuple[int, bytes]:
        taken.set()
        assert go_on.wait(20)
        return 200, b""

    receiver.reply = reply
    key = base64.b64encode(b"k" * 32).decode()
    command = [sys.executable, "-c", KILLED, database_url, key, clock.now.isoformat()]
    with subprocess.Popen(command) as killed:
        assert taken.wait(20)
        # while the row is locked, the answer arrives but cannot be noted
        with office.db.transaction() as tx:
            endpoints.find(tx, office.organization_id, endpoint_id, locked=True)
            if answered:
                go_on.set()
                while not receiver.answered:
                    time.sleep(0.001)
            killed.kill()
            killed.wait(10)
    go_on.set()
    receiver.reply = lambda _: (200, b"")
    office.send()
    assert receiver.ids == made[:1], "the lease is still the dead one's"
    clock.forward(seconds=LEASE_S)
    office.send()
    assert receiver.ids == [made[0], *made]
    with office.db.reading() as tx:
        ((row, _), *_), _ = delivery_log.deliveries(
            tx, office.organization_id, endpoint_id, offset=2, limit=1
        )
        attempts = delivery_log.attempts(tx, office.organization_id, row.seq or 0)
        assert [one.number for one in attempts] == [2]
