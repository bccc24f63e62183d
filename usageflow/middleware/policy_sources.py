"""Where an edge's policies are read from: a file or the server.

A source is used by the feed's thread alone. What it reads becomes a set by `Assembly`, which lends
it the process: environment variables, key sets, and how the app routes.
"""

import gc
import http.client
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, PolicyFileError
from usageflow.middleware.key_sets import JwksKeySets
from usageflow.policies import Policy, PolicyFile, PolicySet, parse_document, parse_file
from usageflow.policies.identity import key_servers, surroundings_problems
from usageflow.policies.paths import PathRules
from usageflow.policies.sources import JwtSource, MetadataSource
from usageflow.policies.surroundings import Surroundings
from usageflow.recorder import Http
from usageflow.recorder.sink import POLICIES_PATH, refusal

log = logging.getLogger("usageflow.middleware")

_paused: Final[list[bool]] = []
"""Not empty while the collector is off because of us. A list, as a fork may copy a held lock."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Policies are many objects without cycles: looking through all of them again and again while
    they are made takes half of the time.
    """
    was_enabled = gc.isenabled()
    if was_enabled:
        _paused.append(True)
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            _paused.clear()


def _resume_in_child() -> None:
    """A forked child does not have the thread that would enable the collector again."""
    if _paused:
        gc.enable()
        _paused.clear()


os.register_at_fork(after_in_child=_resume_in_child)


class Assembly:
    """Makes policy sets for this process and tells what is wrong with them."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, app: bool = True) -> None:
        """`app`: there is one here. Raises ConfigurationError for path rules that do not exist."""
        self._app = app
        self._keys_wait_s = settings.jwks_timeout_s
        self._key_servers: frozenset[str] = frozenset()
        self.keys = JwksKeySets(
            refresh_s=settings.jwks_refresh_s,
            cooldown_s=settings.jwks_cooldown_s,
            timeout_s=settings.jwks_timeout_s,
        )
        try:
            path_rules = PathRules.parse(settings.path_rules)
        except ValueError as error:
            raise ConfigurationError(f"USAGEFLOW_PATH_RULES: {error}") from None
        self._surroundings = Surroundings(
            environ=environ, keys=self.keys, path_rules=path_rules, tokens_max=settings.tokens_max
        )

    def build(
        self, policies: Sequence[tuple[Policy, str]], problems: Sequence[str], source: str
    ) -> PolicySet:
        """The set of these policies; what was left out or will not work is logged."""
        with collector_paused():
            built = PolicySet.build(policies, self._surroundings)
        for problem in (*problems, *built.problems):
            log.error("a policy is left out: %s", problem)
        in_force = len(policies) - len(built.problems)
        if in_force:
            log.info("policies in force from %s: %d", source, in_force)
        else:
            log.warning("no policies in force from %s: nothing is metered", source)
        written = [policy for policy, _ in policies if policy.mode != "off"]
        self._warn(written)
        self._key_servers = key_servers(written)
        self.keys.prepare(self._key_servers)
        return built

    def await_keys(self) -> None:
        """Before a set is put in force: give new key servers the time to answer. Blocks."""
        self.keys.wait(self._keys_wait_s)

    def forget_keys(self) -> None:
        """After a set is in force: let go in time of the keys that none of its policies names."""
        self.keys.retain(self._key_servers)

    def _warn(self, policies: Sequence[Policy]) -> None:
        for policy in policies:
            for problem in surroundings_problems(policy, self._surroundings):
                log.error(
                    'policy "%s" cannot identify by one of its sources: %s', policy.name, problem
                )
            for source in policy.identify:
                if isinstance(source, JwtSource) and source.unverified:
                    log.warning('policy "%s" trusts tokens that nobody verifies', policy.name)
            if not self._app and all(map(_asks_app, policy.identify)):
                log.warning(
                    'policy "%s" identifies only by what an app knows, and a proxy has none: its '
                    "requests go to the inbox",
                    policy.name,
                )


def _asks_app(source: object) -> bool:
    return isinstance(source, MetadataSource) and source.name is not None


class Source(Protocol):
    """Reads policies from somewhere, on the feed's thread."""

    def read(self) -> PolicySet | None:
        """The set, or None if it has not changed. Raises UsageFlowError with the reason."""

    def close(self) -> None:
        """Let go of what reading needs; called on the thread that reads."""


class FileSource:
    """A policy file; read again when its modification time, size or inode changes."""

    def __init__(self, path: Path, assembly: Assembly) -> None:
        self._path = path
        self._assembly = assembly
        self._seen: tuple[int, int, int] | None = None
        self._good: list[tuple[Policy, str]] = []

    def read(self) -> PolicySet | None:
        """See Source."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return None
            text = self._path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyFileError(str(self._path), [f"{self._path}: {error}"]) from error
        # Seen before it is parsed: a broken file is told once, not at every poll.
        self._seen = seen
        with collector_paused():
            parsed = parse_file(text, str(self._path))
        self._good = [*parsed.policies, *self._before(parsed)]
        return self._assembly.build(self._good, parsed.problems, str(self._path))

    def _before(self, parsed: PolicyFile) -> list[tuple[Policy, str]]:
        """What policies that are wrong now were before the mistake: they stay in force.

        Otherwise a less specific policy would count their requests, or none would.
        """
        names = parsed.left_out.difference(policy.name for policy, _ in parsed.policies)
        kept = [(policy, version) for policy, version in self._good if policy.name in names]
        for policy, version in kept:
            log.error('policy "%s" stays in force as it was (%s)', policy.name, version)
        return kept

    def close(self) -> None:
        """Nothing is kept open."""


class ServerSource:
    """The server's policies for this API key; the last good answer is kept in `cache`."""

    def __init__(self, connection: Http, cache: Path, assembly: Assembly) -> None:
        self._connection = connection
        self._cache = cache
        self._assembly = assembly
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
        policies = self._built(content, "the server")
        self._etag = headers.get("etag", "")
        self._keep(content)
        return policies

    def close(self) -> None:
        """See Source."""
        self._connection.close()

    def cached(self) -> PolicySet | None:
        """The last good answer of an earlier run, if there is one that can be read."""
        try:
            return self._built(self._cache.read_bytes(), str(self._cache))
        except FileNotFoundError:
            return None
        except (OSError, ConfigurationError) as error:
            log.warning("the policies kept in %s cannot be used: %s", self._cache, error)
            return None

    def _built(self, content: bytes, source: str) -> PolicySet:
        with collector_paused():
            document = parse_document(content, source)
        return self._assembly.build(document.policies, document.problems, source)

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
