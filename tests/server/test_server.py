"""The whole server as its users meet it: a process on a port, over one database."""

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
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from usageflow.catalog.keys import create_key
from usageflow.catalog.organizations import DEFAULT, default_organization, organization
from usageflow.catalog.policies import current
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.errors import ConfigurationError, DatabaseError
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger.units import summary
from usageflow.policies import Metric, Policy, PolicyFile
from usageflow.server import Server, listening_socket
from usageflow.server.ways import STOP_S
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running

START_S_MAX = 30.0

POLICIES = """
[[policy]]
name = "calls"
match = "GET /v1/calls"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "API_CALL"
"""


class Serving(NamedTuple):
    """A running `usageflow serve`, its address and the lines of its log so far."""

    process: "subprocess.Popen[str]"
    url: str
    log: list[str]

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_S_MAX)


Serve = Callable[..., Serving]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def free_port() -> int:
    """A port that was free a moment ago."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


def environment(tmp_path: Path) -> dict[str, str]:
    """This process's environment without settings of its own, over a database of the test."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("USAGEFLOW_")}
    return inherited | {"USAGEFLOW_DATABASE": f"sqlite:///{tmp_path / 'usageflow.db'}"}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run one command line to its end."""

    def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "usageflow", *arguments],
            env=environment(tmp_path) | settings,
            capture_output=True,
            text=True,
            timeout=START_S_MAX,
            check=False,
        )

    return run


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve("--policies", file)`: a server that answers; it is stopped at the end."""
    started: list[Serving] = []

    def start(*arguments: str, **settings: str) -> Serving:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "usageflow", "serve", "--port", str(port), *arguments],
            env=environment(tmp_path) | settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        serving = Serving(process, f"http://127.0.0.1:{port}", [])
        started.append(serving)
        assert process.stderr is not None
        for line in process.stderr:
            serving.log.append(line)
            if "serving http" in line:
                break
        threading.Thread(target=serving.log.extend, args=(process.stderr,), daemon=True).start()
        await_answer(serving)
        return serving

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.process.kill()
            serving.process.wait()
        assert serving.process.stderr is not None
        serving.process.stderr.close()


def await_answer(serving: Serving) -> None:
    """Until the server accepts, or has ended."""
    deadline_s = time.monotonic() + START_S_MAX
    while serving.process.poll() is None and time.monotonic() < deadline_s:
        try:
            assert httpx.get(f"{serving.url}/readyz").status_code == 200
        except httpx.ConnectError:
            time.sleep(0.02)
        else:
            return
    pytest.fail("".join(serving.log))


def test_the_owner_signs_up_by_the_link_of_the_start(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each start prints one that leads to its own form; once there is an owner, none does."""
    links = []
    for _ in range(2):
        serving = serve()
        line = capfd.readouterr().out
        assert line.startswith(f"Create the owner's account: {serving.url}/signup?token=")
        assert line.partition("token=")[2].strip() not in "".join(serving.log)
        links.append(line.split()[-1])
        if len(links) == 1:
            assert serving.stop() == 0
    url, _, token = links[1].partition("?token=")
    old = links[0].partition("?token=")[2]
    assert httpx.get(url, params={"token": old}).status_code == 404
    assert "Create account" in httpx.get(links[1]).text
    form = {"organization": "Acme", "email": "ada@example.com", "password": "four dry small words"}
    assert "Acme is set up" in httpx.post(url, data={"token": token, **form}).text
    assert serving.stop() == 0
    serve()
    assert capfd.readouterr().out == ""


def test_it_serves_keys_made_while_it_runs_and_stops_cleanly(
    serve: Serve, command: Command, tmp_path: Path
) -> None:
    """Start with a policy file, make a key from another process, use it, stop: exit 0."""
    file = tmp_path / "policies.toml"
    file.write_text(POLICIES)
    serving = serve("--policies", str(file))
    log = "".join(serving.log)
    assert f"serving {serving.url}" in log
    assert f"sqlite:///{tmp_path / 'usageflow.db'}, 1 policies" in log
    assert "no account to forward to yet" in log
    assert "alembic" not in log
    made = command("keys", "create", "--name", "edge", "--scope", "usage.write")
    headers = {"x-usageflow-api-key": made.stdout.strip()}
    document = httpx.get(f"{serving.url}/api/edge/policies", headers=headers).json()
    assert [item["policy"]["name"] for item in document["policies"]] == ["calls"]
    events = httpx.post(f"{serving.url}/api/edge/events", headers=headers, content=b"{}\n")
    assert [item["status"] for item in events.json()["results"]] == ["invalid"]
    assert serving.stop() == 0
    assert "Traceback" not in "".join(serving.log)


def test_a_second_server_on_the_same_file_is_refused(serve: Serve, tmp_path: Path) -> None:
    """It says which process has the file, names PostgreSQL, and the first goes on serving."""
    first = serve()
    second = subprocess.run(
        [sys.executable, "-m", "usageflow", "serve", "--port", str(free_port())],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
        check=False,
    )
    assert second.returncode == 1
    assert f"already served by process {first.process.pid}" in second.stderr
    assert "postgresql://" in second.stderr
    assert "Traceback" not in second.stderr
    assert httpx.get(f"{first.url}/readyz").status_code == 200


def test_a_taken_port_is_one_message(
    command: Command,
) -> None:
    """Before anything else is started, and with the way out."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        ended = command("serve", "--port", str(port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"usageflow: cannot listen on 127.0.0.1 port {port}: Address already in use; "
        "choose another with --port\n"
    )


