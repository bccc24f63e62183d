"""Resident memory while a 300 MiB response streams through the middleware, measured policy and all.

The proxy is measured with longer bodies: see `bench.transfer`.
"""

from bench.bulk import MIB, download
from bench.report import Line, show
from bench.servers import (
    OTHER_CORE,
    forget_peak,
    free_port,
    peak_rss_bytes,
    python,
    rss_bytes,
    running,
    scratch,
)
from bench.transfer import POLICIES

STREAM_MIB, WARM_UP_MIB = 300, 3


def _peak_growth_mib(pid: int, port: int) -> float:
    download(port, WARM_UP_MIB)  # imports, pools and buffers are there
    before = rss_bytes(pid)
    forget_peak(pid)
    download(port, STREAM_MIB)
    return (peak_rss_bytes(pid) - before) / MIB


def main() -> None:
    """Measure and print."""
    port = free_port()
    serve = python(
        "uvicorn", "--log-level", "error", "--port", str(port), "bench.streaming_app:app"
    )
    with scratch() as directory:
        policies = directory / "policies.toml"
        policies.write_text(POLICIES)
        edge = {"USAGEFLOW_POLICIES": str(policies), "USAGEFLOW_SPOOL_DIR": str(directory / "app")}
        with running(serve, port, OTHER_CORE, edge) as pid:
            mib = _peak_growth_mib(pid, port)
    show(
        f"Memory: RSS added by a streamed response of {STREAM_MIB} MiB",
        [Line("through the middleware", f"{mib:.1f} MiB", "16 MiB", mib <= 16)],
    )
