"""Policies stay fresh, the last good set stays in force, and a cached set outlives the server."""

import errno
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from usageflow.config import Settings
from usageflow.errors import PolicyFileError
from usageflow.middleware.feed import FixedFeed, PollingFeed, open_feed
from usageflow.policies import Policy, PolicySet, parse_file, write_document

POLICY = """
[[policy]]
name = "%s"
match = "GET /%s"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "API_CALL"
"""


def policies(*names: str) -> list[tuple[Policy, str]]:
    """Valid policies of these names, with their versions."""
    parsed = parse_file("".join(POLICY % (name, name) for name in names), "t")
    return list(parsed.policies)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds, at most 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.01)


class _Server(BaseHTTPRequestHandler):
    """The policies endpoint: a document with an ETag."""

    protocol_version = "HTTP/1.1"
    document: ClassVar[bytes] = b""
    status: ClassVar[int] = 200
    seen: ClassVar[list[tuple[int, str]]] = []

    def do_GET(self) -> None:
        cls = type(self)
        etag = f'"{hash(cls.document)}"'
        status = cls.status
        if status == 200 and self.headers.get("if-none-match") == etag:
            status = 304
        cls.seen.append((status, self.headers.get("x-usageflow-api-key", "")))
        self.send_response(status)
        content = cls.document if status == 200 else b""
        if status == 200:
            self.send_header("etag", etag)
        if status != 304:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay quiet."""


@pytest.fixture
def server() -> Iterator[tuple[str, Any]]:
    """A server with its own document, and its URL."""
    handler = type("Handler", (_Server,), {"seen": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", handler
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def feed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Settings], PollingFeed]]:
    """Open feeds, with their default spool in the test's own directory; closed at the end."""
    monkeypatch.chdir(tmp_path)
    made: list[PollingFeed] = []

    def make(settings: Settings) -> PollingFeed:
        made.append(open_feed(settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def matches(subject: PollingFeed, name: str) -> bool:
    """Whether the current set has the policy of this name."""
    return subject.current.match("GET", f"/{name}") is not None


def test_a_file_is_in_force_at_once_and_its_changes_follow(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path
) -> None:
    """Without a restart, and as a whole."""
    path = tmp_path / "p.toml"
    path.write_text(POLICY % ("a", "a"))
    subject = feed(Settings(policies=str(path), policy_poll_s=0.01))
    assert subject.loaded
    assert matches(subject, "a")
    subject.start()
    path.write_text(POLICY % ("bb", "bb"))
    wait_for(lambda: matches(subject, "bb"))
    assert not matches(subject, "a")


def test_a_broken_file_leaves_the_last_good_set_in_force(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A syntax error, then a missing file: told once each; then the mended file counts again."""
    path = tmp_path / "p.toml"
    path.write_text(POLICY % ("a", "a"))
    subject = feed(Settings(policies=str(path), policy_poll_s=0.01))
    subject.start()
    path.write_text("[[policy")
    wait_for(lambda: "not refreshed" in caplog.text)
    path.unlink()
    wait_for(lambda: caplog.text.count("not refreshed") == 2)
    time.sleep(0.05)
    assert caplog.text.count("not refreshed") == 2
    assert matches(subject, "a")
    path.write_text(POLICY % ("b", "b"))
    wait_for(lambda: matches(subject, "b"))


def test_one_invalid_policy_is_told_and_the_others_count(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With its place in the file."""
    path = tmp_path / "p.toml"
    path.write_text(POLICY % ("a", "a") + '[[policy]]\nname = "b"\n')
    subject = feed(Settings(policies=str(path)))
    assert matches(subject, "a")
    assert f"{path}:8: " in caplog.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, ": cannot be read: No such file or directory"),
        (b"\xff\xfe", ": cannot be read: it is not UTF-8"),
        (b"[[policy", ":1:9: "),
    ],
)
def test_a_file_that_cannot_be_read_stops_the_start(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path, content: bytes | None, problem: str
) -> None:
    """A mistake shows at start, with the path in the message, once."""
    path = tmp_path / "p.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PolicyFileError) as refused:
        feed(Settings(policies=str(path)))
    assert f"{path}{problem}" in str(refused.value)
    assert str(refused.value).count(str(path)) == 1


def test_the_servers_policies_follow_its_changes(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path, server: tuple[str, Any]
) -> None:
    """Asked with the key and the ETag; unchanged documents are not sent again."""
    url, handler = server
    handler.document = write_document(policies("a"))
    settings = Settings(
        server=url, api_key="uf_live_x", spool_dir=str(tmp_path), policy_poll_s=0.01
    )
    subject = feed(settings)
    assert not subject.loaded
    subject.start()
    subject.start()
    wait_for(lambda: matches(subject, "a"))
    wait_for(lambda: (304, "uf_live_x") in handler.seen)
    handler.document = write_document(policies("b"))
    wait_for(lambda: matches(subject, "b"))
    handler.document = write_document([])
    wait_for(lambda: not matches(subject, "b"))


