"""The keys behind JWKS URLs, kept fresh by one thread. A request asks and never waits.

Keys that a server no longer has are gone at the next fetch; a server that fails leaves its last
good set in force. A token can ask for a fetch by naming an unknown key, but not often. Verifies no
token.
"""

import http.client
import itertools
import logging
import math
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from usageflow._version import __version__
from usageflow.policies.reason import Reason
from usageflow.recorder.process import after_fork

if TYPE_CHECKING:
    from jwt import PyJWK

    from usageflow.policies.jwk_set import JwkSet

log = logging.getLogger("usageflow.middleware")

SET_BYTES_MAX: Final = 1_048_576
"""Largest key set; real ones have some 1 to 20 KB."""
BACKOFF_S_MIN: Final = 1.0
"""First pause after a failure; doubles up to `refresh_s`."""
JITTER: Final = 0.1
"""Part of a pause that is left to chance, so that many edges do not ask at once."""
CLOSE_S_MAX: Final = 1.0
"""Wait for a thread that may be in the middle of a fetch; it is a daemon and may outlive it."""
COMPLAINT_CHARS_MAX: Final = 200
"""Of an error that may repeat what a server answered."""
_CHUNK_BYTES: Final = 65_536


class _KeySet:
    """What is known about one URL. Written by the thread, but for the first three flags."""

    def __init__(self, url: str, *, named: bool) -> None:
        self.url = url
        self.named = named
        """By a policy in force; any other is let go of once nobody has asked for a while."""
        self.asked = not named
        """Since the last fetch, though no policy in force names it."""
        self.wanted = False
        """A token named a key that is not there."""
        self.keys: JwkSet | None = None
        self.generation = 0
        self.tried = False
        self.due_s = 0.0
        self.sought_s = -math.inf
        """When it was last fetched because of such a token: the first one fetches at once."""
        self.pause_s = BACKOFF_S_MIN
        self.complaint = ""
        self.passed_over: tuple[str, ...] = ()


