"""`usageflow up`: what each child is told, what is refused, and the whole of it once."""

import inspect
import json
import os
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

from usageflow.catalog import keys
from usageflow.catalog.organizations import default_organization
from usageflow.cli import proxy as proxy_command
from usageflow.cli import up as up_command
from usageflow.cli.up import OF_PROXY, OF_SERVER, _plan, _require_free, environment
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.up import Plan

Run = Callable[..., Any]

POLICIES = """
[[policy]]
name = "calls"
match = "GET /v1/items/:id"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "API_CALL"
"""


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


def free_port() -> int:
    """A port that was free a moment ago."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_each_child_is_told_only_what_is_its_own() -> None:
    """No Stripe key and no database for the proxy, nothing of edges for the server."""
    settings = Settings(
        stripe_api_key="sk_test_S", database="postgresql://u:S@h/d", upstream="http://a:1", port=2
    )
    inherited = {"PATH": "/bin", "USAGEFLOW_PORT": "1", "USAGEFLOW_JWT_SECRET": "of a policy"}
    proxy = environment(settings, OF_PROXY, inherited, server="http://b:2", policies=None)
    server = environment(settings, OF_SERVER, inherited)
    kept = {"PATH": "/bin", "USAGEFLOW_JWT_SECRET": "of a policy", "USAGEFLOW_CONFIG": "/dev/null"}
    for child in (proxy, server):
        assert child.items() >= kept.items()
    assert proxy["USAGEFLOW_UPSTREAM"] == "http://a:1"
    assert proxy["USAGEFLOW_SERVER"] == "http://b:2"
    assert "USAGEFLOW_POLICIES" not in proxy
    assert server["USAGEFLOW_PORT"] == "2"
    assert "S" not in "".join(proxy.values()).replace("USAGEFLOW", "")
    assert not {"USAGEFLOW_UPSTREAM", "USAGEFLOW_SPOOL_DIR"} & server.keys()


def test_what_the_proxy_takes_up_takes() -> None:
    """Every option of `usageflow proxy` but the server and its key, which are the other child's."""
    proxy, up = (
        set(inspect.signature(command).parameters)
        for command in (proxy_command.proxy, up_command.up)
    )
    assert proxy - up == {"server", "api_key"}


