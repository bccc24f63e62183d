"""The demo itself: everything a user would start, real traffic through both edges, and the proof.

Every process is started with the command a user would type. What is compared comes from three
places that know nothing of each other: the client that sent, the ledger, the emulator of Stripe.
"""

import argparse
import asyncio
import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx

from usageflow.demo import billing
from usageflow.demo.billing import Bill
from usageflow.demo.comparison import Row, compare, table
from usageflow.demo.processes import HOST, Processes, require_free
from usageflow.demo.traffic import CUSTOMERS, Traffic
from usageflow.errors import UsageFlowError

PORT_BASE: Final = 8787
ROUNDS: Final = 12
"""Rounds of `--once`: about 500 requests, enough for units to fold and spools to fill."""
SETTLE_S_MAX: Final = 30.0
"""Longest wait for the ledger and Stripe to catch up once the traffic has stopped."""
PAUSE_S: Final = 0.5
"""Pause between rounds when the demo keeps running."""
REPORT_S: Final = 10.0

METRIC_OF_EVENT: Final = {
    "token_used": "AI_TOKEN",
    "api_request": "API_CALL",
    "stream_opened": "STREAM",
}
METERS: Final = {"token_used": "sum", "api_request": "sum", "stream_opened": "count"}


@dataclass(frozen=True)
class Addresses:
    """Where everything listens, from one base port."""

    base: int

    @property
    def ports(self) -> dict[str, int]:
        """Name of the process -> port."""
        names = ("server", "stripe", "api", "proxy", "app")
        return {name: self.base + offset for offset, name in enumerate(names)}

    def url(self, name: str) -> str:
        """Base URL of a process."""
        return f"http://{HOST}:{self.ports[name]}"


def main(arguments: Sequence[str]) -> int:
    """Run the demo. Exit code 0: all equal; 1: a difference, or it could not run."""
    options = _options(arguments)
    # A terminated demo must stop its processes just as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="usageflow-demo-") as directory:
            return _run(Path(directory), Addresses(options.port_base), once=options.once)
    except (UsageFlowError, httpx.HTTPError) as error:
        print(f"usageflow demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="usageflow demo",
        description="Run the whole product on loopback: Stripe emulator, server, a sample API "
        "behind the proxy, an app with the middleware, and real traffic through both.",
    )
    parser.add_argument("--once", action="store_true", help="stop when all is settled and compared")
    parser.add_argument(
        "--port-base",
        type=int,
        default=PORT_BASE,
        help=f"first of five ports (default {PORT_BASE})",
    )
    return parser.parse_args(list(arguments))


def _run(directory: Path, at: Addresses, *, once: bool) -> int:
    require_free(list(at.ports.values()))
    with Processes(directory) as processes:
        stripe_key = f"sk_test_{secrets.token_hex(12)}"
        _start(processes, directory, at, stripe_key)
        _say(at, directory)
        return asyncio.run(_drive(directory, at, once=once))


def _start(processes: Processes, directory: Path, at: Addresses, stripe_key: str) -> None:
    ports = at.ports
    print("starting the Stripe emulator ...", flush=True)
    processes.start(
        "stripe", ports["stripe"], "usageflow", "stripe-emulator", "--port", str(ports["stripe"])
    )
    _seed(at, stripe_key)
    print("starting the server ...", flush=True)
    _start_server(processes, directory, at, stripe_key)
    _start_edges(processes, directory, at)


def _start_server(processes: Processes, directory: Path, at: Addresses, stripe_key: str) -> None:
    port, policies = at.ports["server"], str(Path(__file__).with_name("policies.toml"))
    processes.start(
        "server",
        port,
        *("usageflow", "serve", "--port", str(port), "--policies", policies),
        env={
            "USAGEFLOW_DATABASE": _database(directory),
            "USAGEFLOW_STRIPE_API_KEY": stripe_key,
            "USAGEFLOW_STRIPE_API_BASE": at.url("stripe"),
        },
    )


def _start_edges(processes: Processes, directory: Path, at: Addresses) -> None:
    """The proxy with the API behind it, and the app that meters itself."""
    ports = at.ports
    edge = {"USAGEFLOW_SERVER": at.url("server"), "USAGEFLOW_API_KEY": _api_key(directory)}
    print(
        "starting the sample API, the proxy before it, and the app with the middleware ...",
        flush=True,
    )
    uvicorn = ("uvicorn", "--log-level", "warning", "--port")
    processes.start(
        "api", ports["api"], *uvicorn, str(ports["api"]), "usageflow.demo.sample_api:app"
    )
    processes.start(
        "proxy",
        ports["proxy"],
        *(
            "usageflow",
            "proxy",
            "--upstream",
            at.url("api"),
            "--listen",
            f"{HOST}:{ports['proxy']}",
        ),
        env=edge | {"USAGEFLOW_SPOOL_DIR": str(directory / "spool-proxy")},
    )
    processes.start(
        "app",
        ports["app"],
        *(*uvicorn, str(ports["app"]), "usageflow.demo.metered_app:app"),
        env=edge | {"USAGEFLOW_SPOOL_DIR": str(directory / "spool-app")},
    )


