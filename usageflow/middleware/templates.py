"""From paths to templates: which segments of a path name a route, and which are values in it.

`tokens_of` decides for one path; `Templates` learns from many, and takes a position with too many
different names for a value. Pure: no request, no policy, no clock.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from usageflow.policies.routes import TEMPLATE_CHARS_MAX

VALUES_MAX: Final = 20
"""Different names at one position; more are values, though they do not look like it."""
ROUTED_VALUES_MAX: Final = 100
"""The same where the app's router told which segments are parameters: then they are files."""
SEGMENTS_MAX: Final = 30
"""Deepest path that becomes a template."""
NAME_CHARS_MAX: Final = 40
"""Longest segment that is a name."""
PARAMETER: Final = "{id}"
"""A parameter whose name is not known."""

_VALUE: Final = re.compile(
    r"\d[\dTZ.,:+_-]*"  # numbers, dates, times
    r"|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"  # UUIDs
    r"|(?=.*\d)[0-9a-fA-F]{12,}"  # hashes
    r"|(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_=-]{20,}"  # tokens
    r"|[A-Za-z]{1,10}[_-](?=.*\d)[A-Za-z0-9]+"  # acct_42
)
_UNWRITABLE: Final = re.compile(r"[{}*?#@\s]|^:|^\.\.?$|%[0-9A-Fa-f]{2}")
"""What a template cannot say literally (see `policies.routes`), and the `@` of an address."""
_PARAMETER_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ONE: Final = "{}"
_REST: Final = "{:path}"
_FINAL_SLASH: Final = ""
_NOT_NAMES: Final = (_ONE, _REST, _FINAL_SLASH)

Payload = TypeVar("Payload")


def looks_like_value(segment: str) -> bool:
    """Whether a segment is no name: a number, an id, an address, or what no template can say."""
    return (
        len(segment) > NAME_CHARS_MAX
        or _VALUE.fullmatch(segment) is not None
        or _UNWRITABLE.search(segment) is not None
        or not segment.isprintable()
    )


def tokens_of(path: str, parameters: Mapping[str, object]) -> list[str] | None:
    """The template of a path as its segments: names, `{name}` and, at the end, `{name:path}`.

    `parameters` are the path parameters that the app's router found; each names the segment that
    holds its value. None for a path that no template describes.
    """
    if path[:1] != "/" or "//" in path or len(path) > TEMPLATE_CHARS_MAX:
        return None
    segments = path.split("/")[1:]
    tokens = [PARAMETER if looks_like_value(segment) else segment for segment in segments]
    # From the right: what equals a value further left is more often the route's own name.
    free = len(segments)
    for name, value in reversed(list(parameters.items())):
        text = str(value).removeprefix("/")
        name = name if _PARAMETER_NAME.fullmatch(name) else PARAMETER[1:-1]  # noqa: PLW2901
        at = free - 1
        if "/" in text and path.endswith("/" + text):
            at -= text.count("/")
            tokens[at:] = [f"{{{name}:path}}"]
        else:
            while at >= 0 and segments[at] != text:
                at -= 1
            if at < 0:
                continue
            tokens[at] = f"{{{name}}}"
        free = at
    fits = len(tokens) <= SEGMENTS_MAX and len(text_of(tokens)) <= TEMPLATE_CHARS_MAX
    return tokens if fits else None


def text_of(tokens: Sequence[str]) -> str:
    """The template as a policy writes it; of parameters with one name the later get a number."""
    used: set[str] = set()
    parts = []
    for token in tokens:
        if token[:1] != "{":
            parts.append(token)
            continue
        name, colon, kind = token[1:-1].partition(":")
        free, count = name, 1
        while free in used:
            count += 1
            free = f"{name}_{count}"
        used.add(free)
        parts.append(f"{{{free}{colon}{kind}}}")
    return "/" + "/".join(parts)


def steps(template: str) -> list[str]:
    """The segments of a template's text."""
    return template[1:].split("/")


