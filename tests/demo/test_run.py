"""`usageflow demo`, as a user runs it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from usageflow.demo.billing import METRIC
from usageflow.demo.run import METERS, METRIC_OF_EVENT, ROUNDS, _usageflow
from usageflow.demo.traffic import CUSTOMERS, METRICS
from usageflow.errors import UsageFlowError
from usageflow.policies import parse_file

Ports = Callable[[int], int]
POLICIES = Path(sys.modules["usageflow.demo.run"].__file__ or "").with_name("policies.toml")


def demo(*options: str) -> "subprocess.Popen[str]":
    """The demo in a process of its own, its output as a user's terminal would get it."""
    return subprocess.Popen(
        [sys.executable, "-m", "usageflow", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def rows(output: str) -> list[list[str]]:
    """The last table: a list of cells for each customer and metric."""
    table = output.rpartition("customer ")[2]
    return [line.split() for line in table.splitlines() if line.startswith(CUSTOMERS)]


@pytest.mark.timeout(120)
def test_the_whole_product_once(ports: Ports) -> None:
    """Exit status 0, and for every customer and metric three equal numbers."""
    running = demo("--once", "--port-base", str(ports(5)))
    output, complaints = running.communicate(timeout=110)
    assert (running.returncode, complaints) == (0, "")
    assert [(row[0], row[1]) for row in rows(output)] == [
        (customer, metric) for customer in sorted(CUSTOMERS) for metric in sorted(METRICS)
    ]
    for _, metric, requests, sent, ledger, stripe, verdict in rows(output):
        assert int(requests) == 2 * ROUNDS
        assert sent == ledger == stripe
        assert verdict == "equal"
        assert int(sent) > int(requests) if metric == "AI_TOKEN" else sent == requests
    assert "480 requests sent, 120 of them failed" in output
    assert "invoice of acme (72 requests: 20 + (72 - 50) x 0.015)" in output
    assert re.search(r"Total USD +20\.33\n", output)
    assert "5 invoices, each adds up\n" in output
    assert output.endswith("all equal\n")


@pytest.mark.timeout(120)
def test_it_runs_until_it_is_interrupted(ports: Ports) -> None:
    """Ctrl-C ends the traffic; what was sent until then is settled and compared."""
    base = ports(5)
    running = demo("--port-base", str(base))
    assert running.stdout is not None
    seen = ""
    while "requests sent" not in seen:
        seen += running.stdout.read(1)
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert f"http://127.0.0.1:{base + 4}/v1/items/1" in seen
    assert len(rows(output)) == len(CUSTOMERS) * len(METRICS)
    assert output.endswith("all equal\n")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", base)) != 0, "the server was left behind"


def test_a_termination_at_start_leaves_nothing_behind(ports: Ports) -> None:
    """Even before the traffic what was started is stopped; the exit status says interrupted."""
    base = ports(5)
    running = demo("--port-base", str(base))
    assert running.stdout is not None
    while "starting the server" not in running.stdout.readline():
        pass
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode == 130
    deadline_s = time.monotonic() + 5
    for port in range(base, base + 5):
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) == 0:
                assert time.monotonic() < deadline_s, f"port {port} is still served"


def test_a_taken_port_ends_it_with_one_line() -> None:
    """Exit status 1, nothing was started, and the message has the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = demo("--once", "--port-base", str(port))
        output, complaint = ended.communicate(timeout=60)
    assert (ended.returncode, output) == (1, "")
    assert re.fullmatch(rf"usageflow demo: port {port} is taken; .* --port-base\n", complaint), (
        complaint
    )


def test_a_command_that_fails_is_quoted(tmp_path: Path) -> None:
    """What the user would have typed, and what it said."""
    with pytest.raises(
        UsageFlowError, match=r"usageflow keys revoke x: usageflow: there is no database"
    ):
        _usageflow(tmp_path, "keys", "revoke", "x")


def test_the_policies_are_the_ones_that_are_compared() -> None:
    """Every meter has its metric in the policies, and every policy its meter, but for one that our
    own invoices bill.
    """
    parsed = parse_file(POLICIES.read_text(encoding="utf-8"), "policies.toml")
    assert parsed.problems == ()
    metered = {policy.event_name: policy.metric for policy, _ in parsed.policies}
    assert metered == METRIC_OF_EVENT | {None: METRIC}
    assert METRIC_OF_EVENT.keys() == METERS.keys()
