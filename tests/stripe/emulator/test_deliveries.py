"""What is posted when: decisions over conduct and chance."""

import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.stripe.emulator import deliveries
from usageflow.stripe.emulator.deliveries import Conduct, Delivery, Queue
from usageflow.stripe.emulator.listeners import SELF, Listener

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
EVENT: dict[str, Any] = {"id": "evt_1", "object": "event", "type": "x", "api_version": "1"}


def delivery(name: str = "evt_1") -> Delivery:
    """A delivery of an event."""
    listener = Listener("we_1", NOW, NOW, "http://127.0.0.1/", ["*"], {}, [SELF])
    return Delivery(listener, {**EVENT, "id": name}, "acct_1", b"{}")


def emptied(queue: Queue) -> list[str]:
    """The events in the order they leave."""
    return [queue.take().event["id"] for _ in range(len(queue))]


@given(st.lists(st.floats(0.1, 9), max_size=9))
def test_what_is_due_first_leaves_first(due: list[float]) -> None:
    """And of what is due at the same time what came first."""
    queue = Queue()
    for number, due_s in enumerate(due):
        queue.add(delivery(str(number)), due_s)
    order = sorted(range(len(due)), key=lambda number: due[number])
    assert emptied(queue) == [str(number) for number in order]


def test_a_pause_lets_only_the_flushed_leave() -> None:
    """Those are due at once, in their order, or by rank where there is one."""
    queue = Queue()
    assert queue.next_s(paused=False) is None
    for name, rank in (("a", 0.3), ("b", 0.1)):
        queue.add(delivery(name), 5.0, rank)
    assert (queue.next_s(paused=False), queue.next_s(paused=True)) == (5.0, None)
    queue.flush()
    queue.add(delivery("later"), 6.0)
    assert queue.next_s(paused=True) == 0.0
    assert [queue.take().event["id"] for _ in "ab"] == ["b", "a"]
    assert queue.next_s(paused=True) is None


def test_by_default_an_event_is_due_at_once() -> None:
    """Once, and without a rank."""
    one = delivery()
    assert list(deliveries.planned(Conduct(), Random(0), one, 3.0)) == [(one, 3.0, 0.0)]


@given(
    st.builds(
        Conduct,
        duplicate_rate=st.floats(0, 1),
        drop_rate=st.floats(0, 1),
        shuffle=st.booleans(),
        delay_s=st.floats(0, 9),
    ),
    st.integers(),
)
def test_a_seed_decides_everything(conduct: Conduct, seed: int) -> None:
    """The same conduct and seed give the same plan, within the bounds that are documented."""
    plans = [
        [
            (one.duplicate, due_s, rank)
            for one, due_s, rank in deliveries.planned(conduct, Random(seed), delivery(), 3.0)
        ]
        for _ in range(2)
    ]
    assert plans[0] == plans[1]
    assert [duplicate for duplicate, _, _ in plans[0]] == [False, True][: len(plans[0])]
    for _, due_s, rank in plans[0]:
        assert -1e-9 <= due_s - 3.0 - conduct.delay_s <= 2 * deliveries.SPREAD_S + 1e-9
        assert 0 <= rank < 1


def test_the_body_is_what_the_listener_reads() -> None:
    """The endpoint's version if it has one, and the connected account only for platforms."""
    listener = delivery().listener
    assert json.loads(deliveries.body(listener, EVENT, None)) == EVENT
    listener.api_version = "2"
    body = json.loads(deliveries.body(listener, EVENT, "acct_2"))
    assert body == {**EVENT, "api_version": "2", "account": "acct_2"}
    thin = dict.fromkeys(deliveries.THIN_FIELDS, "x") | {"object": "v2.core.event", "data": {}}
    notification = json.loads(deliveries.body(listener, thin, "acct_2"))
    assert notification.keys() == {*deliveries.THIN_FIELDS, "context"}
    assert notification["context"] == "acct_2"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:1/hook", True),
        ("http://127.8.8.8/", True),
        ("http://[::1]/", True),
        ("http://localhost/", True),
        ("http://0.0.0.0/", False),
        ("http://10.0.0.1/", False),
        ("https://localhost.example.com/", False),
        ("http://127.0.0.1@example.com/", False),
        ("http://[::1", False),
        ("nonsense", False),
    ],
)
def test_which_addresses_are_of_this_machine(url: str, local: bool) -> None:  # noqa: FBT001 - a case
    """By their text alone."""
    assert deliveries.is_local(url) is local


@pytest.mark.parametrize(
    "wrong",
    [{"drop_rate": 1.5}, {"delay_s": -1}, {"retry_after_s": [1] * 11}, {"speed": 1}],
)
def test_a_wrong_conduct_is_refused(wrong: dict[str, Any]) -> None:
    """Rates are between 0 and 1, times not negative, attempts bounded, names known."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Conduct)
