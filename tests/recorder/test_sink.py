"""The HTTP sink against a real server on loopback."""

import gzip
import os
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.recorder import sink as sink_module
from usageflow.recorder.sink import Http, HttpSink

OK = b'{"results":[{"id":"a","status":"accepted"},{"id":"b","status":"duplicate"}]}'


class _Server(BaseHTTPRequestHandler):
    """Answers with the next prepared reply and remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    replies: ClassVar[list[tuple[int, dict[str, str], bytes]]] = []
    requests: ClassVar[list[tuple[str, dict[str, str], bytes]]] = []
    hang_up_after_answer = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.requests.append((self.path, headers, body))
        status, extra, content = self.replies.pop(0)
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        if type(self).hang_up_after_answer:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay quiet."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Server]]]:
    """A server with its own memory, and its URL."""
    handler = type("Handler", (_Server,), {"replies": [], "requests": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", handler
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_batch_arrives_whole_and_every_event_is_answered_for(
    server: tuple[str, type[_Server]],
) -> None:
    """Lines travel gzipped with the key; outcomes are counted."""
    url, handler = server
    handler.replies.append((200, {}, OK))
    connection = Http(f"{url}/base/", "uf_live_key", timeout_s=5)
    outcome = HttpSink(connection).deliver(b'{"id":"a"}\n{"id":"b"}', 2)
    connection.close()
    assert outcome == Counter(accepted=1, duplicate=1)
    ((path, headers, body),) = handler.requests
    assert path == "/base/api/edge/events"
    assert headers["x-usageflow-api-key"] == "uf_live_key"
    assert headers["content-type"] == "application/x-ndjson"
    assert gzip.decompress(body) == b'{"id":"a"}\n{"id":"b"}'


@pytest.mark.parametrize(
    ("reply", "message", "refused", "retry_after_s"),
    [
        ((401, {}, b'{"error":{"message":"unknown key"}}'), "401: .*unknown key", True, None),
        ((403, {}, b""), "403", True, None),
        ((503, {"retry-after": "7"}, b"busy"), "503: busy", False, 7.0),
        ((503, {"retry-after": "soon"}, b""), "503", False, None),
        ((200, {}, b"<html>"), "not understood", False, None),
        ((200, {}, b'{"results":[]}'), "answered for 0 of 2", False, None),
    ],
)
def test_any_other_answer_leaves_the_batch_undelivered(
    server: tuple[str, type[_Server]],
    reply: tuple[int, dict[str, str], bytes],
    message: str,
    refused: bool,  # noqa: FBT001 - a case of the table
    retry_after_s: float | None,
) -> None:
    """The error says what the server said, whether a person is needed, and when to come back."""
    url, handler = server
    handler.replies.append(reply)
    connection = Http(url, "key", timeout_s=5)
    with pytest.raises(DeliveryError, match=message) as caught:
        HttpSink(connection).deliver(b"{}\n{}", 2)
    connection.close()
    assert (caught.value.refused, caught.value.retry_after_s) == (refused, retry_after_s)


def test_what_is_not_idempotent_is_sent_once(server: tuple[str, type[_Server]]) -> None:
    """On a connection that broke there is no second try; a renewed one does not break by itself."""
    url, handler = server
    handler.hang_up_after_answer = True
    handler.replies += [(200, {}, b"")] * 2
    connection = Http(url, "key", timeout_s=5)
    connection.request("POST", "/x", {}, b"1", idempotent=False)
    with pytest.raises(DeliveryError, match="no answer from"):
        connection.request("POST", "/x", {}, b"2", idempotent=False)
    connection.renew()
    connection.request("POST", "/x", {}, b"3", idempotent=False)
    connection.close()
    assert [body for _, _, body in handler.requests] == [b"1", b"3"]


def test_a_server_that_cannot_be_reached_is_told() -> None:
    """Before anything is sent."""
    connection = Http("http://127.0.0.1:1", "key", timeout_s=5)
    with pytest.raises(DeliveryError, match=r"no answer from http://127\.0\.0\.1:1"):
        connection.renew()


def test_a_connection_that_the_server_closed_is_opened_again(
    server: tuple[str, type[_Server]],
) -> None:
    """Keep-alive may end at any moment; batches are idempotent, so one more try is safe."""
    url, handler = server
    handler.hang_up_after_answer = True
    handler.replies += [(200, {}, OK)] * 3
    connection = Http(url, "key", timeout_s=5)
    for _ in range(3):
        HttpSink(connection).deliver(b"{}\n{}", 2)
    connection.close()
    assert len(handler.requests) == 3


def test_nobody_listening_is_a_delivery_error() -> None:
    """The message names the server, not a traceback."""
    with pytest.raises(DeliveryError, match=r"no answer from http://127\.0\.0\.1:9: "):
        HttpSink(Http("http://127.0.0.1:9", "key", timeout_s=1)).deliver(b"{}", 1)


def test_an_endless_answer_is_refused(
    server: tuple[str, type[_Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something that is not our server must not fill the memory."""
    monkeypatch.setattr(sink_module, "REPLY_BYTES_MAX", 10)
    url, handler = server
    handler.replies.append((200, {}, OK))
    with pytest.raises(DeliveryError, match="more than 10 bytes"):
        HttpSink(Http(url, "key", timeout_s=5)).deliver(b"{}\n{}", 2)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8787",
        "ftp://host",
        "http://",
        "",
        "http://h:abc",
        "http://h:99999",
        "http://[::1",
    ],
)
def test_a_server_that_is_no_url_is_told_at_start(url: str) -> None:
    """A typo in the settings shows before any traffic."""
    with pytest.raises(ConfigurationError, match="server must be"):
        Http(url, "key", timeout_s=5)


