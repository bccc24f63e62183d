"""The life of `up`: what is started in which order, what is kept, and what is left at the end."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from usageflow.catalog import keys
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import current
from usageflow.db.session import Database
from usageflow.errors import DatabaseError, PolicyFileError, UsageFlowError
from usageflow.policies import PolicyFile, parse_file
from usageflow.up import Plan, database, run
from usageflow.up.child import Program, accepts

MakeProgram = Callable[..., Program]
MakePlan = Callable[..., Plan]

POLICY = """
[[policy]]
name = "{name}"
match = "GET /v1/items"
identify = [{{ from = "header", name = "x-account-id" }}]
field = "account_id"
metric = "API_CALL"
"""


def read(path: Path) -> PolicyFile:
    """A file without problems."""
    try:
        text = path.read_text()
    except OSError as error:
        raise PolicyFileError(str(path), [f"{path}: cannot be read: {error}"]) from None
    parsed = parse_file(text, str(path))
    if parsed.problems:
        raise PolicyFileError(str(path), parsed.problems)
    return parsed


@pytest.fixture
def db(folder: Path, sqlite_template: bytes) -> Iterator[Database]:
    """The database of the plan; on SQLite alone, since `test_database` runs on both."""
    (folder / "usageflow.db").write_bytes(sqlite_template)
    opened = Database.open("sqlite:///usageflow.db")
    yield opened
    opened.close()


@pytest.fixture
def plan(db: Database, program: MakeProgram) -> MakePlan:
    """`plan(on_ready=...)`: one that ends when it is ready, unless told otherwise."""

    def make(**changes: Any) -> Plan:
        default = Plan(
            server=program("server"),
            proxy=program("proxy"),
            database="sqlite:///usageflow.db",
            key_name="up here:1",
            policies=None,
            read_policies=read,
            poll_s=0.02,
            on_ready=terminate,
        )
        return replace(default, **changes)

    return make


def terminate() -> None:
    """Ask this process to end."""
    os.kill(os.getpid(), signal.SIGTERM)


def then(step: Callable[[], None]) -> Callable[[], None]:
    """`on_ready` that lets a thread do something to the running programs, and ends them."""

    def act() -> None:
        try:
            step()
        finally:
            terminate()

    return lambda: threading.Thread(target=act, daemon=True).start()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    pause = threading.Event()
    for _ in range(1_500):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it never came")


def notes() -> list[str]:
    """What the programs noted."""
    return Path("notes").read_text().splitlines()


def free(*programs: Program) -> bool:
    """Whether nobody listens where these did."""
    return not any(asyncio.run(accepts(each.listen)) for each in programs)


def active_keys(db: Database) -> list[str]:
    """The names of the keys in use."""
    with db.transaction() as tx:
        rows = keys.listing(tx, default_organization(tx))
        return [row.name for row in rows if row.revoked_at is None]


def active_policies(db: Database) -> list[str]:
    """The names of the policies in use."""
    with db.transaction() as tx:
        items = current(tx, default_organization(tx)).items
    return [json.loads(document)["name"] for document, _ in items]


def test_the_server_starts_first_and_stops_last(plan: MakePlan, db: Database) -> None:
    """The proxy has a key that works while it runs, and no longer than it runs."""
    made = plan()
    run(made)
    started, got_key, *ended = notes()
    assert started == "server started "
    assert got_key.startswith("proxy started uf_live_")
    assert ended == ["proxy ended", "server ended"]
    assert active_keys(db) == []
    assert free(made.server, made.proxy)
    with db.transaction() as tx:
        assert [row.name for row in keys.listing(tx, default_organization(tx))] == ["up here:1"]


def test_an_interrupt_stops_it_as_well(plan: MakePlan) -> None:
    """Ctrl-C."""
    run(plan(on_ready=lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert notes()[2:] == ["proxy ended", "server ended"]


@pytest.mark.parametrize("which", ["server", "proxy"])
def test_one_that_does_not_start_ends_all(which: str, plan: MakePlan, program: MakeProgram) -> None:
    """The error names it, and nothing is left running."""
    made = plan(**{which: program(which, code="raise SystemExit(1)")})
    with pytest.raises(UsageFlowError, match=f"the {which} did not start"):
        run(made)
    assert free(made.server, made.proxy)


def test_a_wrong_policy_file_at_the_start_ends_all(plan: MakePlan, folder: Path) -> None:
    """Nothing is published and no proxy is started."""
    (folder / "p.toml").write_text("[[policy]]\nname = 1")
    made = plan(policies=folder / "p.toml")
    with pytest.raises(PolicyFileError):
        run(made)
    assert notes() == ["server started ", "server ended"]


def test_policies_follow_their_file(
    plan: MakePlan, db: Database, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Published at the start and with each change; what is wrong is told and changes nothing."""
    file = folder / "p.toml"
    file.write_text(POLICY.format(name="first"))

    def edit() -> None:
        assert active_policies(db) == ["first"]
        file.unlink()
        until(lambda: any("cannot be read" in text for text in caplog.messages))
        file.write_text("[[policy]]\nname = 1")
        until(lambda: any("name" in text for text in caplog.messages))
        assert active_policies(db) == ["first"]
        file.write_text(POLICY.format(name="second"))
        until(lambda: active_policies(db) == ["second"])

    run(plan(policies=file, on_ready=then(edit)))
    told = [text for text in caplog.messages if "stay as they were" in text]
    assert len(told) == 2, "once for each mistake"
    assert active_policies(db) == ["second"]


