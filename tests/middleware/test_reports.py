"""Reports of discovered endpoints: sent in time, told again if refused, complained about once."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from usageflow.middleware import reports
from usageflow.middleware.discovery import Discovery
from usageflow.middleware.reports import Reports
from usageflow.recorder import Http


class Server:
    """The endpoint for reports: answers with `status`, keeps what it was told."""

    def __init__(self) -> None:
        self.status = 200
        self.told: list[dict[str, int]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: list[socket.socket] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections.append(self.connection)

            def do_POST(self) -> None:
                server.headers.append({k.lower(): v for k, v in self.headers.items()})
                report = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.told.append(
                    {each["template"]: each["requests"] for each in report["endpoints"]}
                )
                if server.status == 0:
                    self.close_connection = True
                    return  # taken, and the answer is lost
                self.send_response(server.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Stay quiet."""

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.01,))
        self.thread.start()

    def drop_connections(self) -> None:
        """End those that are kept."""
        for connection in self.connections:
            with suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop; connections are refused from now on. May be called again."""
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of its own."""
    subject = Server()
    yield subject
    subject.close()


class Edge:
    """A discovery and its reports to a server."""

    def __init__(self, url: str, kit: Any) -> None:
        self.discovery = Discovery(10)
        self.reports = Reports(Http(url, "uf_live_x", timeout_s=5), self.discovery)
        self._kit = kit

    def serve(self, path: str, times: int = 1) -> None:
        """Requests that no policy matches, answered with 200."""
        for _ in range(times):
            asyncio.run(self._serve(path))

    async def _serve(self, path: str) -> None:
        client = self._kit.Client()
        app = self._kit.answering(self._kit.start(), self._kit.body())
        observation = self.discovery.begin(self._kit.scope(path=path), path)
        if observation is not None:
            await observation.through(app, client.receive, client.send)


@pytest.fixture
def edge(server: Server, kit: Any) -> Iterator[Edge]:
    """An edge of the server."""
    subject = Edge(server.url, kit)
    yield subject
    subject.reports._connection.close()


def test_a_report_is_sent_when_it_is_due(
    edge: Edge, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one at once, the next one after the interval, and never one without news."""
    edge.reports.send_due()
    assert server.told == []
    edge.reports._due_s = 0
    edge.serve("/orders", 2)
    edge.reports.send_due()
    edge.serve("/orders")
    edge.reports.send_due()
    assert server.told == [{"/orders": 2}]
    monkeypatch.setattr(reports, "REPORT_INTERVAL_S", 0.0)
    edge.reports._due_s = 0
    edge.reports.send_due()
    edge.reports.send_due()
    assert server.told == [{"/orders": 2}, {"/orders": 1}]


def test_the_server_knows_who_tells_it(edge: Edge, server: Server) -> None:
    """The edge's key and JSON."""
    edge.serve("/orders")
    edge.reports.send()
    (headers,) = server.headers
    assert headers["x-usageflow-api-key"] == "uf_live_x"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [204, 200])
def test_what_is_taken_is_not_told_again(edge: Edge, server: Server, status: int) -> None:
    """With content or without."""
    server.status = status
    edge.serve("/orders")
    edge.reports.send()
    edge.reports.send()
    assert server.told == [{"/orders": 1}]


def test_what_is_refused_is_told_again_and_complained_about_once(
    edge: Edge, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost, and the log does not fill; another trouble is another complaint."""
    server.status = 503
    for _ in range(3):
        edge.serve("/orders")
        edge.reports.send()
    assert server.told == [{"/orders": 1}, {"/orders": 2}, {"/orders": 3}]
    assert caplog.text.count("discovered endpoints are not reported") == 1
    server.status = 401
    edge.reports.send()
    assert caplog.text.count("discovered endpoints are not reported") == 2
    server.status = 200
    edge.reports.send()
    assert server.told[-1] == {"/orders": 3}
    server.status = 401
    edge.serve("/orders")
    edge.reports.send()
    assert caplog.text.count("discovered endpoints are not reported") == 3


@pytest.mark.parametrize("status", [0, 502, 504])
def test_what_may_have_been_taken_is_not_told_again(
    edge: Edge, server: Server, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Not on the same connection, and not with the next report: better lost than counted twice."""
    edge.serve("/orders")
    edge.reports.send()
    server.status = status
    edge.serve("/orders", 2)
    edge.reports.send()
    assert "discovered endpoints are not reported" in caplog.text
    server.status = 200
    edge.serve("/orders", 4)
    edge.reports.send()
    assert server.told == [{"/orders": 1}, {"/orders": 2}, {"/orders": 4}]


def test_a_connection_that_was_kept_too_long_loses_no_report(edge: Edge, server: Server) -> None:
    """Servers close idle ones, as uvicorn does after 5 s: a report has one of its own."""
    for _ in range(3):
        edge.serve("/orders")
        edge.reports.send()
        server.drop_connections()
    assert server.told == [{"/orders": 1}] * 3


def test_a_server_that_is_gone_costs_nothing(
    edge: Edge, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """`send_due` does not raise on the feed's thread, and what was found is kept."""
    server.close()
    edge.serve("/orders")
    edge.reports.send_due()
    assert "discovered endpoints are not reported: no answer from" in caplog.text
    content = edge.discovery.take()
    assert content is not None
    assert b'"/orders"' in content


def test_closing_tells_what_is_left(edge: Edge, server: Server) -> None:
    """Whatever the interval says; the connection is closed after it."""
    edge.reports.send_due()
    edge.serve("/orders")
    edge.reports.close()
    assert server.told == [{"/orders": 1}]
    assert edge.reports._connection._connection.sock is None