class _Place(Generic[Payload]):
    """One place in the tree: what was added there by method, and what follows.

    `closed`: the names that followed were values, so any other is one too.
    """

    __slots__ = ("children", "closed", "ends", "token")

    def __init__(self, token: str) -> None:
        self.token = token
        self.children: dict[str, _Place[Payload]] = {}
        self.ends: dict[str, Payload] = {}
        self.closed = False


class Found(NamedTuple, Generic[Payload]):
    """What is known of a path; not `sure` if a segment that may be a name was taken for a value."""

    payload: Payload | None
    sure: bool


class Templates(Generic[Payload]):
    """Templates with something for each method. `merge` makes one of two that became the same."""

    def __init__(self, merge: Callable[[Payload, Payload], Payload]) -> None:
        self.size = 0
        self.closings = 0
        """How often templates were merged: what was found before may be another's now."""
        self._merge = merge
        self._root: _Place[Payload] = _Place("")

    def find(self, method: str, path: str) -> Found[Payload]:
        """What was added for the template of this path, as far as can be told without the app."""
        place, sure = self._root, True
        for segment in path.split("/")[1:]:
            child = place.children.get(segment)
            if child is None:
                child = place.children.get(_ONE)
                if child is None:
                    rest = place.children.get(_REST)
                    return Found(rest.ends.get(method) if rest else None, sure=False)
                sure = sure and looks_like_value(segment)
            place = child
        return Found(place.ends.get(method), sure)

    def get(self, method: str, tokens: Sequence[str]) -> Payload | None:
        """What `add` would merge with."""
        place = self._root
        for token in tokens:
            child = place.children.get(_step(place, token))
            if child is None:
                return None
            place = child
        return place.ends.get(method)

    def add(
        self, method: str, tokens: Sequence[str], payload: Payload, *, routed: bool = False
    ) -> Payload:
        """Add under a template, merged with what is there; what is there afterwards.

        `routed`: the app's router told the parameters, so that names may be trusted longer.
        """
        values_max = ROUTED_VALUES_MAX if routed else VALUES_MAX
        place = self._root
        for token in tokens:
            key = _step(place, token)
            if key not in place.children:
                place.children[key] = _Place(token)
                self._close(place, values_max)
            place = place.children[_step(place, token)]
        self._put(place, method, payload)
        return place.ends[method]

    def items(self) -> Iterator[tuple[str, str, Payload]]:
        """(method, template, what was added) of all."""
        waiting: list[tuple[tuple[str, ...], _Place[Payload]]] = [((), self._root)]
        while waiting:
            tokens, place = waiting.pop()
            for method, payload in place.ends.items():
                yield method, text_of(tokens), payload
            waiting += [((*tokens, child.token), child) for child in place.children.values()]

    def _put(self, place: _Place[Payload], method: str, payload: Payload) -> None:
        if method in place.ends:
            place.ends[method] = self._merge(place.ends[method], payload)
        else:
            place.ends[method] = payload
            self.size += 1

    def _close(self, place: _Place[Payload], values_max: int) -> None:
        """Take the names that follow for values, if there are too many of them."""
        names = [key for key in place.children if key not in _NOT_NAMES]
        if len(names) <= (0 if place.closed else values_max):
            return
        place.closed = True
        self.closings += 1
        into = place.children.setdefault(_ONE, _Place(PARAMETER))
        for name in names:
            self._move(place.children.pop(name), into, values_max)

    def _move(self, place: _Place[Payload], into: _Place[Payload], values_max: int) -> None:
        """All that is under one place to under another."""
        for method, payload in place.ends.items():
            self.size -= 1
            self._put(into, method, payload)
        into.closed = into.closed or place.closed
        for key, child in place.children.items():
            if key in into.children:
                self._move(child, into.children[key], values_max)
            else:
                into.children[key] = child
        self._close(into, values_max)


def _step(place: _Place[Payload], token: str) -> str:
    """The child that a token leads to; parameters of one place are one, whatever their names."""
    if token[:1] == "{":
        return _REST if token.endswith(":path}") else _ONE
    return _ONE if place.closed and token != _FINAL_SLASH else token