def _seed(at: Addresses, stripe_key: str) -> None:
    """What the owner of a Stripe account has: customers that carry their account_id, and meters."""
    headers = {"authorization": f"Bearer {stripe_key}"}
    with httpx.Client(base_url=at.url("stripe"), headers=headers, trust_env=False) as stripe:
        for customer in CUSTOMERS:
            fields = {"name": customer.title(), "metadata[account_id]": customer}
            stripe.post("/v1/customers", data=fields).raise_for_status()
        for event_name, formula in METERS.items():
            meter = {
                "display_name": event_name,
                "event_name": event_name,
                "default_aggregation[formula]": formula,
            }
            stripe.post("/v1/billing/meters", data=meter).raise_for_status()


def _api_key(directory: Path) -> str:
    command = ("keys", "create", "--name", "demo", "--scope", "usage.write")
    return _usageflow(directory, *command).strip()


def _usageflow(directory: Path, *command: str) -> str:
    """Run a command as a user would; its output."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "usageflow", *command, "--database", _database(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UsageFlowError(f"usageflow {' '.join(command)}: {done.stderr}")
    return done.stdout


def _database(directory: Path) -> str:
    return f"sqlite:///{directory / 'usageflow.db'}"


def _say(at: Addresses, directory: Path) -> None:
    print(
        f"""
  server          {at.url("server")}/
  Stripe emulator {at.url("stripe")}/
  metered app     {at.url("app")}/v1/items/1      (header x-account-id: acme)
  proxy           {at.url("proxy")}/v1/items/1      (in front of {at.url("api")})
  ledger          usageflow usage --database {_database(directory)}
""",
        flush=True,
    )


async def _drive(directory: Path, at: Addresses, *, once: bool) -> int:
    began_at = datetime.now(UTC)
    traffic = Traffic([at.url("app"), at.url("proxy")])
    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:
        if once:
            for _ in range(ROUNDS):
                await traffic.send_round(client)
        else:
            await _until_interrupted(directory, at, traffic, client)
        rows = await _settled(directory, at, traffic, client)
    invoices = await billing.bills(at.url("server"), began_at, _requests(traffic))
    return _verdict(traffic, rows, invoices)


async def _until_interrupted(
    directory: Path, at: Addresses, traffic: Traffic, client: httpx.AsyncClient
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    print("traffic runs; Ctrl-C stops it, waits until all is settled, and compares\n", flush=True)
    report_s = time.monotonic() + REPORT_S
    while not stop.is_set():
        await traffic.send_round(client)
        print(f"\r{traffic.requests} requests sent ", end="", flush=True)
        if time.monotonic() > report_s:
            rows = await _compared(directory, at, traffic, client)
            print(f"\n{table(rows)}\n(usage of the last moments is still on its way)\n", flush=True)
            report_s = time.monotonic() + REPORT_S
        await asyncio.wait([asyncio.ensure_future(stop.wait())], timeout=PAUSE_S)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
    print("\nstopping ...", flush=True)


async def _settled(
    directory: Path, at: Addresses, traffic: Traffic, client: httpx.AsyncClient
) -> list[Row]:
    """Wait until all three agree, or until there is no more hope of it."""
    started_s = time.monotonic()
    while True:
        rows = await _compared(directory, at, traffic, client)
        if all(row.equal for row in rows) or time.monotonic() - started_s > SETTLE_S_MAX:
            return rows
        print(
            f"\rwaiting until all is settled ({time.monotonic() - started_s:.0f} s) ",
            end="",
            flush=True,
        )
        await asyncio.sleep(0.2)


async def _compared(
    directory: Path, at: Addresses, traffic: Traffic, client: httpx.AsyncClient
) -> list[Row]:
    output = await asyncio.to_thread(_usageflow, directory, "usage", "--json", "--no-stripe")
    state = (await client.get(f"{at.url('stripe')}/_emulator/state")).json()
    return compare(traffic.sent, traffic.expected, _ledger_totals(output), _stripe_totals(state))


def _ledger_totals(output: str) -> dict[tuple[str, str], Decimal]:
    """What goes to Stripe; what our own invoices bill is compared with them."""
    totals: dict[tuple[str, str], Decimal] = {}
    for row in json.loads(output, parse_float=Decimal, parse_int=Decimal)["usage"]:
        if row["metric"] == billing.METRIC:
            continue
        key = (row["customer"], row["metric"])
        totals[key] = totals.get(key, Decimal(0)) + row["quantity"]
    return totals


def _stripe_totals(state: dict[str, Any]) -> dict[tuple[str, str], Decimal]:
    return {
        (row["metadata"]["account_id"], METRIC_OF_EVENT[row["event_name"]]): Decimal(
            # a count meter counts events, whatever their value
            row["events"] if METERS[row["event_name"]] == "count" else row["value"]
        )
        for account in state["accounts"]
        for row in account["applied"]
    }


def _requests(traffic: Traffic) -> dict[str, int]:
    """How many requests of each customer were answered."""
    counts: Counter[str] = Counter()
    for (customer, _), number in traffic.sent.items():
        counts[customer] += number
    return counts


def _verdict(traffic: Traffic, rows: list[Row], invoices: list[Bill]) -> int:
    equal = bool(rows) and all(row.equal for row in rows)
    right = len(invoices) == len(CUSTOMERS) and all(one.right for one in invoices)
    print(f"\n{table(rows)}\n")
    print(
        f"{traffic.requests} requests sent, {traffic.failures} of them failed at the API and are "
        f"not billed\n"
    )
    for one in invoices if not right else invoices[:1]:
        print(f"{billing.told(one)}\n")
    print(f"{len(invoices)} invoices, {'each adds up' if right else 'WHICH DO NOT ADD UP'}")
    print("all equal" if equal else "NOT EQUAL", flush=True)
    return 0 if equal and right else 1
