"""The admin port as probes, scrapes and strangers see it: over real TCP."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from usageflow.errors import ConfigurationError
from usageflow.proxy import admin
from usageflow.proxy.admin import STUCK_S, AdminServer, stuck, unready
from usageflow.proxy.figures import Health

WELL = Health(ticked_s=100.0, loaded=True, policies=1, reachable=True)
PATIENCE_S = 10.0

Ask = Callable[..., tuple[int, dict[str, str], bytes]]


class Proxy:
    """What the server asks, for a test to set."""

    def __init__(self) -> None:
        self.well = WELL
        self.text = "usageflow_policies 1\n"

    def health(self) -> Health:
        """Ticking now, unless it is told otherwise."""
        return replace(self.well, ticked_s=time.monotonic()) if self.well is WELL else self.well

    def metrics(self) -> str:
        """Its text."""
        return self.text


@pytest.fixture
def proxy() -> Proxy:
    """A proxy that is well."""
    return Proxy()


@pytest.fixture
def server(proxy: Proxy) -> Iterator[AdminServer]:
    """Its admin port."""
    server = AdminServer("127.0.0.1:0", health=proxy.health, metrics=proxy.metrics)
    server.start()
    yield server
    server.close()


@pytest.fixture
def ask(server: AdminServer) -> Ask:
    """Ask the port something; gives status, fields and body."""

    def ask(path: str, method: str = "GET", body: bytes | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    return ask


@pytest.fixture
def say(server: AdminServer) -> Callable[[bytes], bytes]:
    """Send bytes to the port; gives all that comes back."""

    def say(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as stranger:
            stranger.sendall(data)
            return b"".join(iter(lambda: stranger.recv(65_536), b""))

    return say


# What follows from a proxy's health


def test_a_healthy_proxy_is_alive_and_ready() -> None:
    """For no reason to the contrary."""
    assert stuck(WELL, 100.0 + STUCK_S) == unready(WELL, 100.0 + STUCK_S) == []


def test_a_loop_that_does_not_run_is_told() -> None:
    """A process that is stuck should be started anew, and gets no requests meanwhile."""
    assert stuck(WELL, 106.0) == unready(WELL, 106.0) == ["an event loop has not run for 6 s"]


def test_a_start_is_not_ready_but_no_reason_to_start_anew() -> None:
    """However long it waits for its policies."""
    assert stuck(Health(), 1e6) == []
    assert unready(Health(), 1e6) == ["starting"]


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (replace(WELL, loaded=False), "no policies have been loaded yet"),
        (replace(WELL, draining=True), "stopping"),
        (replace(WELL, reachable=False), "no upstream is well"),
        (
            replace(WELL, refusing=True),
            "the disk takes no events, and a policy refuses requests without it",
        ),
    ],
)
def test_each_reason_makes_a_proxy_unready_alone(health: Health, reason: str) -> None:
    """And is never one to start it anew, which would mend nothing."""
    assert unready(health, 101.0) == [reason]
    assert stuck(health, 101.0) == []


def test_an_empty_policy_set_is_a_set() -> None:
    """Whoever wants nothing metered is ready all the same."""
    assert unready(replace(WELL, policies=0), 101.0) == []


# The port


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz?verbose"])
def test_probes_of_a_healthy_proxy_succeed(ask: Ask, path: str) -> None:
    """With a body for people."""
    status, fields, body = ask(path)
    assert (status, json.loads(body)) == (200, {"status": "ok"})
    assert fields["content-type"] == "application/json"
    assert fields["cache-control"] == "no-store"


def test_probes_tell_why_they_fail(ask: Ask, proxy: Proxy) -> None:
    """Stuck: both fail. Draining: only readiness does."""
    proxy.well = replace(WELL, draining=True, ticked_s=time.monotonic())
    assert ask("/healthz")[0] == 200
    status, _, body = ask("/readyz")
    assert (status, json.loads(body)) == (503, {"status": "failing", "reasons": ["stopping"]})
    proxy.well = replace(WELL, ticked_s=time.monotonic() - 60)
    assert ask("/healthz")[0] == ask("/readyz")[0] == 503


def test_metrics_are_served_as_text(ask: Ask, proxy: Proxy) -> None:
    """As they are at that moment, with the type that tells Prometheus the format."""
    status, fields, body = ask("/metrics")
    assert (status, body) == (200, b"usageflow_policies 1\n")
    assert fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    proxy.text = "usageflow_policies 2\n"
    assert ask("/metrics")[2] == b"usageflow_policies 2\n"


def test_head_has_the_head_alone(say: Callable[[bytes], bytes]) -> None:
    """Some load balancers probe so."""
    head = say(b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 21\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    assert say(b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(ask: Ask, method: str) -> None:
    """405 says so, and what is allowed."""
    status, fields, _ = ask("/healthz", method, b"x" * 100)
    assert (status, fields["allow"]) == (405, "GET, HEAD")


def test_other_paths_do_not_exist(ask: Ask) -> None:
    """There is nothing else to find."""
    assert ask("/")[0] == ask("/metrics/")[0] == ask("/..%2fmetrics")[0] == 404


def test_no_answer_tells_what_serves_it(say: Callable[[bytes], bytes]) -> None:
    """Neither the good ones nor the errors, and every connection ends with its answer."""
    for request in (
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\n\r\n",
        b"garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: 24\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
    ):
        answer = say(request)
        assert answer.count(b"HTTP/1.1 ") == 1, request
        assert b"Connection: close" in answer
        assert b"Server:" not in answer
        assert b"Python" not in answer


def test_a_silent_connection_is_closed(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its thread is free again."""
    monkeypatch.setattr(admin._Handler, "timeout", 0.05)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as silent:
        assert silent.recv(1) == b""