def test_an_app_starts_metered_while_the_server_is_down(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path, server: tuple[str, Any]
) -> None:
    """The last good answer is kept beside the spool, for this server and key only."""
    url, handler = server
    handler.document = write_document(policies("a"))
    settings = Settings(server=url, api_key="k", spool_dir=str(tmp_path), policy_poll_s=0.01)
    first = feed(settings)
    first.start()
    wait_for(lambda: first.loaded)
    first.close()
    handler.status = 503
    second = feed(settings)
    assert second.loaded
    assert matches(second, "a")
    assert not feed(settings.with_changes(api_key="other")).loaded


def test_a_refusal_is_told_and_the_current_set_stays(
    feed: Callable[[Settings], PollingFeed],
    tmp_path: Path,
    server: tuple[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """401 is told once, not at every poll; rubbish instead of a document too."""
    url, handler = server
    handler.status = 401
    settings = Settings(server=url, api_key="k", spool_dir=str(tmp_path), policy_poll_s=0.01)
    subject = feed(settings)
    subject.start()
    wait_for(lambda: "the server answered 401" in caplog.text)
    assert not subject.loaded
    handler.status, handler.document = 200, b"<html>"
    wait_for(lambda: caplog.text.count("not refreshed") == 2)
    handler.document = write_document(policies("a"))
    wait_for(lambda: matches(subject, "a"))


def test_a_damaged_cache_is_passed_over(
    feed: Callable[[Settings], PollingFeed],
    tmp_path: Path,
    server: tuple[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told, and the server is asked."""
    url, handler = server
    handler.document = write_document(policies("a"))
    settings = Settings(server=url, api_key="k", spool_dir=str(tmp_path), policy_poll_s=0.01)
    first = feed(settings)
    first.start()
    wait_for(lambda: list(tmp_path.glob("policies-*.json")))
    first.close()
    (cache,) = tmp_path.glob("policies-*.json")
    cache.write_text("{")
    second = feed(settings)
    assert not second.loaded
    assert "cannot be used" in caplog.text
    second.start()
    wait_for(lambda: second.loaded)


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(
    feed: Callable[[Settings], PollingFeed],
    tmp_path: Path,
    server: tuple[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Policies are in force all the same."""
    url, handler = server
    handler.document = write_document(policies("a"))
    (tmp_path / "file").write_text("")
    subject = feed(
        Settings(server=url, api_key="k", spool_dir=str(tmp_path / "file"), policy_poll_s=0.01)
    )
    subject.start()
    wait_for(lambda: matches(subject, "a"))
    assert "cannot be kept" in caplog.text


def test_a_forked_child_polls_once_it_serves(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path
) -> None:
    """The parent's thread does not survive the fork; `start` makes the child's own."""
    path = tmp_path / "p.toml"
    path.write_text(POLICY % ("a", "a"))
    subject = feed(Settings(policies=str(path), policy_poll_s=0.01))
    subject.start()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        subject.start()
        path.write_text(POLICY % ("bb", "bb"))
        deadline = time.monotonic() + 5
        while not matches(subject, "bb") and time.monotonic() < deadline:
            time.sleep(0.01)
        os.write(write, b"1" if matches(subject, "bb") else b"0")
        os._exit(0)
    assert os.read(read, 1) == b"1"
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


def test_a_bug_in_a_source_does_not_end_the_feed(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, and asked again."""

    class Buggy:
        asked = 0

        def read(self) -> PolicySet | None:
            self.asked += 1
            if self.asked < 3:
                raise RuntimeError("bug")
            return PolicySet.build(policies("a"))

        def close(self) -> None:
            pass

    subject = PollingFeed(Buggy(), 0.01, None)
    for _ in range(3):
        subject.poll()
    assert matches(subject, "a")
    assert caplog.text.count("not refreshed: RuntimeError") == 1


def test_a_fixed_feed_never_changes() -> None:
    """For tests and for policies built in code."""
    subject = FixedFeed(PolicySet.build(policies("a")))
    subject.start()
    subject.close()
    assert subject.loaded
    assert subject.current.match("GET", "/a") is not None


def test_the_document_is_json() -> None:
    """What the server sends can be read by anybody."""
    assert json.loads(write_document(policies("a")))["policies"][0]["policy"]["name"] == "a"


def test_a_reload_with_a_new_key_server_waits_for_its_keys(tmp_path: Path) -> None:
    """The set before stays in force until then, so that no token goes unverified meanwhile."""
    path = tmp_path / "p.toml"
    path.write_text(POLICY % ("a", "a"))
    subject = open_feed(
        Settings(policies=str(path), jwks_timeout_s=0.3, spool_dir=str(tmp_path / "spool"))
    )
    listener = socket.create_server(("127.0.0.1", 0))  # accepts, and never answers
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/jwks.json"
    token = f'{{ from = "jwt", claim = "sub", keys = "{url}" }}'
    path.write_text(POLICY.replace('{ from = "header", name = "x-account" }', token) % ("b", "b"))
    started = time.monotonic()
    subject.poll()
    assert matches(subject, "b")
    assert time.monotonic() - started >= 0.25
    subject.close()
    listener.close()


def test_a_policy_that_becomes_wrong_stays_as_it_was(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a less specific policy would count its requests at another price, or none would."""
    path = tmp_path / "p.toml"
    path.write_text(POLICY % ("a", "a") + POLICY % ("b", "b"))
    subject = feed(Settings(policies=str(path)))
    before = subject.current.match("GET", "/b")
    assert before is not None
    wrong = (POLICY % ("b", "b")).replace("metric", "metrik")
    path.write_text(POLICY % ("a", "new") + wrong)
    subject.poll()
    assert matches(subject, "new")
    after = subject.current.match("GET", "/b")
    assert after is not None
    assert after.policies[0].version == before.policies[0].version
    assert 'policy "b" stays in force as it was' in caplog.text
    path.write_text(POLICY % ("a", "new"))
    subject.poll()
    assert not matches(subject, "b"), "taken out on purpose, it is gone"


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_file_is_one_that_is_being_written(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path, text: str
) -> None:
    """At start it is an error; later the last good set stays. A comment makes it deliberate."""
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(PolicyFileError, match="is empty"):
        open_feed(Settings(policies=str(path)))
    path.write_text("\ufeff" + POLICY % ("a", "a"), encoding="utf-8")
    subject = feed(Settings(policies=str(path)))
    path.write_text(text)
    subject.poll()
    assert matches(subject, "a")
    path.write_text("# nothing is metered for now")
    subject.poll()
    assert not matches(subject, "a")


WRONG_B = (POLICY % ("b", "b")).replace("metric", "metrik")


@pytest.fixture
def restart(feed: Callable[[Settings], PollingFeed], tmp_path: Path) -> Callable[[str], Any]:
    """Restart an edge, with another text in its policy file; it is polled once, as by a start."""

    def again(text: str) -> PollingFeed:
        (tmp_path / "p.toml").write_text(text)
        subject = feed(Settings(policies=str(tmp_path / "p.toml")))
        subject.poll()
        return subject

    return again


def test_a_policy_that_becomes_wrong_stays_over_restarts(
    restart: Callable[[str], PollingFeed], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As it was before the mistake; the log says since when and what it is, and nothing else."""
    good = restart(POLICY % ("a", "a") + POLICY % ("b", "b"))
    before = good.current.match("GET", "/b")
    assert before is not None
    for since in (r"20\d\d-\d\d-\d\d \d\d:\d\d", "2025-01-02 03:04"):
        caplog.clear()
        subject = restart(POLICY % ("a", "new") + WRONG_B)
        assert matches(subject, "new")
        after = subject.current.match("GET", "/b")
        assert after is not None
        assert after.policies[0].version == before.policies[0].version
        (line,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
        assert re.fullmatch(
            rf'policy "b" stays in force as it was \({after.policies[0].version}\), it is wrong '
            rf'since {since} UTC: .*/p\.toml:9: policy "b" \(#2\): metric: is required; '
            r'.*/p\.toml:14: policy "b" \(#2\): metrik: is not known; did you mean "metric"\?',
            line,
        )
        (kept,) = (tmp_path / ".usageflow" / "spool").iterdir()
        memory = json.loads(kept.read_text()) | {"wrong_since": {"b": "2025-01-02T03:04:05Z"}}
        kept.write_text(json.dumps(memory))


def test_a_policy_that_was_taken_out_does_not_come_back(
    restart: Callable[[str], PollingFeed], caplog: pytest.LogCaptureFixture
) -> None:
    """Gone on purpose, it is gone; so is what was kept of it."""
    restart(POLICY % ("a", "a") + POLICY % ("b", "b"))
    assert not matches(restart(POLICY % ("a", "a")), "b")
    assert not matches(restart(POLICY % ("a", "a") + WRONG_B), "b")
    assert "stays in force" not in caplog.text
    assert "a policy is left out: " in caplog.text


def test_what_another_policy_claims_by_now_is_not_taken_back(
    restart: Callable[[str], PollingFeed], caplog: pytest.LogCaptureFixture
) -> None:
    """Of two for the same requests the one that is right counts; the log does not say both."""
    restart(POLICY % ("a", "a") + POLICY % ("b", "b"))
    subject = restart(POLICY % ("new", "b") + WRONG_B)
    match = subject.current.match("GET", "/b")
    assert match is not None
    assert [each.policy.name for each in match.policies] == ["new"]
    assert "stays in force" not in caplog.text
    assert 'policy "b" (#2): metrik' in caplog.text


def test_what_is_kept_is_that_files(
    restart: Callable[[str], PollingFeed],
    feed: Callable[[Settings], PollingFeed],
    tmp_path: Path,
) -> None:
    """By its absolute path; another file in the same spool directory has its own."""
    restart(POLICY % ("b", "b"))
    other = tmp_path / "other.toml"
    other.write_text(POLICY % ("a", "a") + WRONG_B)
    assert not matches(feed(Settings(policies=str(other))), "b")
    (tmp_path / "p.toml").write_text(POLICY % ("a", "a") + WRONG_B)
    assert matches(feed(Settings(policies="p.toml")), "b")


def test_only_an_edge_that_runs_keeps_its_policies(
    feed: Callable[[Settings], PollingFeed], tmp_path: Path
) -> None:
    """Making one writes nothing; what is kept is written when it changed, and as a whole."""
    path, spool = tmp_path / "p.toml", tmp_path / ".usageflow" / "spool"
    path.write_text(POLICY % ("a", "a"))
    first = feed(Settings(policies=str(path)))
    assert not spool.exists()
    first.poll()
    (kept,) = spool.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    before = kept.stat().st_mtime_ns
    first.poll()
    feed(Settings(policies=str(path))).poll()
    assert kept.stat().st_mtime_ns == before
    path.write_text(POLICY % ("b", "b"))
    first.poll()
    assert kept.stat().st_mtime_ns != before
    assert list(spool.iterdir()) == [kept]


@pytest.mark.parametrize("content", [b"{", b'{"policies": [], "wrong_since": 7}', b"\xff", b"[]"])
def test_what_cannot_be_read_of_a_file_is_as_if_it_were_not_there(
    restart: Callable[[str], PollingFeed],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    """It is told, the wrong policy is left out, and the next good set is kept."""
    restart(POLICY % ("b", "b"))
    (kept,) = (tmp_path / ".usageflow" / "spool").iterdir()
    kept.write_bytes(content)
    subject = restart(POLICY % ("a", "a") + WRONG_B)
    assert matches(subject, "a")
    assert not matches(subject, "b")
    assert f"the policies kept in .usageflow/spool/{kept.name} cannot be used: " in caplog.text
    assert "a policy is left out: " in caplog.text
    restart(POLICY % ("b", "b"))
    assert matches(restart(POLICY % ("a", "a") + WRONG_B), "b")


def test_policies_are_kept_once_the_disk_takes_them(
    restart: Callable[[str], PollingFeed], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That it does not is told once, however often it is tried."""
    (tmp_path / ".usageflow").touch()
    subject = restart(POLICY % ("b", "b"))
    subject.poll()
    assert caplog.text.count("cannot be kept") == 1
    (tmp_path / ".usageflow").unlink()
    subject.poll()
    assert matches(restart(POLICY % ("a", "a") + WRONG_B), "b")


def test_a_disk_that_becomes_full_leaves_no_draft(
    restart: Callable[[str], PollingFeed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept before is there as it was."""

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), fd)

    restart(POLICY % ("b", "b"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        restart(POLICY % ("c", "c"))
    assert len(list((tmp_path / ".usageflow" / "spool").iterdir())) == 1
    assert matches(restart(POLICY % ("a", "a") + WRONG_B), "b")


def test_a_file_of_which_nothing_can_be_used_stops_the_start(
    feed: Callable[[Settings], PollingFeed],
    restart: Callable[[str], PollingFeed],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With every problem, and nothing metered in silence; unless the policies are kept."""
    (tmp_path / "p.toml").write_text(WRONG_B)
    with pytest.raises(PolicyFileError, match="no policy in it can be used") as refused:
        feed(Settings(policies="p.toml"))
    assert refused.value.problems[1:] == (
        'p.toml:2: policy "b" (#1): metric: is required',
        'p.toml:7: policy "b" (#1): metrik: is not known; did you mean "metric"?',
    )
    assert caplog.messages == []
    restart(POLICY % ("b", "b"))
    assert matches(restart(WRONG_B), "b")
    assert restart("# nothing is metered for now").loaded
