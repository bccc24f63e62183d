"""`usageflow proxy`: flags to settings to a metering proxy on a port."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

Run = Callable[..., Any]

POLICIES = """
[[policy]]
name = "calls"
match = "GET /v1/items/:id"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "API_CALL"
"""


ALL_ELSE = (
    *("--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"),
    *("--policies", "policies.toml"),
)


class Upstream(BaseHTTPRequestHandler):
    """An API in another language, for all the proxy knows."""

    def do_GET(self) -> None:
        """Answer every path."""
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def upstream() -> Iterator[str]:
    """The URL of a running API."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def get(url: str, **options: Any) -> httpx.Response:
    """A GET, once somebody listens there."""
    deadline_s = time.monotonic() + 30
    while True:
        try:
            return httpx.get(url, **options)
        except httpx.ConnectError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)


def test_a_request_through_the_proxy_is_in_its_spool(
    run: Run, upstream: str, tmp_path: Path
) -> None:
    """The command of the documentation: the answer passes, its usage is on disk, while it runs."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        *(sys.executable, "-m", "usageflow", "proxy", "--upstream", upstream, "--listen", listen),
        *("--policies", str(tmp_path / "policies.toml"), "--spool-dir", str(tmp_path / "spool")),
        *("--durability", "durable"),
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as proxy:
        try:
            answer = get(f"http://{listen}/v1/items/7", headers={"x-account-id": "acct_42"})
            assert (answer.status_code, answer.text) == (200, "hello")
            shown = run("spool", tmp_path / "spool", "--json")
            proxy.send_signal(signal.SIGTERM)
            assert proxy.wait(20) == 0
        finally:
            proxy.kill()
    (event,) = map(json.loads, shown.out.splitlines())
    assert event["identity"] == {"field": "account_id", "value": "acct_42"}
    assert (event["metric"], event["quantity"], event["state"]) == ("API_CALL", 1, "counted")


def test_all_mistakes_are_told_at_once(run: Run) -> None:
    """Not one for each start."""
    status, _, err = run("proxy", "--listen", "8080", "--access-log", "/none/a.log")
    assert status == 1
    assert [line.partition("'")[0] for line in err.splitlines()] == [
        "usageflow: listen address ",
        "cannot open the access log /none/a.log: /none is no directory",
        "no upstream: pass --upstream URL or set USAGEFLOW_UPSTREAM",
    ]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "--upstream"),
        (("--upstream", "http://127.0.0.1:1"), "no policies"),
        (("--upstream", "http://127.0.0.1:1", "--durability", "maybe"), "durable, relaxed"),
        (("--upstream", "http://127.0.0.1:1", "--server", "http://127.0.0.1:2"), "no API key"),
        (("--upstream", "http://127.0.0.1:1", "--policies", "nowhere.toml"), "nowhere.toml"),
        (("--upstream", "ftp://127.0.0.1:1"), "ftp"),
        (("--upstream", "http://127.0.0.1:1", "--upstream", "http://127.0.0.1:1"), "given twice"),
        ((*ALL_ELSE, "--listen", "8080"), "127.0.0.1:8080"),
        ((*ALL_ELSE, "--admin-listen", "8080"), "127.0.0.1:8080"),
        ((*ALL_ELSE, "--tls-cert", "none.pem", "--tls-key", "none.key"), "none.pem"),
        ((*ALL_ELSE, "--tls-cert", "none.pem", "--workers", "2"), "none.pem"),
    ],
)
def test_what_cannot_run_is_one_message(
    run: Run, options: tuple[str, ...], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wrong or missing setting is named before anything listens, also by workers."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    monkeypatch.chdir(tmp_path)
    status, out, err = run("proxy", *options)
    assert (status, out) == (1, "")
    *log, message = err.splitlines()
    assert message.startswith("usageflow: ")
    assert word in message
    assert [line for line in log if " INFO " not in line] == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_policies_of_which_none_can_be_used_end_it(
    run: Run, workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not serve unmetered: every mistake is told with its line."""
    (tmp_path / "policies.toml").write_text(POLICIES.replace("metric", "metrik"))
    monkeypatch.chdir(tmp_path)
    status, out, err = run("proxy", *ALL_ELSE, "--workers", workers)
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "usageflow: policies.toml: no policy in it can be used",
        'policies.toml:2: policy "calls" (#1): metric: is required',
        'policies.toml:7: policy "calls" (#1): metrik: is not known; did you mean "metric"?',
    ]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_spool_directory_that_cannot_be_used_ends_it(
    run: Run, workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not serve unrecorded: one sentence tells what is wrong and what to set."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    monkeypatch.chdir(tmp_path)
    options = (*ALL_ELSE, "--workers", workers, "--spool-dir", "policies.toml")
    status, out, err = run("proxy", *options)
    assert (status, out) == (1, "")
    *log, message = err.splitlines()
    assert message == (
        "usageflow: cannot use the spool directory policies.toml: File exists; "
        "set USAGEFLOW_SPOOL_DIR to one that this user may write to"
    )
    assert [line for line in log if " INFO " not in line] == []
