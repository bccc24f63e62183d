"""The v2 stream, against a wire that plays answers."""

import json
import threading
from collections.abc import Mapping

import pytest

from usageflow.forwarding.transport import Answer, Lost, Pool
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Quarantined,
    Verdict,
)
from usageflow.stripe.meter_events import MeterEvent
from usageflow.stripe.streaming import SESSION_S, Stream, encoded
from usageflow.stripe.transport import Wire

OK = Answer(200, {}, b"{}")
EXPIRED = Answer(401, {}, b'{"error":{"code":"billing_meter_event_session_expired","message":"x"}}')
EVENT = MeterEvent("tokens", "uf1_a", 1_795_262_400, {"stripe_customer_id": "cus_1", "value": "5"})


class Played(Wire):
    """A wire that plays answers, the last one for ever, and keeps the tokens it was shown."""

    def __init__(self, *answers: Answer | Lost) -> None:
        super().__init__(Pool(timeout_s=1, connections_max=1, environment=False))
        self.answers = list(answers)
        self.tokens: list[str] = []

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None = None
    ) -> Answer | Lost:
        """The next of them."""
        assert (method, url) == ("POST", "http://host/v2/billing/meter_event_stream")
        assert headers["Stripe-Version"] == "2026-10-28.endive"
        self.tokens.append(headers["Authorization"].removeprefix("Bearer "))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Sessions:
    """Gives tokens, and counts them."""

    def __init__(self, refusal: Verdict | None = None) -> None:
        self.opened = 0
        self.refusal = refusal
        self.now = 0.0

    def open(self) -> str | Verdict:
        """A token that nobody had before."""
        self.opened += 1
        return self.refusal or f"token_{self.opened}"


def stream(wire: Wire, sessions: Sessions) -> Stream:
    """A stream over this wire."""
    version = "2026-10-28.endive"
    return Stream(wire, "http://host", version, sessions.open, clock=lambda: sessions.now)


def test_events_are_told_as_stripe_wants_them() -> None:
    """Every value is text, and a time is RFC 3339."""
    assert json.loads(encoded([EVENT])) == {
        "events": [
            {
                "event_name": "tokens",
                "identifier": "uf1_a",
                "timestamp": "2026-11-21T12:00:00Z",
                "payload": {"stripe_customer_id": "cus_1", "value": "5"},
            }
        ]
    }


def test_a_session_is_used_until_it_is_old() -> None:
    """One serves every call for 13 minutes."""
    wire, sessions = Played(OK), Sessions()
    sending = stream(wire, sessions)
    for sessions.now in (0.0, 1.0, SESSION_S, SESSION_S + 1):
        assert sending.send([EVENT]) == Accepted()
    assert wire.tokens == ["token_1", "token_1", "token_1", "token_2"]


def test_an_expired_session_is_replaced_once() -> None:
    """Nothing was taken under it, so the same call is made again; a second time it must wait."""
    wire, sessions = Played(EXPIRED, OK), Sessions()
    assert stream(wire, sessions).send([EVENT]) == Accepted()
    assert wire.tokens == ["token_1", "token_2"]
    assert stream(Played(EXPIRED), sessions).send([EVENT]) == Busy()


class Crossing(Played):
    """Refuses the first token to two calls: the second hears of it when the first is through."""

    def __init__(self) -> None:
        super().__init__(OK)
        self.both = threading.Barrier(2)
        self.through = threading.Event()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None = None
    ) -> Answer | Lost:
        """EXPIRED for the first token."""
        super().request(method, url, headers, body)
        if headers["Authorization"] == "Bearer token_1":
            if self.both.wait(10):
                self.through.wait(10)
            return EXPIRED
        self.through.set()
        return OK


def test_threads_share_a_session() -> None:
    """One that was replaced by another thread is not replaced again."""
    wire, sessions = Crossing(), Sessions()
    sending = stream(wire, sessions)
    verdicts: list[Verdict] = []
    threads = [
        threading.Thread(target=lambda: verdicts.append(sending.send([EVENT]))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert verdicts == [Accepted()] * 2
    assert wire.tokens == ["token_1", "token_1", "token_2", "token_2"]


@pytest.mark.parametrize("refusal", [AccountPaused("no"), Busy(account=True)])
def test_without_a_session_nothing_is_sent(refusal: Verdict) -> None:
    """Why there is none is the verdict."""
    wire = Played(OK)
    assert stream(wire, Sessions(refusal)).send([EVENT]) == refusal
    assert wire.tokens == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, {}, b' {"more": 1}\n'), Accepted()),
        (Answer(200, {}, b""), Ambiguous("HTTP 200 without Stripe's answer")),
        (Answer(200, {}, b"<html>"), Ambiguous("HTTP 200 without Stripe's answer")),
        (Answer(500, {}, b'{"error":{"message":"sorry"}}'), Ambiguous("HTTP 500: sorry")),
        (Answer(400, {}, b'{"error":{"message":"no","code":"x"}}'), Quarantined("x", "no")),
        (Answer(401, {}, b'{"error":{"message":"Invalid"}}'), AccountPaused("Invalid")),
        (Answer(429, {"stripe-rate-limited-reason": "endpoint-rate"}, b""), Busy(account=True)),
        (Lost("reset", sent=True), Ambiguous("reset")),
        (Lost("refused", sent=False), Busy()),
    ],
)
def test_answers_become_verdicts(answer: Answer | Lost, expected: Verdict) -> None:
    """The same table as for v1; a 200 must look like Stripe's."""
    assert stream(Played(answer), Sessions()).send([EVENT]) == expected
