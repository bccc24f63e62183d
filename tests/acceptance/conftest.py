"""The whole product as processes on loopback, which a test may kill and start again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from usageflow.catalog.organizations import DEFAULT, required
from usageflow.db.session import Database, Tx
from usageflow.ledger import units, usage
from usageflow.recorder.inspection import read_spool

STRIPE_KEY = "sk_test_acceptance"
POLL_S = 0.05
POLICIES = """
[[policy]]
name = "calls"
match = "GET /calls/:id"
identify = [ { from = "header", name = "x-account-id" } ]
field = "account_id"
metric = "API_CALL"
event_name = "api_request"

[[policy]]
name = "kept"
match = "GET /kept/:id"
identify = [ { from = "header", name = "x-account-id" } ]
field = "account_id"
metric = "KEPT"
"""
"""Usage that goes on to Stripe, and usage that is only kept, which costs much less to follow."""
APP = """
from usageflow import UsageFlowMiddleware

async def answer(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})

app = UsageFlowMiddleware(answer)
"""


@dataclass
class Program:
    """One process: how it is started, and the one that runs now."""

    command: list[str]
    port: int
    env: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Stack:
    """Named programs in one directory."""

    directory: Path
    programs: dict[str, Program] = field(default_factory=dict)

    def add(self, name: str, *command: str, port: int, env: Mapping[str, str] = {}) -> None:
        """Start `python -m command`."""
        self.programs[name] = Program([sys.executable, "-m", *command], port, env)
        self.start(name)

    def start(self, name: str) -> None:
        """Start a program again and wait until it listens."""
        program = self.programs[name]
        with (self.directory / f"{name}.log").open("ab") as log:
            program.process = subprocess.Popen(
                program.command,
                cwd=self.directory,
                env={**unmeasured(), **program.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.wait_for(lambda: self._listens(program), 30, f"{name} listens")

    def kill(self, name: str) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        process = self.programs[name].process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> int:
        """SIGTERM; the exit code."""
        process = self.programs[name].process
        assert process is not None
        process.terminate()
        return process.wait(30)

    def stop_all(self) -> None:
        """End whatever runs."""
        for name, program in reversed(self.programs.items()):
            if program.process is not None and program.process.poll() is None:
                self.stop(name)

    def url(self, name: str) -> str:
        """Base URL of a program."""
        return f"http://127.0.0.1:{self.programs[name].port}"

    def log(self, name: str) -> str:
        """What it has printed."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
            time.sleep(POLL_S)

    def _listens(self, program: Program) -> bool:
        assert program.process is not None
        if program.process.poll() is not None:
            raise AssertionError(f"{program.command} ended with {program.process.returncode}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", program.port)) == 0

    # The product

    @property
    def database(self) -> str:
        """The server's database."""
        return f"sqlite:///{self.directory / 'usageflow.db'}"

    def run(self, *command: str) -> str:
        """Run a usageflow command; its output."""
        done = subprocess.run(
            [sys.executable, "-m", "usageflow", *command],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add_stripe(self) -> None:
        """The emulator of Stripe."""
        port = free_port()
        self.add("stripe", "usageflow", "stripe-emulator", "--port", str(port), port=port)

    def add_server(self) -> None:
        """The server, forwarding to the emulator, and a key for the edges."""
        policies = self.directory / "policies.toml"
        policies.write_text(POLICIES)
        port = free_port()
        env = {
            "USAGEFLOW_DATABASE": self.database,
            "USAGEFLOW_STRIPE_API_KEY": STRIPE_KEY,
            "USAGEFLOW_STRIPE_API_BASE": self.url("stripe"),
            "USAGEFLOW_STRIPE_CALLS_PER_S": "5000",
            "USAGEFLOW_STRIPE_CONCURRENCY": "16",
        }
        command = ("usageflow", "serve", "--port", str(port), "--policies", str(policies))
        self.add("server", *command, port=port, env=env)

    def api_key(self) -> str:
        """A new key with the scope of an edge."""
        command = ("keys", "create", "--name", "edge", "--scope", "usage.write")
        return self.run(*command, "--database", self.database).strip()

    def edge_env(self, name: str, key: str) -> dict[str, str]:
        """What an edge finds in its environment."""
        return {
            "USAGEFLOW_SERVER": self.url("server"),
            "USAGEFLOW_API_KEY": key,
            "USAGEFLOW_SPOOL_DIR": str(self.directory / f"spool-{name}"),
            "USAGEFLOW_ADOPTION_INTERVAL_S": "0.5",
            "USAGEFLOW_SHIP_BACKOFF_S_MAX": "0.5",
        }

    def add_app(self, key: str, name: str = "app", **env: str) -> None:
        """An app with the middleware under uvicorn."""
        (self.directory / "metered.py").write_text(APP)
        port = free_port()
        command = ("uvicorn", "--log-level", "warning", "--port", str(port), "metered:app")
        self.add(name, *command, port=port, env=self.edge_env(name, key) | env)

    def add_proxy(self, key: str, upstream: str, name: str = "proxy", **env: str) -> None:
        """The proxy before `upstream`."""
        port = free_port()
        command = ("usageflow", "proxy", "--upstream", upstream, "--listen", f"127.0.0.1:{port}")
        self.add(name, *command, port=port, env=self.edge_env(name, key) | env)

    def add_upstream(self) -> None:
        """An API that knows nothing of metering."""
        port = free_port()
        (self.directory / "plain.py").write_text(
            APP.replace("UsageFlowMiddleware(answer)", "answer")
        )
        command = ("uvicorn", "--log-level", "warning", "--port", str(port), "plain:app")
        self.add("upstream", *command, port=port)

    def seed(self, customers: int, shared: int = 0) -> None:
        """Stripe customers r-0 ... and shared-0 ..., and the meter."""
        names = [f"r-{n}" for n in range(customers)] + [f"shared-{n}" for n in range(shared)]
        seed = {
            "customers": [{"metadata": {"account_id": name}} for name in names],
            "meters": [{"event_name": "api_request", "formula": "sum"}],
        }
        headers = {"authorization": f"Bearer {STRIPE_KEY}"}
        url = f"{self.url('stripe')}/_emulator/seed"
        httpx.post(url, json=seed, headers=headers, timeout=60, trust_env=False).raise_for_status()

    def break_stripe(self, *faults: dict[str, Any]) -> None:
        """What happens to the next meter events, in this order."""
        url = f"{self.url('stripe')}/_emulator/faults"
        body = [{"route": "/v1/billing/meter_events"} | fault for fault in faults]
        httpx.post(url, json=body, timeout=60, trust_env=False).raise_for_status()

    @contextmanager
    def reading(self) -> Iterator[tuple[Tx, str]]:
        """The server's database, and the id of its organization."""
        with closing(Database.open(self.database)) as database, database.reading() as tx:
            yield tx, required(tx, DEFAULT)

    def unsettled(self) -> int:
        """Units that the server does not know to be applied."""
        with self.reading() as (tx, organization_id):
            states = units.summary(tx, organization_id)
        return sum(n for state, n in states.items() if state not in ("accepted", "settled"))

    def ledger(self) -> dict[str, Decimal]:
        """Customer -> quantity in the ledger."""
        totals: dict[str, Decimal] = {}
        with self.reading() as (tx, organization_id):
            for row in usage.totals(tx, organization_id):
                totals[row.customer] = totals.get(row.customer, Decimal(0)) + row.total
        return totals

    def applied(self) -> dict[str, tuple[Decimal, int]]:
        """Customer -> (sum of values, number of meter events) that Stripe applied."""
        state: dict[str, Any] = httpx.get(
            f"{self.url('stripe')}/_emulator/state", timeout=60, trust_env=False
        ).json()
        return {
            row["metadata"]["account_id"]: (Decimal(row["value"]), row["events"])
            for account in state["accounts"]
            for row in account["applied"]
        }

    def spooled(self) -> int:
        """Events in all spools."""
        return sum(len(list(read_spool(path))) for path in self.directory.glob("spool-*"))


def unmeasured() -> dict[str, str]:
    """The environment without coverage, which costs half as much again and whom a kill silences."""
    return {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """An empty stack; whatever was started is stopped at the end."""
    stack = Stack(tmp_path)
    yield stack
    stack.stop_all()