@pytest.mark.parametrize("key", ["uf_live_\n", "uf_live_\u00e9", "a\0b"])
def test_a_key_that_cannot_be_sent_is_told_at_start(key: str) -> None:
    """A newline from a file or a copied accent; the key itself is not in the message."""
    with pytest.raises(ConfigurationError, match="holds characters that no key has"):
        Http("http://127.0.0.1:9", key, timeout_s=5)


def test_https_verifies_certificates() -> None:
    """The default context of the standard library is used as it is."""
    connection = Http("https://usageflow.example", "key", timeout_s=5)
    context = connection._connection._context  # type: ignore[attr-defined]
    assert context.check_hostname
    connection.close()


def test_a_forked_child_uses_a_socket_of_its_own(server: tuple[str, type[_Server]]) -> None:
    """Two processes on one socket would read each other's answers."""
    url, handler = server
    handler.replies += [(200, {}, OK)] * 3
    connection = Http(url, "key", timeout_s=5)
    HttpSink(connection).deliver(b"{}\n{}\n", 2)
    inherited = connection._connection.sock.fileno()
    if (child := os.fork()) == 0:
        unused = connection._connection.sock is None
        try:
            os.fstat(inherited)
            closed = False
        except OSError:
            closed = True
        os._exit(0 if unused and closed else 1)
    assert os.waitpid(child, 0)[1] == 0
    HttpSink(connection).deliver(b"{}\n{}\n", 2)  # the parent's connection is as it was
    assert connection._connection.sock.fileno() == inherited
    connection.close()


def test_a_batch_that_is_too_large_may_be_halved(server: tuple[str, type[_Server]]) -> None:
    """413 is told apart, for the shipper to send less at once."""
    url, handler = server
    handler.replies.append((413, {}, b"too large"))
    connection = Http(url, "key", timeout_s=5)
    with pytest.raises(DeliveryError) as caught:
        HttpSink(connection).deliver(b"{}\n{}\n", 2)
    connection.close()
    assert caught.value.too_large