def test_options_reach_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed for `up`, they are in the environment of the child that they are for."""
    plans: list[Plan] = []
    monkeypatch.setattr("usageflow.up.run", plans.append)
    up_command.up(
        upstream=["http://a:1"],
        listen=f"127.0.0.1:{free_port()}",
        port=free_port(),
        tls_cert="c.pem",
        tls_key="k.pem",
        durability="relaxed",
    )
    (plan,) = plans
    assert plan.proxy.environ.items() >= {
        ("USAGEFLOW_TLS_CERT", "c.pem"),
        ("USAGEFLOW_TLS_KEY", "k.pem"),
        ("USAGEFLOW_DURABILITY", "relaxed"),
    }


def test_a_child_reads_what_was_meant() -> None:
    """Every setting survives the way through the environment."""
    settings = Settings(workers=3, part_interval_s=0.5, websockets="off", upstream="http://a:1")
    told = environment(settings, OF_PROXY | OF_SERVER, {})
    assert Settings.read(told) == settings


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"listen": "[::1]:8443", "tls_cert": "c.pem"}, "https://[::1]:8443"),
        ({"listen": "unix:/run/a.sock"}, "unix:/run/a.sock"),
    ],
)
def test_where_the_proxy_is(
    changes: dict[str, Any], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a client would write it; a socket file is the proxy's own business."""
    settings = Settings(upstream="http://a:1", host="::", port=free_port(), **changes)
    if settings.listen.startswith("unix:"):
        _require_free(settings)
    plan = _plan(settings)
    plan.on_ready()
    assert capsys.readouterr().out == (
        f"proxy   {shown}  in front of http://a:1\nserver  http://[::1]:{settings.port}\n"
    )
    assert plan.server.listen == f"[::]:{settings.port}"
    assert plan.proxy.environ["USAGEFLOW_SERVER"] == f"http://[::1]:{settings.port}"
    assert "USAGEFLOW_API_KEY" not in plan.proxy.environ


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "--upstream"),
        (("--upstream", "http://a:1", "--policies", "nowhere.toml"), "nowhere.toml"),
        (("--upstream", "http://a:1", "--listen", "8080"), "must look like 127.0.0.1:8080"),
        (("--upstream", "http://a:1", "--config", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_what_cannot_run_is_one_message(
    run: Run, options: tuple[str, ...], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wrong or missing setting is named before anything is started."""
    monkeypatch.chdir(tmp_path)
    status, out, err = run("up", *options, "--port", free_port())
    assert (status, out) == (1, "")
    assert err.startswith("usageflow: ")
    assert word in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--port", "--listen"])
def test_an_address_that_is_taken_is_named(
    run: Run, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the option that chooses another; nothing is started and no database is made."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = {"--port": free_port(), "--listen": f"127.0.0.1:{free_port()}"}
        addresses[option] = port if option == "--port" else f"127.0.0.1:{port}"
        words = [word for pair in addresses.items() for word in pair]
        status, out, err = run("up", "--upstream", "http://a:1", *words)
    assert (status, out) == (1, "")
    assert f"cannot listen on 127.0.0.1 port {port}" in err
    assert f"choose another with {option}" in err
    assert list(tmp_path.iterdir()) == []


class Up:
    """A running `usageflow up` in a directory, and what it printed."""

    def __init__(self, folder: Path, upstream: str, *, after: "Up | None" = None) -> None:
        """Start it; `after` another on the addresses of that one."""
        self.server: int = free_port() if after is None else after.server
        self.proxy: str = f"http://127.0.0.1:{free_port()}" if after is None else after.proxy
        listen = self.proxy.removeprefix("http://")
        environ = {k: v for k, v in os.environ.items() if not k.startswith("USAGEFLOW_")}
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "usageflow", "up", "--upstream", upstream),
                    *("--listen", listen, "--port", str(self.server)),
                    *("--policies", "policies.toml"),
                ],
                cwd=folder,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.out = ""

    def read_until(self, word: str) -> None:
        """Read what it prints, until this word has come."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line
            if word in line:
                return
        pytest.fail("it ended")

    def children(self) -> dict[str, int]:
        """Command -> process id."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                words = (process / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if int(parent) == self.process.pid:
                found[words[3]] = int(process.name)
        return found


def get(url: str) -> int:
    """The status of a metered request."""
    return httpx.get(url + "/v1/items/7", headers={"x-account-id": "acct_42"}).status_code


def used(folder: Path, events: int) -> dict[str, Any]:
    """The one line of usage, once it has so many events."""
    deadline_s = time.monotonic() + 30
    while True:
        shown = subprocess.run(
            [sys.executable, "-m", "usageflow", "usage", "--json"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        rows: list[dict[str, Any]] = json.loads(shown.stdout)["usage"]
        if rows and sum(row["events"] for row in rows) == events:
            return rows[0]
        assert time.monotonic() < deadline_s, shown.stdout
        time.sleep(0.1)


def test_one_command_meters_an_api(upstream: str, tmp_path: Path) -> None:
    """From a policy file to the ledger, also when the server crashes; then nothing is left."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    up = Up(tmp_path, upstream)
    try:
        up.read_until("server  http")
        assert f"proxy   {up.proxy}  in front of {upstream}\n" in up.out
        assert f"server  http://127.0.0.1:{up.server}\n" in up.out
        signup = f"Create the owner's account: http://127.0.0.1:{up.server}/signup?token="
        assert signup in up.out
        assert get(up.proxy) == 200
        row = used(tmp_path, 1)
        assert (row["customer"], row["metric"], row["quantity"]) == ("acct_42", "API_CALL", 1)
        children = up.children()
        assert children.keys() == {"serve", "proxy"}
        os.kill(children["serve"], signal.SIGKILL)
        assert get(up.proxy) == 200, "the proxy goes on while the server is away"
        used(tmp_path, 2)  # by the server that was started again
        assert get(up.proxy) == 200
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(60) == 0
        used(tmp_path, 3)  # shipped at the end
    finally:
        up.process.kill()
        up.process.communicate()
    assert not [port for port in (up.server, int(up.proxy.rpartition(":")[2])) if listens(port)]
    log = (tmp_path / "log").read_text()
    assert "the server ended (signal 9) and is started again" in log
    assert "uf_live_" not in log + up.out


def test_killed_it_takes_its_children_along(upstream: str, tmp_path: Path) -> None:
    """They drain and end by themselves; the next start finds its addresses free.

    And the key of the proxy that was killed is revoked then.
    """
    (tmp_path / "policies.toml").write_text(POLICIES)
    first = Up(tmp_path, upstream)
    second = None
    try:
        first.read_until("server  http")
        assert get(first.proxy) == 200
        children = first.children()
        assert children.keys() == {"serve", "proxy"}
        first.process.kill()
        first.process.wait()
        wait_for_the_end_of(children)
        (left,) = active_keys(tmp_path)
        second = Up(tmp_path, upstream, after=first)
        second.read_until("server  http")
        (renewed,) = active_keys(tmp_path)
        assert renewed != left
        used(tmp_path, 1)
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(60) == 0
        assert active_keys(tmp_path) == []
    finally:
        for up in (first, second):
            if up is not None:
                up.process.kill()
                up.process.communicate()


def wait_for_the_end_of(processes: dict[str, int]) -> None:
    """Wait until none of them runs; one that goes on is killed, so that nothing is left."""
    deadline_s = time.monotonic() + 30
    left = processes
    while left and time.monotonic() < deadline_s:
        time.sleep(0.05)
        left = {name: pid for name, pid in left.items() if runs(pid)}
    for pid in left.values():
        os.kill(pid, signal.SIGKILL)
    assert left == {}


def runs(pid: int) -> bool:
    """Whether this process runs; one that only waits for its parent to ask does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def active_keys(folder: Path) -> list[str]:
    """The ids of the keys in use."""
    url = f"sqlite:///{folder / 'usageflow.db'}"
    with closing(Database.open(url, create=False)) as db, db.transaction() as tx:
        rows = keys.listing(tx, default_organization(tx))
        return [row.id for row in rows if row.revoked_at is None]


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