def test_a_fault_of_ours_leaves_nothing_running(plan: MakePlan, folder: Path) -> None:
    """What nobody thought of ends both children, and shows where it happened."""
    file = folder / "p.toml"
    file.write_text(POLICY.format(name="first"))
    broken = iter([read(file)])
    made = plan(
        policies=file,
        read_policies=lambda _: next(broken, None),
        on_ready=lambda: file.write_text(POLICY.format(name="second")),
    )
    with pytest.raises(ExceptionGroup) as failed:
        run(made)
    assert failed.group_contains(AttributeError)
    assert notes()[2:] == ["proxy ended", "server ended"]


def test_a_busy_database_delays_a_change(
    plan: MakePlan,
    db: Database,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is tried again until it is published."""
    file = folder / "p.toml"
    file.write_text(POLICY.format(name="first"))
    publish = database.publish

    def fail(*_: object) -> None:
        monkeypatch.setattr(database, "publish", publish)
        raise DatabaseError("the disk is away")

    def edit() -> None:
        monkeypatch.setattr(database, "publish", fail)
        file.write_text(POLICY.format(name="second"))
        until(lambda: active_policies(db) == ["second"])

    run(plan(policies=file, on_ready=then(edit)))
    assert "the policies could not be published: the disk is away" in caplog.messages


def test_a_crashed_server_comes_back_beside_the_proxy(plan: MakePlan) -> None:
    """The proxy goes on; the server is started again."""

    def crash() -> None:
        (pid,) = (
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if _command(process)[1:3] == ["listens.py", "server"]
            and (process / "cwd").samefile(".")
        )
        os.kill(pid, signal.SIGKILL)
        until(lambda: notes().count("server started ") == 2)

    run(plan(on_ready=then(crash)))
    assert [line.partition(" uf_live")[0] for line in notes()] == [
        "server started ",
        "proxy started",
        "server started ",
        "proxy ended",
        "server ended",
    ]


def _command(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_text().split("\0")
    except OSError:
        return []


def test_a_hangup_reloads_the_proxy(plan: MakePlan) -> None:
    """And nothing else."""

    def hang_up() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: "proxy reloads" in notes())

    run(plan(on_ready=then(hang_up)))
    assert "server reloads" not in notes()


def test_who_insists_is_obeyed(plan: MakePlan, program: MakeProgram) -> None:
    """A second signal ends both at once."""

    def insist() -> None:
        terminate()  # and once more, 0.3 s later
        threading.Event().wait(0.3)

    stubborn = program("proxy", "stubborn")
    made = plan(proxy=stubborn, on_ready=then(insist))
    run(made)
    assert "server ended" not in notes()
    assert free(made.server, made.proxy)


def test_a_key_that_cannot_be_revoked_is_told(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It still ends well: the next start revokes it."""

    def fail(*_: object) -> None:
        raise DatabaseError("the disk is away")

    monkeypatch.setattr(database, "revoke_key", fail)
    run(plan())
    assert caplog.messages == [
        "the key of the proxy is revoked at the next start: the disk is away"
    ]
