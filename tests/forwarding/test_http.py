"""CloudEvents over HTTP, to a receiver on TCP."""

import json
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from usageflow.db.exact import add
from usageflow.errors import ConfigurationError
from usageflow.forwarding.conformance import Trial, examine
from usageflow.forwarding.http import HttpSink, verdict
from usageflow.forwarding.sink import Parcel
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Quarantined,
    Verdict,
)


class Receiver:
    """Counts each event once, as its side of the bargain is; `refused` subjects get a 422."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], Any] = {}
        self.headers: list[dict[str, str]] = []
        self.refused: set[str] = set()
        self.lock = threading.Lock()

    def take(self, headers: Mapping[str, str], body: bytes) -> int:
        """The status for one request: all of its events, or none."""
        batch = json.loads(body, parse_float=Decimal, parse_int=Decimal)
        with self.lock:
            self.headers.append({name.lower(): value for name, value in headers.items()})
            if any(event["subject"] in self.refused for event in batch):
                return 422
            for event in batch:
                self.events.setdefault((event["source"], event["id"]), event)
        return 204

    def counted(self) -> Mapping[str, Decimal]:
        """By customer."""
        totals: dict[str, Decimal] = {}
        with self.lock:
            for event in self.events.values():
                before = totals.get(event["subject"], Decimal(0))
                totals[event["subject"]] = add(before, event["data"]["quantity"])
        return totals


@pytest.fixture
def receiver() -> Receiver:
    """A receiver that has nothing yet."""
    return Receiver()


@pytest.fixture
def url(receiver: Receiver) -> Iterator[str]:
    """Where it listens."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(receiver.take(dict(self.headers), body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/usage"
    server.shutdown()
    server.server_close()
    thread.join(10)


def opened(url: str) -> HttpSink:
    """A sink to this URL."""
    return HttpSink(
        url,
        source="urn:usageflow:test:own",
        window_s=None,
        timeout_s=5,
        calls_per_s=50,
        connections_max=8,
    )


def parcel(customer: str) -> Parcel:
    """A unit of a customer."""
    return Parcel(
        identifier=f"unit-{customer}",
        event_name="tokens",
        customer=customer,
        identity_field="account_id",
        identity_value=customer,
        quantity=Decimal(5),
        occurred_at=datetime(2026, 11, 2, tzinfo=UTC),
    )


def test_it_keeps_what_a_sink_promises(url: str, receiver: Receiver) -> None:
    """The kit finds nothing, with a receiver that tells repeats."""
    trial = Trial(
        open=lambda: opened(url),
        counted=receiver.counted,
        customers=[f"customer_{number}" for number in range(8)],
        event_name="tokens",
        away=lambda: opened("http://127.0.0.1:1/"),
    )
    assert examine(trial) == []


def test_a_batch_is_one_request(url: str, receiver: Receiver) -> None:
    """In the batched content mode of CloudEvents."""
    sink = opened(url)
    assert list(sink.send([parcel("a"), parcel("b")])) == [Accepted(), Accepted()]
    sink.close()
    (headers,) = receiver.headers
    assert headers["content-type"] == "application/cloudevents-batch+json"


def test_one_bad_unit_fails_no_other(url: str, receiver: Receiver) -> None:
    """The one that is refused is found, and the others are taken."""
    receiver.refused = {"c"}
    sink = opened(url)
    verdicts = sink.send([parcel(name) for name in "abcde"])
    sink.close()
    assert [isinstance(one, Quarantined) for one in verdicts] == [False, False, True, False, False]
    assert set(receiver.counted()) == set("abde")


def test_a_login_in_the_url_is_sent_as_one(url: str, receiver: Receiver) -> None:
    """As Basic authorization, with escapes undone; it is nowhere else."""
    sink = opened(url.replace("://", "://us%65r:p%40ss@"))
    sink.send([parcel("a")])
    sink.close()
    assert receiver.headers[0]["authorization"] == "Basic dXNlcjpwQHNz"
    assert receiver.headers[0]["host"] == url.split("/")[2]


@pytest.mark.parametrize("url", ["ftp://host/", "usage.ndjson", "http://", "http:///path"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigurationError, match="http"):
        opened(url)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, Accepted()),
        (202, {}, Accepted()),
        (409, {}, Accepted(duplicate=True)),
        (429, {}, Busy(account=True)),
        (429, {"retry-after": "7"}, Busy(7.0, account=True)),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, Busy(account=True)),
        (503, {"retry-after": "3"}, Busy(3.0, account=True)),
        (503, {}, Ambiguous("HTTP 503")),
        (500, {"retry-after": "3"}, Ambiguous("HTTP 500")),
        (408, {}, Ambiguous("HTTP 408")),
        (400, {}, Quarantined("http_400", "why")),
        (413, {}, Quarantined("http_413", "why")),
        (422, {}, Quarantined("http_422", "why")),
    ],
)
def test_answers_become_verdicts(status: int, headers: dict[str, str], expected: Verdict) -> None:
    """What the page on sinks tells receivers."""
    assert verdict(status, headers, b"why") == expected


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 410, 415])
def test_what_is_about_the_address_pauses_the_account(status: int) -> None:
    """No unit is burnt because a URL is wrong or a password has changed."""
    paused = verdict(status, {}, b"moved \xff" + b"." * 1_000)
    assert isinstance(paused, AccountPaused)
    assert f"HTTP {status}: moved" in paused.message
    assert len(paused.message) < 300
