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
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, PolicyFileError
from usageflow.middleware.kept_policies import Kept
from usageflow.middleware.key_sets import JwksKeySets
from usageflow.policies import (
    Policy,
    PolicyFile,
    PolicySet,
    parse_document,
    parse_file,
    write_document,
)
from usageflow.policies.claims import Claims
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
            self.path_rules = PathRules.parse(settings.path_rules)
        except ValueError as error:
            raise ConfigurationError(f"USAGEFLOW_PATH_RULES: {error}") from None
        self._surroundings = Surroundings(
            environ=environ,
            keys=self.keys,
            path_rules=self.path_rules,
            tokens_max=settings.tokens_max,
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


class _Memory(msgspec.Struct):
    """What is kept of a file beside its policies: since when those that are wrong by now are so."""

    wrong_since: dict[str, datetime] = {}


class FileSource:
    """A policy file; read again when its modification time, size or inode changes.

    A policy that is wrong stays in force as it was before, also over a restart: `kept` has it.
    """

    def __init__(self, path: Path, assembly: Assembly, kept: Kept) -> None:
        self._path = path
        self._assembly = assembly
        self._kept = kept
        self._seen: tuple[int, int, int] | None = None
        self._good: list[tuple[Policy, str]] = []
        self._wrong_since: dict[str, datetime] = {}
        self._document = b""

    def read(self) -> PolicySet | None:
        """See Source. The first time, PolicyFileError also tells that no policy can be used.

        Only later is anything kept: an app may be made without ever serving.
        """
        first = self._seen is None
        text = self._changed()
        built = None if text is None else self._load(text, first=first)
        if not first:
            self._kept.keep(self._document)
        return built

    def _changed(self) -> str | None:
        """The text of the file, unless it is the one that was read before."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return None
            text = self._path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            problem = f"{self._path}: cannot be read: {reason}"
            raise PolicyFileError(str(self._path), [problem]) from error
        # Seen before it is parsed: a broken file is told once, not at every poll.
        self._seen = seen
        return text

    def _load(self, text: str, *, first: bool) -> PolicySet:
        source = str(self._path)
        with collector_paused():
            parsed = parse_file(text, source)
        if first:
            self._good, self._wrong_since = self._kept.recall(_remembered) or ([], {})
        staying = self._staying(parsed)
        self._good = [*parsed.policies, *staying]
        if first and parsed.problems and not self._good:
            headline = f"{source}: no policy in it can be used"
            raise PolicyFileError(source, [headline, *parsed.problems])
        now = datetime.now(UTC)
        self._wrong_since = {
            policy.name: self._wrong_since.get(policy.name, now) for policy, _ in staying
        }
        left_out = self._tell(staying, parsed.problems)
        built = self._assembly.build(self._good, left_out, source)
        self._document = _document(self._good, self._wrong_since)
        return built

    def _staying(self, parsed: PolicyFile) -> list[tuple[Policy, str]]:
        """What policies that are wrong now were before the mistake: they stay in force.

        Otherwise a less specific policy would count their requests, or none would. What another
        policy claims by now is that one's.
        """
        claims = Claims(self._assembly.path_rules)
        for policy, _ in parsed.policies:
            claims.make(policy)
        return [
            (policy, version)
            for policy, version in self._good
            if policy.name in parsed.left_out and claims.make(policy) is None
        ]

    def _tell(self, staying: Sequence[tuple[Policy, str]], problems: Sequence[str]) -> list[str]:
        """Log what stays in force and why; the other problems."""
        others = list(problems)
        for policy, version in staying:
            own = [problem for problem in others if self._is_of(policy, problem)]
            others = [problem for problem in others if problem not in own]
            log.error(
                'policy "%s" stays in force as it was (%s), it is wrong since %s UTC: %s',
                policy.name,
                version,
                f"{self._wrong_since[policy.name]:%Y-%m-%d %H:%M}",
                "; ".join(own),
            )
        return others

    def _is_of(self, policy: Policy, problem: str) -> bool:
        """Whether FILE:LINE of a problem is followed by this policy."""
        _, _, told = problem.removeprefix(f"{self._path}:").partition(": ")
        return told.startswith(f'policy "{policy.name}" (#')

    def close(self) -> None:
        """Nothing is kept open."""


def _remembered(
    content: bytes, source: str
) -> tuple[list[tuple[Policy, str]], dict[str, datetime]]:
    """The policies and since when they are wrong. One that cannot be read any more is not there."""
    policies = list(parse_document(content, source).policies)
    return policies, msgspec.json.decode(content, type=_Memory).wrong_since


def _document(policies: Sequence[tuple[Policy, str]], wrong_since: dict[str, datetime]) -> bytes:
    """What `_remembered` reads."""
    document = msgspec.json.decode(write_document(policies), type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**document, "wrong_since": wrong_since})


class ServerSource:
    """The server's policies for this API key; the last good answer is kept."""

    def __init__(self, connection: Http, assembly: Assembly, kept: Kept) -> None:
        self._connection = connection
        self._assembly = assembly
        self._kept = kept
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
        self._kept.keep(content)
        return policies

    def close(self) -> None:
        """See Source."""
        self._connection.close()

    def cached(self) -> PolicySet | None:
        """The last good answer of an earlier run, if there is one that can be read."""
        return self._kept.recall(self._built)

    def _built(self, content: bytes, source: str) -> PolicySet:
        with collector_paused():
            document = parse_document(content, source)
        return self._assembly.build(document.policies, document.problems, source)