def test_a_request_in_progress_is_answered_before_the_end(serve: Serve, tmp_path: Path) -> None:
    """SIGTERM in the middle of an upload: the upload ends, is answered, and then the server."""
    serving = serve()
    address = ("127.0.0.1", httpx.URL(serving.url).port or 0)
    head = (
        f"POST /api/edge/events HTTP/1.1\r\nhost: usageflow\r\ncontent-length: 6\r\n"
        f"expect: 100-continue\r\nx-usageflow-api-key: {secret_of(tmp_path)}\r\n\r\n"
    )

    def closed() -> bool:
        with socket.socket() as other:
            return other.connect_ex(address) != 0

    with socket.create_connection(address, timeout=START_S_MAX) as upload:
        upload.sendall(head.encode())
        assert upload.recv(100).startswith(b"HTTP/1.1 100 ")  # it waits for the body
        upload.sendall(b"{}\n")
        serving.process.send_signal(signal.SIGTERM)
        await_true(closed, within_s=START_S_MAX)
        upload.sendall(b"{}\n")
        assert upload.recv(100).startswith(b"HTTP/1.1 200 ")
    assert serving.process.wait(START_S_MAX) == 0


def test_kill_and_restart_on_the_same_file(serve: Serve) -> None:
    """After kill -9 the next server owns the file at once."""
    first = serve()
    first.process.kill()
    first.process.wait()
    assert httpx.get(f"{serve().url}/readyz").status_code == 200


# On the way to Stripe

STRIPE_KEY = "sk_test_emulated"


@pytest.fixture
def stripe() -> Iterator[RemoteEmulator]:
    """An emulator that knows one customer and one meter."""
    with running(create_emulator(search_lag_s=0)) as url:
        emulator = RemoteEmulator(url, STRIPE_KEY)
        emulator.seed([{"account_id": "acct_42"}], ["calls"])
        yield emulator


def stripe_settings(emulator: RemoteEmulator) -> dict[str, str]:
    """The environment of a server that forwards to the emulator."""
    return {"USAGEFLOW_STRIPE_API_KEY": STRIPE_KEY, "USAGEFLOW_STRIPE_API_BASE": emulator.url}


def record(serving: Serving, secret: str, *ids: str) -> None:
    """Hand the server one event of quantity 1.5 for each id."""
    lines = [
        encode(
            UsageEvent(
                id=event_id,
                policy="calls",
                policy_version="1",
                metric="API_CALL",
                identity=Identity("account_id", "acct_42"),
                quantity=Decimal("1.5"),
                occurred_at=datetime.now(UTC),
                state="counted",
                event_name="calls",
            )
        )
        for event_id in ids
    ]
    answer = httpx.post(
        f"{serving.url}/api/edge/events",
        headers={"x-usageflow-api-key": secret},
        content=b"\n".join(lines),
    )
    assert {item["status"] for item in answer.json()["results"]} == {"accepted"}


