"""Counts the endpoints that no policy matches, and looks at a few of their exchanges.

Most requests cost a lookup and a count. The first requests of an endpoint, and fewer and fewer of
the later ones, are looked at closely: what has a name or a type goes into a sketch. No value
outlives the process, and of a path only what looks like a route. Sends nothing: `take` gives what
is new, as a report.
"""

import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final

import msgspec

from usageflow._types import Scope
from usageflow.middleware.endpoints import (
    NO_SKETCH,
    OTHERS,
    REPORT_BYTES_MAX,
    Endpoint,
    write_report,
)
from usageflow.middleware.observation import Observation
from usageflow.middleware.sketch import Sketch, merged, sketch_of
from usageflow.middleware.templates import Templates, steps, tokens_of
from usageflow.policies.routes import TEMPLATE_CHARS_MAX
from usageflow.recorder.process import after_fork

log = logging.getLogger("usageflow.middleware")

LOOKS_FIRST: Final = 5
"""The first requests of an endpoint are all looked at; then one each time their number doubles."""
LOOK_EVERY: Final = 1_000
"""Most requests between two looks."""
LOOKS_AT_ONCE_MAX: Final = 16
"""Exchanges looked at closely at one moment; bounds the memory that their bodies take."""
PATHS_MAX: Final = 10_000
"""Paths whose endpoint is remembered, some 2 MB. If they are more, all are learned again."""
METHOD_CHARS_MAX: Final = 32
"""Longest method that is told apart; the longest registered one (IANA, HTTP methods) has 17."""
PROVES_NOTHING: Final = frozenset((301, 307, 308, 401, 403, 404, 405, 429))
"""Answers to requests for what is no endpoint, too: moved, refused, not there, too many."""


class _Tally:
    """The requests of one endpoint, or of one path until an answer proves that it is one.

    Only the event loop counts `requests`; `told` is how many of them are in a report.
    """

    __slots__ = ("known", "next_look", "requests", "routed", "sketch", "told")

    def __init__(self, told: int = 0, sketch: Sketch = NO_SKETCH) -> None:
        self.requests = 0
        self.told = told
        self.sketch = sketch
        self.next_look = 1
        self.routed = False
        self.known = False

    def counts(self) -> bool:
        """One more request; whether it should be looked at."""
        self.requests += 1
        return self.requests >= self.next_look and self.due(self.requests)

    def due(self, requests: int) -> bool:
        """Whether to look at the last of so many; the next look is then at a later one."""
        if requests < self.next_look:
            return False
        self.next_look = requests + (1 if requests < LOOKS_FIRST else min(requests, LOOK_EVERY))
        return True

    def absorb(self, other: "_Tally") -> "_Tally":
        """Both as one."""
        if other.requests:  # nothing to add where another thread gives back what was told
            self.requests += other.requests
        self.told += other.told
        self.sketch = merged(self.sketch, other.sketch)
        self.routed = self.routed or other.routed
        return self