class JwksKeySets:
    """See policies.surroundings.KeySets. Times in seconds; at most one fetch is under way.

    A set is fetched as soon as its URL is known and then every `refresh_s`; because of unknown key
    ids at most once per `cooldown_s`; no answer is waited for longer than about `timeout_s`. A set
    that no policy names any more stays until its next fetch would be due, and as long as requests
    that began under the old policies ask for it.
    """

    def __init__(self, refresh_s: float, cooldown_s: float, timeout_s: float) -> None:
        self._refresh_s = refresh_s
        self._cooldown_s = cooldown_s
        self._timeout_s = timeout_s
        self._sets: dict[str, _KeySet] = {}
        self._generations = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._news = threading.Condition()
        after_fork(self._forget_parent)

    def prepare(self, urls: Iterable[str]) -> None:
        """Have the keys at these URLs as well; they are fetched at once."""
        wanted = frozenset(urls)
        with self._news:
            for url in wanted.intersection(self._sets):
                self._sets[url].named = True
        self._add(_KeySet(url, named=True) for url in wanted)

    def retain(self, urls: Iterable[str]) -> None:
        """Let go of the keys at all other URLs in time: no policy names them any more."""
        wanted = frozenset(urls)
        with self._news:
            for url, each in self._sets.items():
                each.named = url in wanted

    def find(self, url: str, kid: str | None) -> "PyJWK | Reason":
        """See KeySets."""
        keys = self._set(url).keys
        if keys is None:
            return Reason(f"the keys at {url} are not there yet")
        if kid is None:
            return keys.only or Reason(f"the token names none of the several keys at {url}")
        return keys.by_id.get(kid) or self._unknown(url)

    def generation(self, url: str) -> int:
        """See KeySets."""
        return self._set(url).generation

    def start(self) -> None:
        """Keep the sets fresh from now on; may be called again, and after `close`."""
        if self._thread is None:
            self._stop = threading.Event()
        if self._sets:
            self._go_on()

    def wait(self, timeout_s: float) -> bool:
        """Whether all sets are there. Blocks until each was tried once: for start-up only."""
        with self._news:
            self._news.wait_for(lambda: all(each.tried for each in self._sets.values()), timeout_s)
        return all(each.keys is not None for each in self._sets.values())

    def close(self) -> None:
        """Stop; the keys stay as they are. Waits a moment for the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S_MAX)
        self._thread = None

    def _forget_parent(self) -> None:
        """In a forked child, which has no thread: its first need of a key starts one."""
        self._thread = None
        self._stop, self._wake = threading.Event(), threading.Event()
        self._news = threading.Condition()

    def _set(self, url: str) -> _KeySet:
        found = self._sets.get(url)
        if found is None:  # of a policy that was replaced long ago, or of a set built by hand
            self._add([_KeySet(url, named=False)])
            return self._sets.get(url) or _KeySet(url, named=False)
        if not found.named:
            found.asked = True
        self._go_on()
        return found

    def _add(self, sets: Iterable[_KeySet]) -> None:
        with self._news:
            new = {each.url: each for each in sets if each.url not in self._sets}
            self._sets = {**self._sets, **new}
        if new:
            self._go_on()
            self._wake.set()

    def _go_on(self) -> None:
        """Start the thread on first need, and in a forked child; not after `close`."""
        if self._thread is not None or self._stop.is_set():
            return
        with self._news:
            if self._thread is None:
                self._wake = threading.Event()
                arguments = self._stop, self._wake
                self._thread = threading.Thread(
                    target=self._run, args=arguments, name="usageflow-keys", daemon=True
                )
                self._thread.start()

    def _unknown(self, url: str) -> Reason:
        wanting = self._set(url)
        if not wanting.wanted:
            wanting.wanted = True
            self._wake.set()
        return Reason(f"the key that the token names is not among those at {url}")

    # The thread

    def _run(self, stop: threading.Event, wake: threading.Event) -> None:
        while not stop.is_set():
            now_s = time.monotonic()
            for each in list(self._sets.values()):
                if self._due_s(each) <= now_s and not stop.is_set() and not self._let_go(each):
                    self._refresh(each)
            due_s = min((self._due_s(each) for each in list(self._sets.values())), default=None)
            wake.wait(None if due_s is None else max(0.0, due_s - time.monotonic()))
            wake.clear()

    def _let_go(self, each: _KeySet) -> bool:
        """Whether nobody needs this set any more: then it is gone."""
        with self._news:
            idle = not (each.named or each.asked)
            if idle:
                self._sets = {url: one for url, one in self._sets.items() if one is not each}
                self._news.notify_all()
            return idle

    def _due_s(self, each: _KeySet) -> float:
        if each.wanted:
            return min(each.due_s, each.sought_s + self._cooldown_s)
        return each.due_s

    def _refresh(self, each: _KeySet) -> None:
        """Fetch once; a failure is told once and leaves the last good set in force."""
        sought = each.wanted
        each.wanted = each.asked = False  # before the fetch: what is asked afterwards counts
        try:
            keys = self._parsed(each, fetch(each.url, self._timeout_s))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._failed(each, str(error)[:COMPLAINT_CHARS_MAX] or repr(error), None)
        except Exception as error:  # noqa: BLE001 - our own fault; the thread must live
            self._failed(each, repr(error), error)
        else:
            if each.keys is None or each.keys.content != keys.content:
                each.keys = keys
                each.generation = next(self._generations)  # after the keys: who sees it sees them
            each.complaint, each.pause_s = "", BACKOFF_S_MIN
            each.due_s = time.monotonic() + _jittered(self._refresh_s)
        if sought:
            each.sought_s = time.monotonic()
        with self._news:
            each.tried = True
            self._news.notify_all()

    def _failed(self, each: _KeySet, complaint: str, trace: Exception | None) -> None:
        if complaint != each.complaint:
            each.complaint = complaint
            log.error("the keys at %s are not refreshed: %s", each.url, complaint, exc_info=trace)
        each.due_s = time.monotonic() + _jittered(each.pause_s)
        each.pause_s = min(each.pause_s * 2, self._refresh_s)

    def _parsed(self, each: _KeySet, content: bytes) -> "JwkSet":
        # Loads PyJWT and cryptography, 0.1 s: only who has a key server pays for them.
        from usageflow.policies.jwk_set import parse_jwk_set  # noqa: PLC0415 - see above

        keys = parse_jwk_set(content)
        if keys.problems != each.passed_over:
            each.passed_over = keys.problems
            for problem in keys.problems:
                log.warning("a key at %s is passed over: %s", each.url, problem)
        return keys


def fetch(url: str, timeout_s: float) -> bytes:
    """The content at a URL. Raises OSError, HTTPException or ValueError if there is none to trust.

    Redirects are not followed and no proxy is used: keys come from where the policy says.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None  # noqa: S101 - the policy's model has seen to it
    deadline_s = time.monotonic() + timeout_s
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port or kind.default_port)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"accept": "application/json", "user-agent": f"usageflow/{__version__}"}
    plain = socket.create_connection((connection.host, connection.port), timeout_s)
    connection.sock = plain
    try:
        with _ended_at(deadline_s, plain):
            if secure:
                context = ssl.create_default_context()
                connection.sock = context.wrap_socket(plain, server_hostname=parts.hostname)
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise ValueError(f"the server answered {response.status}")
            return _read(response)
    finally:
        connection.close()


@contextmanager
def _ended_at(deadline_s: float, connected: socket.socket) -> Iterator[None]:
    """Until then the connection may be used; what still uses it raises TimeoutError.

    A socket's own timeout is for one read: a server that drips, be it in the handshake, the head or
    the body of its answer, would hold up the other URLs.
    """
    over = threading.Event()
    same = connected.dup()  # TLS takes `connected` away

    def end() -> None:
        over.set()
        with suppress(OSError):  # the server may have left
            same.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline_s - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not over.is_set():
            raise
    finally:
        timer.cancel()
        timer.join()  # else it might end another connection, under the number of this one
        same.close()
    if over.is_set():
        raise TimeoutError("the answer takes too long")


def _read(response: http.client.HTTPResponse) -> bytes:
    """The body, bounded in size."""
    content = b""
    while chunk := response.read1(_CHUNK_BYTES):
        content += chunk
        if len(content) > SET_BYTES_MAX:
            raise ValueError(f"the answer has more than {SET_BYTES_MAX} bytes")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return content


def _jittered(pause_s: float) -> float:
    return pause_s * (1 + JITTER * (2 * random.random() - 1))  # noqa: S311 - not a secret
