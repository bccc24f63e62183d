"""The proxies that are compared: how each is started before an upstream, on which core.

nginx is taken from the machine (bars are for 1.22, Debian's `nginx-light`); nothing installs it.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.servers import MEASURED_CORE, free_port, python, running


class Proxy(NamedTuple):
    """One that runs."""

    pid: int
    port: int


Start = Callable[[Path, int], AbstractContextManager[Proxy]]
"""Starts a proxy that may write into a directory, before the upstream on a port."""

NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 10000000; client_max_body_size 0;
  client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream api {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; {options}
    }}
  }}
}}
"""


def nginx_version() -> str | None:
    """Such as `nginx/1.22.1`; None, and a line that says so, where there is no nginx."""
    program = shutil.which("nginx")
    if program is None:
        print("\nnginx is not installed (Debian: nginx-light): what is compared with it is skipped")
        return None
    told = subprocess.run([program, "-v"], check=True, capture_output=True, text=True)
    return told.stderr.split(": ")[1].strip()


@contextmanager
def nginx(directory: Path, upstream: int, options: str = "") -> Iterator[Proxy]:
    """Run nginx as a reverse proxy, with more directives for the location if there are any."""
    port, own = free_port(), tempfile.mkdtemp(prefix="nginx-", dir=directory)
    config = Path(own) / "nginx.conf"
    config.write_text(NGINX.format(directory=own, upstream=upstream, port=port, options=options))
    with running(["nginx", "-c", str(config)], port, MEASURED_CORE) as pid:
        yield Proxy(pid, port)


@contextmanager
def usageflow(
    directory: Path,
    upstream: int,
    policies: str,
    *flags: str,
    cores: set[int] = MEASURED_CORE,
    env: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """Run our proxy with these policies and a spool of its own."""
    port, own = free_port(), Path(tempfile.mkdtemp(prefix="usageflow-", dir=directory))
    (own / "policies.toml").write_text(policies)
    command = python(
        "usageflow",
        *("proxy", "--upstream", f"http://127.0.0.1:{upstream}", "--listen", f"127.0.0.1:{port}"),
        *("--policies", str(own / "policies.toml"), "--spool-dir", str(own / "spool"), *flags),
    )
    with running(command, port, cores, env) as pid:
        yield Proxy(pid, port)


@contextmanager
def httpx_proxy(directory: Path, upstream: int) -> Iterator[Proxy]:
    """Run the proxy of uvicorn and httpx."""
    port = free_port()
    command = python(
        "uvicorn", "--log-level", "error", "--port", str(port), "bench.httpx_proxy:app"
    )
    env = {"BENCH_UPSTREAM": f"http://127.0.0.1:{upstream}"}
    with running(command, port, MEASURED_CORE, env) as pid:
        yield Proxy(pid, port)
