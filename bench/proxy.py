"""CPU per request of our proxy, metered and durable, beside nginx and a uvicorn + httpx proxy.

Same upstream, same load, same run; each proxy is one process on one core.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from bench.load import drive
from bench.middleware import POLICIES
from bench.report import Line, show
from bench.servers import MEASURED_CORE, OTHER_CORE, cpu_s, free_port, python, running

ROUNDS = 3
REQUESTS = 20_000
REQUESTS_HTTPX = 1_600
PATH, ANSWER_BYTES = "/v1/items/7", 11

Start = Callable[[Path, int], AbstractContextManager[tuple[int, int]]]
Proxies = dict[str, tuple[Start, int]]
"""Name -> how it is started before an upstream, and how many requests it is sent."""

NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 10000000;
  client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream api {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


@contextmanager
def nginx(directory: Path, upstream: int) -> Iterator[tuple[int, int]]:
    """Debian's nginx as a reverse proxy; (pid, port)."""
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, upstream=upstream, port=port))
    with running(["nginx", "-c", str(config)], port, MEASURED_CORE) as pid:
        yield pid, port


@contextmanager
def usageflow(directory: Path, upstream: int) -> Iterator[tuple[int, int]]:
    """Our proxy with a policy that matches; (pid, port)."""
    port = free_port()
    policies = directory / "policies.toml"
    policies.write_text(POLICIES)
    command = python(
        "usageflow",
        *("proxy", "--upstream", f"http://127.0.0.1:{upstream}", "--listen", f"127.0.0.1:{port}"),
        *("--policies", str(policies), "--spool-dir", tempfile.mkdtemp(dir=directory)),
    )
    with running(command, port, MEASURED_CORE) as pid:
        yield pid, port


@contextmanager
def httpx_proxy(directory: Path, upstream: int) -> Iterator[tuple[int, int]]:
    """The proxy of uvicorn and httpx; (pid, port)."""
    port = free_port()
    command = python(
        "uvicorn", "--log-level", "error", "--port", str(port), "bench.httpx_proxy:app"
    )
    env = {"BENCH_UPSTREAM": f"http://127.0.0.1:{upstream}"}
    with running(command, port, MEASURED_CORE, env) as pid:
        yield pid, port


def _cpu_us(proxy: tuple[int, int], requests: int) -> float:
    pid, port = proxy
    drive(port, PATH, ANSWER_BYTES, 320)
    before = cpu_s(pid)
    drive(port, PATH, ANSWER_BYTES, requests)
    return (cpu_s(pid) - before) / requests * 1e6


def main() -> None:
    """Measure interleaved and print."""
    proxies: Proxies = {
        "usageflow": (usageflow, REQUESTS),
        "uvicorn + httpx": (httpx_proxy, REQUESTS_HTTPX),
    }
    if shutil.which("nginx"):
        proxies["nginx"] = (nginx, REQUESTS)
    else:
        print("\nnginx is not installed (Debian: nginx-light); its ratio is skipped")
    directory = Path(tempfile.mkdtemp(prefix="usageflow-bench-", dir=Path.cwd()))
    try:
        cpu = _measure(directory, proxies)
    finally:
        shutil.rmtree(directory)
    _show(cpu)


def _measure(directory: Path, proxies: Proxies) -> dict[str, float]:
    upstream = free_port()
    seen: dict[str, list[float]] = {name: [] for name in proxies}
    with ExitStack() as stack:
        stack.enter_context(running(python("bench.upstream", str(upstream)), upstream, OTHER_CORE))
        started = {
            name: stack.enter_context(start(directory, upstream))
            for name, (start, _) in proxies.items()
        }
        for _ in range(ROUNDS):
            for name, (_, requests) in proxies.items():
                seen[name].append(_cpu_us(started[name], requests))
    return {name: statistics.median(times) for name, times in seen.items()}


def _show(cpu: dict[str, float]) -> None:
    lines = [Line(name, f"{value:.0f} µs") for name, value in cpu.items()]
    ours = cpu["usageflow"]
    if "nginx" in cpu:
        times = ours / cpu["nginx"]
        lines.append(Line("usageflow / nginx", f"{times:.1f}", "6", times <= 6))
    below = cpu["uvicorn + httpx"] / ours
    lines.append(Line("uvicorn + httpx / usageflow", f"{below:.1f}", "15", below >= 15))
    show(f"Proxy, metered and durable: CPU per request, one core, median of {ROUNDS}", lines)