def await_true(condition: Callable[[], bool], *, within_s: float) -> None:
    """Until it is so; fails if it takes too long."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def secret_of(tmp_path: Path) -> str:
    """A key of an edge, made while the server runs."""
    with closing(Database.open(settings_for(tmp_path).database)) as db, db.transaction() as tx:
        return create_key(tx, default_organization(tx), "e", ["usage.write"]).secret


def test_usage_reaches_stripe_also_from_before_it_was_connected(
    serve: Serve, command: Command, stripe: RemoteEmulator, tmp_path: Path
) -> None:
    """What was recorded without a key is sent once there is one; `usage` shows both sides."""
    first = serve()
    secret = secret_of(tmp_path)
    record(first, secret, "a", "b")
    assert first.stop() == 0
    second = serve(**stripe_settings(stripe))
    assert "Stripe account own: forwarding in test mode" in "".join(second.log)
    applied = ("acct_42", "calls")
    await_true(lambda: stripe.applied("account_id").get(applied) == Decimal(3), within_s=30)
    record(second, secret, "c")
    await_true(lambda: stripe.applied("account_id")[applied] == Decimal("4.5"), within_s=30)
    assert second.stop() == 0
    shown = json.loads(command("usage", "--json", **stripe_settings(stripe)).stdout)["usage"]
    assert sum(row["quantity"] for row in shown) == 4.5
    assert [part["applied"] for row in shown for part in row["stripe"]] == [
        row["quantity"] for row in shown
    ]
    table = command("usage", **stripe_settings(stripe)).stdout.splitlines()
    assert table[2].split()[-1] == table[2].split()[-2] == table[2].split()[4]


def test_usage_without_an_answer_of_stripe_is_still_shown(
    serve: Serve, command: Command, stripe: RemoteEmulator, tmp_path: Path
) -> None:
    """`applied` is null and the reason is on stderr; without asking there is no reason."""
    serving = serve(**stripe_settings(stripe))
    record(serving, secret_of(tmp_path), "a")
    await_true(lambda: bool(stripe.applied("account_id")), within_s=30)
    away = stripe_settings(stripe) | {"USAGEFLOW_STRIPE_API_BASE": "http://127.0.0.1:1"}
    for options, reason in (((), "what Stripe has is not known"), (("--no-stripe",), "")):
        shown = command("usage", "--json", *options, **away)
        assert shown.returncode == 0
        (row,) = json.loads(shown.stdout)["usage"]
        assert [part["applied"] for part in row["stripe"]] == [None]
        assert reason in shown.stderr
        assert bool(reason) == bool(shown.stderr)


def test_a_killed_server_goes_on_at_once_and_counts_nothing_twice(
    serve: Serve, stripe: RemoteEmulator, tmp_path: Path
) -> None:
    """Kill -9 in the middle of a call that Stripe commits: the next start waits for no lease."""
    first = serve(**stripe_settings(stripe))
    stripe.fault("slow", seconds=2)
    record(first, secret_of(tmp_path), "a")
    await_true(lambda: stripe.state()["faults"] == [], within_s=30)
    first.process.kill()
    first.process.wait()
    serve(**stripe_settings(stripe))

    def settled() -> bool:
        with closing(Database.open(settings_for(tmp_path).database)) as db, db.reading() as tx:
            return summary(tx, organization(tx, DEFAULT) or "") == {"accepted": 1}

    await_true(settled, within_s=40)  # a lease lasts 80 s
    assert stripe.applied("account_id") == {("acct_42", "calls"): Decimal("1.5")}


def test_a_hanging_call_does_not_keep_the_server_alive(
    serve: Serve, stripe: RemoteEmulator, tmp_path: Path
) -> None:
    """SIGTERM while Stripe is silent for 30 s: it ends in time, and leaves what a kill leaves."""
    serving = serve(**stripe_settings(stripe))
    stripe.fault("slow", seconds=30)
    record(serving, secret_of(tmp_path), "a")
    await_true(lambda: stripe.state()["faults"] == [], within_s=30)
    began_s = time.monotonic()
    assert serving.stop() == 0
    assert time.monotonic() - began_s < 2 * STOP_S
    log = "".join(serving.log)
    assert "1 calls unanswered" in log
    assert "Traceback" not in log
    with closing(Database.open(settings_for(tmp_path).database)) as db, db.reading() as tx:
        assert summary(tx, organization(tx, DEFAULT) or "") == {"sending": 1}


def test_a_key_that_stripe_refuses_is_told_in_the_log(
    serve: Serve, stripe: RemoteEmulator, tmp_path: Path
) -> None:
    """Nothing is burnt: the usage waits, the log says why, and the next start sends it."""
    first = serve(**stripe_settings(stripe))
    stripe.fault("status", status=401)
    record(first, secret_of(tmp_path), "a")
    await_true(lambda: "usage waits until its key is good again" in "".join(first.log), within_s=10)
    assert stripe.applied("account_id") == {}
    assert first.stop() == 0
    serve(**stripe_settings(stripe))
    await_true(lambda: bool(stripe.applied("account_id")), within_s=30)


def test_one_database_is_for_one_mode(
    serve: Serve, command: Command, stripe: RemoteEmulator
) -> None:
    """A live key on a database of test mode: refused at start, in words."""
    assert serve(**stripe_settings(stripe)).stop() == 0
    live = stripe_settings(stripe) | {"USAGEFLOW_STRIPE_API_KEY": "sk_live_other"}
    ended = command("serve", "--port", str(free_port()), **live)
    assert ended.returncode == 1
    assert "use a database of its own for each mode" in ended.stderr
    assert "Traceback" not in ended.stderr


# Without a process


def settings_for(tmp_path: Path) -> Settings:
    """Settings over a database of the test."""
    return Settings(database=f"sqlite:///{tmp_path / 'usageflow.db'}")


def test_what_cannot_start_leaves_nothing_open(tmp_path: Path) -> None:
    """A start that fails gives the file back, so that the next one can have it."""
    settings = settings_for(tmp_path)
    second = Server(settings)
    with Server(settings), pytest.raises(DatabaseError, match="already served"):
        second.__enter__()
    with Server(settings):
        pass


def test_policies_given_at_start_replace_those_in_use(tmp_path: Path) -> None:
    """None: those in use stay. An empty set: none are in use."""
    settings = settings_for(tmp_path)
    policy = Policy.model_validate(
        {
            "name": "calls",
            "match": "GET /v1/calls",
            "identify": [{"from": "header", "name": "x-account-id"}],
            "field": "account_id",
            "metric": "API_CALL",
        }
    )
    metric = Metric(key="API_CALL", name="API calls", unit="call")
    with Server(settings, policies=PolicyFile(((policy, "f1"),), (), (metric,))):
        pass
    assert in_use(settings) == ["calls"]
    with Server(settings):
        pass
    assert in_use(settings) == ["calls"]
    with Server(settings, policies=PolicyFile((), (), ())):
        pass
    assert in_use(settings) == []


@pytest.mark.postgres
def test_several_servers_share_one_postgresql(postgres: Any) -> None:
    """Nothing is claimed there: a second server starts, and takes no lease from the first."""
    url = postgres.create(migrated=False)
    settings = Settings(database=url)
    with Server(settings), Server(settings):
        assert in_use(settings) == []
    postgres.drop(url)


def in_use(settings: Settings) -> list[str]:
    """Names of the policies an edge would be given."""
    with closing(Database.open(settings.database)) as db, db.transaction() as tx:
        items = current(tx, default_organization(tx)).items
    return [json.loads(document)["name"] for document, _ in items]


@pytest.mark.parametrize(
    ("host", "port", "word"),
    [("127.0.0.1", 99_999, "65535"), ("host.invalid", 80, "host.invalid"), ("::1", -1, "::1")],
)
def test_addresses_that_cannot_be(host: str, port: int, word: str) -> None:
    """Each is one message that names the address."""
    with pytest.raises(ConfigurationError, match=word):
        listening_socket(host, port)
