"""Where an edge's policies come from: a file or the server, kept fresh by one thread.

`current` is replaced as a whole, so a request sees one set from beginning to end. A source that
fails or is malformed later leaves the last good set in force. The server's set is kept on disk
beside the spool, so that an app starts metered while the server is down.
"""

import hashlib
import http.client
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, DeliveryError, PolicyFileError
from usageflow.policies import Policy, PolicySet, parse_document, parse_file
from usageflow.recorder import Http
from usageflow.recorder.process import after_fork
from usageflow.recorder.sink import POLICIES_PATH, refusal

log = logging.getLogger("usageflow.middleware")

FIRST_POLL_S: Final = 0.2
"""Pause between tries until the first policies are there."""
CLOSE_S_MAX: Final = 1.0
"""Wait for a thread that may be in the middle of a request; it is a daemon and may outlive it."""


class Feed(Protocol):
    """Gives the policy set in force."""

    current: PolicySet
    loaded: bool

    def start(self) -> None:
        """Begin to keep it fresh; may be called again."""

    def close(self) -> None:
        """Stop; the current set stays."""


class FixedFeed:
    """One policy set for ever: for tests and for apps that build their policies in code."""

    def __init__(self, policies: PolicySet) -> None:
        self.current = policies
        self.loaded = True

    def start(self) -> None:
        """Nothing to keep fresh."""

    def close(self) -> None:
        """Nothing to stop."""


class Source(Protocol):
    """Reads policies from somewhere, on the feed's thread."""

    def read(self) -> PolicySet | None:
        """The set, or None if it has not changed. Raises UsageFlowError with the reason."""

    def close(self) -> None:
        """Let go of what reading needs; called on the thread that reads."""


class PollingFeed:
    """Asks a source again and again, on one daemon thread."""

    def __init__(self, source: Source, poll_s: float, first: PolicySet | None) -> None:
        self.current = first or PolicySet.EMPTY
        self.loaded = first is not None
        self._source = source
        self._poll_s = poll_s
        self._complaint = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        after_fork(self._forget_parent)

    def start(self) -> None:
        """Begin polling; may be called again."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="usageflow-feed", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop polling; the current set stays in force. Waits a moment for the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S_MAX)
        self._thread = None

    def poll(self) -> None:
        """Ask once; a failure is told once and leaves the current set in force."""
        try:
            policies = self._source.read()
        except (DeliveryError, ConfigurationError, OSError) as error:
            self._complain(str(error), trace=None)
            return
        except Exception as error:  # noqa: BLE001 - our own fault; the thread must live
            self._complain(repr(error), trace=error)
            return
        self._complaint = ""
        if policies is not None:
            self.current = policies
            self.loaded = True

    def _complain(self, complaint: str, trace: Exception | None) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            log.error("policies are not refreshed: %s", complaint, exc_info=trace)

    def _run(self) -> None:
        stop = self._stop
        while not stop.is_set():
            self.poll()
            stop.wait(self._poll_s if self.loaded else FIRST_POLL_S)
        self._source.close()

    def _forget_parent(self) -> None:
        """In a forked child, which has no thread: `start` makes one, should it serve requests."""
        self._thread = None
        self._stop = threading.Event()


class FileSource:
    """A policy file; read again when its modification time, size or inode changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> PolicySet | None:
        """See Source."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return None
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyFileError(str(self._path), [f"{self._path}: {error}"]) from error
        # Seen before it is parsed: a broken file is told once, not at every poll.
        self._seen = seen
        parsed = parse_file(text, str(self._path))
        return _build(parsed.policies, parsed.problems, str(self._path))

    def close(self) -> None:
        """Nothing is kept open."""


class ServerSource:
    """The server's policies for this API key; the last good answer is kept in `cache`."""

    def __init__(self, connection: Http, cache: Path) -> None:
        self._connection = connection
        self._cache = cache
        self._etag = ""

    def read(self) -> PolicySet | None:
        """See Source."""
        status, headers, content = self._connection.request(
            "GET", POLICIES_PATH, {"if-none-match": self._etag} if self._etag else {}
        )
        if status == http.client.NOT_MODIFIED:
            return None
        if status != http.client.OK:
            raise refusal(status, headers, content)
        policies = _from_document(content, "the server")
        self._etag = headers.get("etag", "")
        self._keep(content)
        return policies

    def close(self) -> None:
        """See Source."""
        self._connection.close()

    def cached(self) -> PolicySet | None:
        """The last good answer of an earlier run, if there is one that can be read."""
        try:
            return _from_document(self._cache.read_bytes(), str(self._cache))
        except FileNotFoundError:
            return None
        except (OSError, ConfigurationError) as error:
            log.warning("the policies kept in %s cannot be used: %s", self._cache, error)
            return None

    def _keep(self, content: bytes) -> None:
        draft = self._cache.with_suffix(f".{os.getpid()}.new")
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._cache)
        except OSError as error:
            log.warning("the policies cannot be kept in %s: %s", self._cache, error)


def open_feed(settings: Settings) -> PollingFeed:
    """The feed these settings describe.

    A policy file is read at once and an unreadable one raises PolicyFileError, so that a mistake
    shows at start. Raises ConfigurationError if neither a file nor a server is set.
    """
    if settings.policies is not None:
        file = FileSource(Path(settings.policies))
        return PollingFeed(file, settings.policy_poll_s, file.read())
    if settings.server is None or settings.api_key is None:
        raise ConfigurationError(
            "no policies: set server and api_key (USAGEFLOW_SERVER, USAGEFLOW_API_KEY), or "
            "policies (USAGEFLOW_POLICIES) for a policy file"
        )
    connection = Http(settings.server, settings.api_key, timeout_s=settings.ship_timeout_s)
    # The key decides which policies are given, so it is part of what the cache is for.
    holder = hashlib.sha256(f"{settings.server}\n{settings.api_key}".encode()).hexdigest()[:12]
    server = ServerSource(connection, settings.spool_path / f"policies-{holder}.json")
    return PollingFeed(server, settings.policy_poll_s, server.cached())


def _from_document(content: bytes, source: str) -> PolicySet:
    document = parse_document(content, source)
    return _build(document.policies, document.problems, source)


def _build(
    policies: Sequence[tuple[Policy, str]], problems: Sequence[str], source: str
) -> PolicySet:
    built = PolicySet.build(policies)
    for problem in (*problems, *built.problems):
        log.error("a policy is left out: %s", problem)
    in_force = len(policies) - len(built.problems)
    if in_force:
        log.info("policies in force from %s: %d", source, in_force)
    else:
        log.warning("no policies in force from %s: nothing is metered", source)
    return built
