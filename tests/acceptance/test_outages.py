"""Servers that are down, disks that are full: nothing is lost, and everything says so."""

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest


def call(url: str, start: int, stop: int) -> None:
    """Call an edge under the identities r-start ... r-(stop-1); every answer must be good."""
    with httpx.Client(trust_env=False) as client:
        for n in range(start, stop):
            answer = client.get(f"{url}/calls/{n}", headers={"x-account-id": f"r-{n}"})
            assert (answer.status_code, answer.text) == (200, "ok")


def test_events_wait_out_an_outage_of_server_and_stripe(stack: Any) -> None:
    """Down in mid-flight, down at the start of the edge, Stripe failing: each arrives once."""
    stack.add_stripe()
    stack.seed(90)
    stack.add_server()
    stack.add_app(stack.api_key())
    call(stack.url("app"), 0, 30)
    stack.wait_for(lambda: len(stack.applied()) == 30, 30, "the first events are applied")

    stack.stop("server")
    call(stack.url("app"), 30, 60)  # in mid-flight
    stack.stop("app")
    stack.start("app")  # the server is down at start: the last good policies are on disk
    call(stack.url("app"), 60, 90)
    stack.break_stripe(
        {"kind": "status", "status": 503, "count": 20},
        {"kind": "status", "status": 500, "after_commit": True, "count": 10},
        {"kind": "reset", "count": 10},
        {"kind": "reset", "after_commit": True, "count": 10},
        {"kind": "status", "status": 429, "count": 10},
    )
    stack.start("server")
    stack.wait_for(lambda: len(stack.ledger()) == 90, 30, "the ledger has all")
    assert set(stack.ledger().values()) == {1}
    stack.wait_for(lambda: len(stack.applied()) == 90, 60, "all is applied")
    stack.wait_for(lambda: stack.unsettled() == 0, 60, "and the server knows")
    assert {events for _, events in stack.applied().values()} == {1}
    assert stack.spooled() == 0


def test_a_bad_key_is_told_and_loses_nothing(stack: Any) -> None:
    """The edge says what the server said; with a good key what waited arrives."""
    stack.add_stripe()
    stack.seed(5)
    stack.add_server()
    policies = {"USAGEFLOW_POLICIES": str(stack.directory / "policies.toml")}
    stack.add_app("uf_live_" + "0" * 48, **policies)
    call(stack.url("app"), 0, 5)
    stack.wait_for(lambda: "the server answered 401" in stack.log("app"), 10, "the refusal is told")
    stack.stop("app")
    assert stack.spooled() == 5
    stack.add_app(stack.api_key(), **policies)
    stack.wait_for(lambda: len(stack.ledger()) == 5, 20, "the events arrived")


def test_two_processes_share_a_spool_directory(stack: Any) -> None:
    """Two edges on one directory: each has its file, and all events arrive once."""
    stack.add_stripe()
    stack.seed(40)
    stack.add_server()
    key = stack.api_key()
    shared = {"USAGEFLOW_SPOOL_DIR": str(stack.directory / "spool-shared")}
    stack.add_app(key, **shared)
    stack.add_app(key, name="second", **shared)
    call(stack.url("app"), 0, 20)
    call(stack.url("second"), 20, 40)
    stack.kill("second")  # its neighbour adopts what it left
    stack.wait_for(lambda: len(stack.ledger()) == 40, 20, "the events arrived")
    assert set(stack.ledger().values()) == {1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 1 MiB."""
    path = tmp_path / "small-disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root; the limit on file size is tested too")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_serves_and_recovers(stack: Any, small_disk: Path) -> None:
    """Every request is served; once there is room all of them are in the ledger."""
    stack.add_stripe()
    stack.seed(50)
    stack.add_server()
    stack.add_app(stack.api_key(), USAGEFLOW_SPOOL_DIR=str(small_disk))
    call(stack.url("app"), 0, 10)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    call(stack.url("app"), 10, 50)
    ballast.unlink()
    stack.wait_for(lambda: len(stack.ledger()) == 50, 30, "all events are in the ledger")
    assert set(stack.ledger().values()) == {1}