def test_connections_beyond_the_limit_are_closed(
    server: AdminServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers that hold connections open take bounded memory; probes work again after them."""
    monkeypatch.setattr(admin._Handler, "timeout", PATIENCE_S * 2)  # not closed for its silence
    held = [
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        for _ in range(admin.CONNECTIONS_MAX)
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as beyond:
        assert beyond.recv(1) == b""
    for each in held:
        each.close()
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            assert ask("/healthz")[0] == 200
            return
        except ConnectionError:  # their threads have not noticed yet
            time.sleep(0.01)
    pytest.fail("no room again")


def test_a_client_that_leaves_is_no_news(
    server: AdminServer,
    ask: Ask,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither in the log nor, as Python's default is, on standard error."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as leaver:
        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        leaver.sendall(b"GET /metrics HTTP/1.1\r\n")
    assert ask("/healthz")[0] == 200
    assert caplog.text == ""
    assert capfd.readouterr().err == ""


def test_a_fault_of_ours_is_logged_and_the_port_lives(
    ask: Ask, proxy: Proxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scrape fails, which Prometheus shows as down; the probes go on."""
    monkeypatch.setattr(proxy, "text", None)
    with pytest.raises(http.client.RemoteDisconnected):
        ask("/metrics")
    assert ask("/healthz")[0] == 200
    assert "the admin port could not answer: AttributeError" in caplog.text


def test_a_thread_that_cannot_be_started_takes_no_room(
    server: AdminServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system allows no more threads for a while."""
    start = threading.Thread.start

    def fail(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    for _ in range(admin.CONNECTIONS_MAX + 1):
        with pytest.raises(ConnectionError):
            ask("/healthz")
    monkeypatch.setattr(threading.Thread, "start", start)
    assert ask("/healthz")[0] == 200


def test_an_address_that_cannot_be_listened_on_is_told(server: AdminServer, proxy: Proxy) -> None:
    """Before the proxy starts, naming the option."""
    for listen in ("nonsense", f"127.0.0.1:{server.port}"):
        with pytest.raises(ConfigurationError, match="listen"):
            AdminServer(listen, health=proxy.health, metrics=proxy.metrics)


def test_a_server_that_never_began_can_be_closed(proxy: Proxy) -> None:
    """A start that fails elsewhere closes what it has."""
    server = AdminServer("127.0.0.1:0", health=proxy.health, metrics=proxy.metrics)
    port = server.port
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_an_address_that_is_none_is_told_by_its_option() -> None:
    """There is more than one that could be meant."""
    with pytest.raises(ConfigurationError, match=r"^--admin-listen: listen address '9901' must"):
        AdminServer("9901", health=Health, metrics=str)
