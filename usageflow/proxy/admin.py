"""The admin port: is the proxy alive, is it ready, and what are its figures.

Served by a thread of its own, so that it can tell of an event loop that is stuck. It answers
nothing secret, changes nothing, and knows of the proxy only the two functions it is given.
"""

import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

from usageflow.addresses import bound_socket, host_and_port
from usageflow.errors import ConfigurationError
from usageflow.proxy.figures import Health
from usageflow.proxy.metrics import CONTENT_TYPE

log = logging.getLogger("usageflow.proxy")

STUCK_S: Final = 5.0
"""An event loop that has not run for so long serves nobody; it ticks several times a second."""
SILENCE_S_MAX: Final = 5.0
"""Longest wait for the next byte of a request or for room for one of an answer."""
CONNECTIONS_MAX: Final = 16
"""Open at once, with a thread for each; probes and scrapes come one by one."""
_STOP_POLL_S: Final = 0.2
_OPTION: Final = "--admin-listen"


def stuck(health: Health, now_s: float) -> list[str]:
    """Why the proxy should be started anew; nothing if it is alive. `now_s` is monotonic time."""
    silence_s = now_s - health.ticked_s
    if health.ticked_s and silence_s > STUCK_S:
        return [f"an event loop has not run for {silence_s:.0f} s"]
    return []


def unready(health: Health, now_s: float) -> list[str]:
    """Why the proxy should be sent no requests at the moment; nothing if it should."""
    if not health.ticked_s:
        return ["starting"]
    reasons = stuck(health, now_s)
    if not health.loaded:
        reasons.append("no policies have been loaded yet")
    if health.draining:
        reasons.append("stopping")
    if not health.reachable:
        reasons.append("no upstream is well")
    if health.refusing:
        reasons.append("the disk takes no events, and a policy refuses requests without it")
    return reasons


def admin_address(text: str) -> tuple[str, int]:
    """The setting `admin_listen` in its two parts. Raises ConfigurationError that names it."""
    try:
        return host_and_port(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{_OPTION}: {error}") from None


class AdminServer:
    """Serves /healthz, /readyz and /metrics on HOST:PORT; GET and HEAD alone.

    Both functions are called on its threads. Raises ConfigurationError if it cannot listen there.
    """

    def __init__(
        self, listen: str, *, health: Callable[[], Health], metrics: Callable[[], str]
    ) -> None:
        listener = bound_socket(*admin_address(listen), option=_OPTION)
        self._server = _Server(listener, health, metrics)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": _STOP_POLL_S},
            name="usageflow-admin",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.socket.getsockname()[1]
        return port

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening; answers under way are not waited for."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = CONNECTIONS_MAX

    def __init__(
        self, listener: socket.socket, health: Callable[[], Health], metrics: Callable[[], str]
    ) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_activate()
        self.health = health
        self.metrics = metrics
        self._room = threading.Semaphore(CONNECTIONS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its signature
        """A client that leaves is no news; anything else is our own fault."""
        error = sys.exception()
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        log.log(level, "the admin port could not answer: %r", error, exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    """One request, one connection: so a body that nobody asked for cannot be read as another."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # an answer to garbage has a head too
    timeout = SILENCE_S_MAX
    server: _Server

    def do_GET(self) -> None:
        """Answer by the path."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._judge(stuck(self.server.health(), time.monotonic()))
        elif path == "/readyz":
            self._judge(unready(self.server.health(), time.monotonic()))
        elif path == "/metrics":
            self._answer(200, CONTENT_TYPE, self.server.metrics())
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 - see do_GET

    def send_error(
        self,
        code: int,
        message: str | None = None,  # noqa: ARG002 - its signature
        explain: str | None = None,  # noqa: ARG002
    ) -> None:
        """The default tells Python's version. What it calls an unknown method is one of HTTP."""
        code = 405 if code == 501 else code  # noqa: PLR2004 - see above
        phrase = self.responses[code][0]
        self._answer(code, "application/json", json.dumps({"error": phrase}))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its signature
        """Probes are not logged."""

    def _judge(self, reasons: list[str]) -> None:
        verdict = {"status": "failing", "reasons": reasons} if reasons else {"status": "ok"}
        self._answer(503 if reasons else 200, "application/json", json.dumps(verdict))

    def _answer(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status == 405:  # noqa: PLR2004 - RFC 9110, section 15.5.6
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
