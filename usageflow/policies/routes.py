"""`METHOD /template`: reading it, and finding the templates a request matches.

Matches the segments that `paths` made of a request's path, as Starlette matches them unless path
rules say otherwise; a template never sees the query string. Knows nothing of policies: a router
holds any values. No regular expression runs for a request, except for typed parameters.

    /users/:id    /users/{id}    one segment that is not empty, as a parameter
    /n/{id:int}                  one segment of that form: int, float, uuid (str is the default)
    /users/*/x                   any one segment that is not empty
    /files/*                     the rest of the path, one or more characters
    /files/{rest:path}           the rest of the path, perhaps empty, as a parameter
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from usageflow.policies.paths import CASE, FINAL_SLASH, NEWLINE, WERKZEUG

TEMPLATE_CHARS_MAX: Final = 500
"""Longest template; it is recorded in each event as its route (events.TEXT_CHARS_MAX)."""

ROUTES_CACHED_MAX: Final = 8_192
"""Parsed routes remembered: a route is read once for each question a policy is asked while it is
loaded. Some 8 MB when full."""

_ALONE = "ANY"
_TOKEN = re.compile(r"[A-Z0-9!#$%&'*+.^_`|~-]{1,32}")
"""A method as in RFC 9110, section 9.1; the longest registered one has 16 characters."""
REGISTERED_METHODS: Final = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "WEBSOCKET",
)
"""Methods that people mean (IANA's registry), and ours for WebSockets. Others match as well."""
_PARAMETER = re.compile(r":([^:{}]*)|\{([^:{}]*)(?::([^:{}]*))?\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Kind = Literal["static", "int", "float", "uuid", "str", "*", "rest", "path"]
Shape: TypeAlias = tuple[tuple[Kind, str], ...]
"""The kind of each segment, and the text of those that are fixed."""
_BRANCHES: Final = ("int", "float", "uuid", "str", "*")
"""Kinds that take one segment, the most specific first; the first three ask for a form."""
_Accepts: TypeAlias = Callable[[str], object]
_UUID: Final = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
_STARLETTE: Final[Mapping[Kind, _Accepts]] = {
    "int": lambda segment: segment.isascii() and segment.isdigit(),
    "float": re.compile(r"[0-9]+(\.[0-9]+)?").fullmatch,
    "uuid": re.compile(_UUID).fullmatch,
}
_WERKZEUG: Final[Mapping[Kind, _Accepts]] = {
    "int": re.compile(r"\d+").fullmatch,
    "float": re.compile(r"\d+\.\d+").fullmatch,
    "uuid": re.compile(_UUID.replace("-?", "-")).fullmatch,
}


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed path template. `parameters` gives each name its segment's index.

    `shape` is equal for templates that match the same paths, whatever their parameters are called.
    """

    text: str
    shape: Shape
    parameters: Mapping[str, int]

    def value(self, name: str, segments: Sequence[str]) -> str:
        """What the parameter `name` stands for in a path that matches, given its segments."""
        index = self.parameters[name]
        kind = self.shape[index - 1][0]
        if kind == "path":
            return "/".join(segments[index:])
        # A final newline that the router passed over belongs to no number.
        return segments[index].removesuffix("\n") if kind in _STARLETTE else segments[index]


@dataclass(frozen=True, slots=True)
class Route:
    """Methods and a template. `methods` is None for ANY; GET brings HEAD with it."""

    text: str
    methods: frozenset[str] | None
    template: Template

    def overlaps(self, methods: frozenset[str] | None) -> bool:
        """Whether both could serve the same method."""
        return self.methods is None or methods is None or not self.methods.isdisjoint(methods)


@lru_cache(ROUTES_CACHED_MAX)
def parse_route(text: str) -> Route:
    """Read `METHOD /template`. Raises ValueError with what is wrong and how to write it."""
    methods, slash, rest = text.partition("/")
    if not methods.strip():
        raise ValueError(f'"{text}" has no method: write "GET {text}" or "ANY {text}"')
    if not slash:
        raise ValueError(f'"{text}" has no path: write METHOD /path, such as POST /v1/chat')
    wanted = _methods(methods)
    if not methods[-1].isspace():
        # `v1/chat` is a forgotten slash, not the method V1; it would never match anything.
        raise ValueError(f'"{text}" has no space before the path: write "POST /{text}"')
    return Route(text, wanted, parse_template(slash + rest.rstrip(" ")))


def parse_template(text: str) -> Template:
    """Read a path template, which starts with "/". Raises ValueError with what is wrong."""
    if len(text) > TEMPLATE_CHARS_MAX:
        raise ValueError(f"the path has {len(text)} characters; at most {TEMPLATE_CHARS_MAX}")
    if "//" in text:
        raise ValueError(f'the path "{text}" holds "//"; use {{name:path}} for empty segments')
    shape: list[tuple[Kind, str]] = []
    parameters: dict[str, int] = {}
    segments = text.split("/")[1:]
    for index, segment in enumerate(segments, start=1):
        kind, name = _part(segment, last=index == len(segments))
        if kind in ("static", "*", "rest"):
            shape.append((kind, name))
            continue
        if name in parameters:
            raise ValueError(f'the parameter "{name}" occurs twice')
        parameters[name] = index
        shape.append((kind, ""))
    return Template(text, tuple(shape), parameters)


def _methods(text: str) -> frozenset[str] | None:
    names = [name.strip().upper() for name in text.split(",")]
    if names == [_ALONE]:
        return None
    for name in names:
        if name == _ALONE:
            raise ValueError("ANY stands alone; it already covers the other methods")
        if not _TOKEN.fullmatch(name):
            raise ValueError(f'"{name}" is not a method: write METHOD /path, such as POST /v1/chat')
    return frozenset(names) | ({"HEAD"} if "GET" in names else set())


def _part(segment: str, *, last: bool) -> tuple[Kind, str]:
    """The kind of one segment, and its text or its parameter's name."""
    if segment == "*":
        return ("rest" if last else "*"), ""
    parameter = _PARAMETER.fullmatch(segment)
    if parameter is None:
        return "static", _literal(segment)
    name = parameter[1] if parameter[1] is not None else parameter[2]
    if not _NAME.fullmatch(name):
        raise ValueError(f'"{segment}" is not a parameter: its name has letters, digits and "_"')
    kind = _kind(parameter[3] or "str")
    if kind == "path" and not last:
        raise ValueError(f'"{segment}" takes the rest of the path and must be its last segment')
    return kind, name


def _kind(convertor: str) -> Kind:
    if convertor in ("str", "int", "float", "uuid", "path"):
        return convertor  # type: ignore[return-value]  # a tuple of literals does not narrow str
    raise ValueError(f'"{convertor}" is not known; use str, int, float, uuid or path')


def _literal(segment: str) -> str:
    if any(mark in segment for mark in "{}*"):
        raise ValueError(f'"{segment}": a parameter or "*" must be a whole segment')
    if any(mark in segment for mark in "?#"):
        raise ValueError(f'"{segment}": a path ends before "?" and "#"')
    if re.search("%[0-9A-Fa-f]{2}", segment):
        raise ValueError(f'"{segment}": write the decoded path, without percent escapes')
    if segment in (".", ".."):
        raise ValueError(f'"{segment}": clients and servers resolve dot segments; write the path')
    if any(character.isspace() or not character.isprintable() for character in segment):
        raise ValueError(f"{segment!r}: a path has no white space or control characters")
    return segment


def routed_shape(shape: Shape, rules: frozenset[str]) -> Shape:
    """The shape as an app with these path rules reads it; equal shapes match the same requests."""
    if FINAL_SLASH in rules and len(shape) > 1 and shape[-1] == ("static", ""):
        shape = shape[:-1]
    if WERKZEUG in rules and shape[-1][0] == "path":
        shape = (*shape[:-1], ("rest", ""))  # Werkzeug's path is never empty
    if CASE in rules:
        shape = tuple((kind, text.lower()) for kind, text in shape)
    return shape


Value = TypeVar("Value")
Plan = TypeVar("Plan")


class _Ends(Generic[Value, Plan]):
    """What is found where templates end: one plan per method."""

    __slots__ = ("entries", "other", "plans")

    def __init__(self) -> None:
        self.entries: list[tuple[frozenset[str] | None, Value]] = []
        self.plans: dict[str, Plan] = {}
        self.other: Plan | None = None

    def settle(self, gather: Callable[[Sequence[Value]], Plan]) -> None:
        anything = [value for methods, value in self.entries if methods is None]
        self.other = gather(anything) if anything else None
        for method in {name for methods, _ in self.entries for name in methods or ()}:
            values = [v for methods, v in self.entries if methods is None or method in methods]
            self.plans[method] = gather(values)


class _Node(Generic[Value, Plan]):
    """One place in the tree of segments. `branches` are tried in order after `statics`."""

    __slots__ = ("branches", "here", "only_statics", "path", "rest", "statics")

    def __init__(self) -> None:
        self.only_statics = True
        self.statics: dict[str, _Node[Value, Plan]] = {}
        self.branches: list[tuple[Kind, _Accepts | None, _Node[Value, Plan]]] = []
        self.here: _Ends[Value, Plan] | None = None
        self.rest: _Ends[Value, Plan] | None = None
        self.path: _Ends[Value, Plan] | None = None

    def child(self, kind: Kind, text: str, types: Mapping[Kind, _Accepts]) -> "_Node[Value, Plan]":
        if kind == "static":
            return self.statics.setdefault(text, _Node())
        for known, _, node in self.branches:
            if known == kind:
                return node
        node = _Node()
        self.only_statics = False
        self.branches.append((kind, types.get(kind), node))
        self.branches.sort(key=lambda branch: _BRANCHES.index(branch[0]))
        return node


class Router(Generic[Value, Plan]):
    """Finds the templates that a path matches, the most specific first.

    Specificity: static > parameter (int, float, uuid, any) > `*` > the rest, decided at the first
    segment in which two templates differ. `gather` makes the plan for the values that share one
    template and method; it is called while building, never for a request. `rules` are those the
    segments were split by.
    """

    __slots__ = ("_root", "_rules")

    def __init__(
        self,
        routes: Iterable[tuple[Route, Value]],
        gather: Callable[[Sequence[Value]], Plan],
        rules: frozenset[str] = frozenset(),
    ) -> None:
        self._root: _Node[Value, Plan] = _Node()
        self._rules = rules
        ends: dict[int, _Ends[Value, Plan]] = {}
        for route, value in routes:
            end = self._end(routed_shape(route.template.shape, rules))
            end.entries.append((route.methods, value))
            ends[id(end)] = end
        for end in ends.values():
            end.settle(gather)

    def find(self, method: str, path: str, segments: list[str]) -> list[Plan]:
        """The plans of all templates that match; `segments` is what `paths` made of `path`.

        The case of the method does not count: Quart serves `get` as GET, the others not at all.
        """
        if segments[0]:
            return []
        search: _Search[Plan] = _Search(method.upper(), segments)
        if self._rules:
            search.strict = WERKZEUG in self._rules
            if CASE in self._rules:
                search.keys = [segment.lower() for segment in segments]
        if "\n" in path and NEWLINE not in self._rules:
            search.respect_newlines()
        search.below(self._root, 1)
        return search.found

    def _end(self, shape: Shape) -> _Ends[Value, Plan]:
        types = _WERKZEUG if WERKZEUG in self._rules else _STARLETTE
        node = self._root
        for kind, text in shape:
            if kind == "rest":
                node.only_statics = False
                node.rest = node.rest or _Ends()
                return node.rest
            if kind == "path":
                node.only_statics = False
                node.path = node.path or _Ends()
                return node.path
            node = node.child(kind, text, types)
        node.here = node.here or _Ends()
        return node.here


class _Search(Generic[Plan]):
    """One request's way through the tree.

    `keys` are the segments that fixed texts and typed parameters are compared with. The rest of a
    path begins after segment `broken`. `strict`: the rest does not begin with a slash.
    """

    __slots__ = ("broken", "found", "keys", "last", "method", "segments", "strict")

    def __init__(self, method: str, segments: list[str]) -> None:
        self.method = method
        self.segments = self.keys = segments
        self.last = len(segments)
        self.broken = 0
        self.strict = False
        self.found: list[Plan] = []

    def respect_newlines(self) -> None:
        """As in the patterns of Starlette and Werkzeug, whose `.` does not match a newline.

        Starlette's end in `$`, which also matches before a final one: it serves `/chat%0A` as
        `/chat`. The rest of a path in Werkzeug's may begin with one: `[^/].*?`.
        """
        skipped = 1 if self.strict else 0
        if not self.strict:
            self.keys = [*self.keys[:-1], self.keys[-1].removesuffix("\n")]
        for index, key in enumerate(self.keys):
            if "\n" in key:
                self.broken = index if "\n" in key[skipped:] else index - 1

    def below(self, node: _Node[Value, Plan], index: int) -> None:
        """Find what matches from segment `index` on, below this node."""
        keys = self.keys
        while index < self.last and node.only_statics:  # most of a path, without a call each
            child = node.statics.get(keys[index])
            if child is None:
                return
            node = child
            index += 1
        if index == self.last:
            self._add(node.here)
            return
        child = node.statics.get(keys[index])
        if child is not None:
            self.below(child, index + 1)
        for _, accepts, child in node.branches:
            if accepts(keys[index]) if accepts else self.segments[index]:
                self.below(child, index + 1)
        if index > self.broken:
            if keys[index] or (index + 1 < self.last and not self.strict):
                self._add(node.rest)
            self._add(node.path)

    def _add(self, ends: _Ends[Value, Plan] | None) -> None:
        plan = None if ends is None else ends.plans.get(self.method, ends.other)
        if plan is not None:
            self.found.append(plan)
