"""Resident memory while a 300 MiB response streams through, measured policy and all."""

import shutil
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from bench.report import Line, show
from bench.servers import OTHER_CORE, free_port, python, rss_bytes, running

MIB = 1_048_576
STREAM_MIB = 300
POLICIES = """
[[policy]]
name = "streams"
match = "GET /stream/:mib"
identify = [ { from = "header", name = "x-account-id" } ]
field = "account_id"
metric = "STREAM"
quantity = "response.body.never"
"""


def _read(port: int, mib: int) -> int:
    """Stream one response and return how many bytes came."""
    total = 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(
            b"GET /stream/%d HTTP/1.1\r\nhost: b\r\nx-account-id: a\r\nconnection: close\r\n\r\n"
            % mib
        )
        while chunk := client.recv(1 << 18):
            total += len(chunk)
    return total


def _peak_growth_mib(pid: int, port: int) -> float:
    _read(port, 3)  # imports, pools and buffers are there
    before = peak = rss_bytes(pid)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, rss_bytes(pid))
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    total = _read(port, STREAM_MIB)
    done.set()
    thread.join()
    assert total >= STREAM_MIB * MIB, total
    return (peak - before) / MIB


def main() -> None:
    """Measure both edges and print."""
    directory = Path(tempfile.mkdtemp(prefix="usageflow-bench-", dir=Path.cwd()))
    policies = directory / "policies.toml"
    policies.write_text(POLICIES)
    upstream, app, proxy = free_port(), free_port(), free_port()
    edge = {"USAGEFLOW_POLICIES": str(policies)}
    try:
        with ExitStack() as stack:
            start = stack.enter_context
            start(running(python("bench.upstream", str(upstream)), upstream, OTHER_CORE))
            serve = python(
                "uvicorn", "--log-level", "error", "--port", str(app), "bench.streaming_app:app"
            )
            env = edge | {"USAGEFLOW_SPOOL_DIR": str(directory / "app")}
            app_pid = start(running(serve, app, OTHER_CORE, env))
            forward = python(
                "usageflow",
                *("proxy", "--upstream", f"http://127.0.0.1:{upstream}"),
                *("--listen", f"127.0.0.1:{proxy}"),
            )
            env = edge | {"USAGEFLOW_SPOOL_DIR": str(directory / "proxy")}
            proxy_pid = start(running(forward, proxy, OTHER_CORE, env))
            grown = {
                "through the middleware": _peak_growth_mib(app_pid, app),
                "through the proxy": _peak_growth_mib(proxy_pid, proxy),
            }
    finally:
        shutil.rmtree(directory)
    show(
        f"Memory: RSS added by a streamed response of {STREAM_MIB} MiB",
        [Line(name, f"{mib:.1f} MiB", "16 MiB", mib <= 16) for name, mib in grown.items()],
    )