class Discovery:
    """The unmatched endpoints of one middleware, at most `endpoints_max` of them told apart.

    `begin` and what it gives belong to the event loop; `take` and `restore` to one other thread.
    Nothing here raises into the app.
    """

    def __init__(self, endpoints_max: int) -> None:
        self._endpoints_max = endpoints_max
        self._complained = False
        self._begin_anew()
        after_fork(self._begin_anew)

    def _begin_anew(self) -> None:
        """Also in a forked child: what the parent counted is the parent's to tell."""
        self._lock = threading.Lock()
        self._templates: Templates[_Tally] = Templates(_Tally.absorb)
        self._paths: dict[tuple[str, str], _Tally] = {}
        self._others = _Tally()
        self._others.known = True
        self._others.next_look = sys.maxsize
        self._templates.add(OTHERS[0], steps(OTHERS[1]), self._others)
        self._taken: list[Endpoint] = []
        self._looks = 0

    def begin(self, scope: Scope, path: str) -> Observation | None:
        """Count an unmatched HTTP request for this route path.

        If the request is to be looked at, the app must be called through what is returned.
        """
        try:
            tally = self._paths.get((scope["method"], path))
            if tally is None:
                return self._first(scope, path)
            return self._observed(tally, scope, path) if tally.counts() else None
        except Exception as error:  # noqa: BLE001 - discovery must not break the app
            self._complain(error)
            return None

    def take(self) -> bytes | None:
        """A report of what is new since the last one, or None if nothing is.

        It counts as delivered unless `restore` is called before the next `take`.
        """
        with self._lock:
            news = list(self._news())
        lines: list[bytes] = []
        size = 0
        for endpoint in news:
            line = msgspec.json.encode(endpoint)
            size += len(line)
            if lines and size > REPORT_BYTES_MAX:
                break
            lines.append(line)
        self._taken = news[: len(lines)]
        self._give_back(news[len(lines) :])
        return write_report(lines) if lines else None

    def restore(self) -> None:
        """The last report was not delivered: the next one tells it again."""
        self._give_back(self._taken)
        self._taken = []

    def _first(self, scope: Scope, path: str) -> Observation | None:
        """A path that is not remembered. Only the app knows what a name in it stands for."""
        if len(path) > TEMPLATE_CHARS_MAX or len(scope["method"]) > METHOD_CHARS_MAX:
            self._others.requests += 1
            return None
        found, sure = self._templates.find(scope["method"], path)
        if found is not None and sure:
            return self._observed(found, scope, path) if found.counts() else None
        tally = _Tally()
        tally.counts()
        self._remember(scope["method"], path, tally)
        closely = found is None or found.due(found.requests + 1)
        return self._observed(tally, scope, path, closely=closely)

    def _observed(
        self, tally: "_Tally", scope: Scope, path: str, *, closely: bool = True
    ) -> Observation | None:
        closely = closely and self._looks < LOOKS_AT_ONCE_MAX
        if tally.known and not closely:
            return None
        self._looks += closely
        return Observation(scope, path, closely=closely, finish=partial(self._finish, tally))

    def _finish(self, tally: "_Tally", seen: Observation) -> None:
        """The app has answered, or failed to."""
        self._looks -= seen.closely
        try:
            self._learn(tally, seen)
        except Exception as error:  # noqa: BLE001 - discovery must not break the app
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            log.error("an endpoint could not be observed; requests are served", exc_info=error)

    def _learn(self, tally: "_Tally", seen: Observation) -> None:
        if not tally.known:
            preflight = seen.scope["method"] == "OPTIONS"
            if seen.status is None or seen.status in PROVES_NOTHING or preflight:
                return
            tally = self._prove(tally, seen)
        if tally is self._others or not seen.closely or seen.status is None:
            return
        sketch = sketch_of(seen.look(seen.status))
        with self._lock:
            tally.sketch = merged(tally.sketch, sketch)

    def _prove(self, tally: "_Tally", seen: Observation) -> "_Tally":
        """The path is of an endpoint: its tally becomes the endpoint's, or part of it."""
        parameters = seen.scope.get("path_params")
        routed = isinstance(parameters, Mapping)
        tokens = tokens_of(seen.path, parameters if isinstance(parameters, Mapping) else {})
        method = seen.scope["method"]
        tally.known, tally.routed = True, routed
        with self._lock:
            closings = self._templates.closings
            if tokens is None or not self._has_room(method, tokens):
                tally = self._others.absorb(tally)
            else:
                tally = self._templates.add(method, tokens, tally, routed=routed)
        if self._templates.closings != closings:
            self._paths.clear()
        self._remember(method, seen.path, tally)
        return tally

    def _has_room(self, method: str, tokens: list[str]) -> bool:
        return (
            self._templates.size <= self._endpoints_max  # the others are one of them
            or self._templates.get(method, tokens) is not None
        )

    def _remember(self, method: str, path: str, tally: "_Tally") -> None:
        if len(self._paths) >= PATHS_MAX:
            self._paths.clear()
        self._paths[method, path] = tally

    def _news(self) -> Iterator[Endpoint]:
        for method, template, tally in self._templates.items():
            requests, sketch = tally.requests - tally.told, tally.sketch
            if requests or sketch != NO_SKETCH:
                tally.told += requests
                tally.sketch = NO_SKETCH
                yield Endpoint(method, template, requests, tally.routed, sketch)

    def _give_back(self, endpoints: Iterable[Endpoint]) -> None:
        with self._lock:
            for one in endpoints:
                tally = _Tally(told=-one.requests, sketch=one.sketch)
                tally.known, tally.routed = True, one.routed
                self._templates.add(one.method, steps(one.template), tally, routed=one.routed)
