"""A route of an app, and sample requests that it serves.

Samples are values that the route's parameters take, and what templates of policies write in their
place. Knows no framework and judges nothing.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Self, TypeAlias

from usageflow.policies.routes import Kind, Template

ANY: Final = "ANY"
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
"""What is tried of a route that takes any method."""

_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")
_COUNT: Final = re.compile(r"(?<=\{)[0-9]{1,2}(?=[,}])")
"""What a pattern says of its values: words, as in `a|b`, and lengths, as in `.{3}`."""

_UUID: Final = "0190a0b0-0000-7000-8000-000000000001"
_VALUES: Final = (
    *("x", "7", "-7", "7.25", _UUID, "", "/", "/x", "x/y", "x.y"),
    *("2026-01-01", "2026-01-01T00:00:00", "00:00:00", "P1D"),
)
"""What a parameter may stand for: it takes those that fit its pattern."""
_FORMS: Final[dict[Kind, str]] = {"int": "7", "float": "7.25", "uuid": _UUID}
"""A value for a policy's typed parameter where the sample has none of that form."""


Request: TypeAlias = tuple[str, str]
"""Method and path of a request."""
Piece: TypeAlias = str | re.Pattern[str]
"""A part of a path: a fixed text, or the form of a parameter."""


class AppRoute(NamedTuple):
    """A route of an app. `method` is a method, WEBSOCKET or ANY.

    `template` and `name` are for people. `pieces`, joined, are the paths of the route, `pattern` is
    what they match. `host` is the only one that it serves; None is any.
    """

    method: str
    template: str
    name: str
    pieces: tuple[Piece, ...]
    pattern: re.Pattern[str]
    host: str | None = None

    @classmethod
    def of(
        cls, method: str, template: str, name: str, pieces: Iterable[Piece], host: str | None = None
    ) -> Self:
        """The route with the pattern of its pieces."""
        parts = tuple(pieces)
        texts = [re.escape(p) if isinstance(p, str) else f"(?:{p.pattern})" for p in parts]
        return cls(method, template, name, parts, re.compile("".join(texts), re.DOTALL), host)

    @property
    def specificity(self) -> tuple[tuple[int, int], ...]:
        """Sorts as most frameworks try: a fixed text, a typed parameter, any segment, a path."""
        return tuple(
            (0, -len(piece))
            if isinstance(piece, str)
            else (1 + sum(piece.fullmatch(value) is not None for value in ("x", "x/y")), 0)
            for piece in self.pieces
        )

    def serves(self, request: Request, host: str | None) -> bool:
        """Whether the request would come here. Servers answer HEAD from their GET routes."""
        method, path = request
        return (
            self.method in (ANY, method, "GET" if method == "HEAD" else method)
            and self.host in (None, host)
            and self.pattern.fullmatch(path) is not None
        )

    def requests(self, templates: Iterable[Template]) -> list[Request]:
        """Samples of what the route serves, each once."""
        paths = _own_paths(self.pieces)
        segments = paths[0].split("/")
        written = (_written_in(template, segments) for template in templates)
        fitting = (path for path in written if self.pattern.fullmatch(path))
        methods = _METHODS if self.method == ANY else (self.method,)
        return [(each, path) for path in dict.fromkeys((*paths, *fitting)) for each in methods]


def _own_paths(pieces: Sequence[Piece]) -> list[str]:
    """Paths in which each parameter takes each of its values at least once."""
    values = [[piece] if isinstance(piece, str) else _values(piece) for piece in pieces]
    count = max(map(len, values), default=0)
    return ["".join(each[turn % len(each)] for each in values) for turn in range(count)]


def _values(pattern: re.Pattern[str]) -> list[str]:
    """Values that fit: usual ones, and those that the pattern itself suggests."""
    suggested = _WORD.findall(pattern.pattern)
    suggested += [sign * int(n) for n in _COUNT.findall(pattern.pattern) for sign in "x7"]
    return [value for value in (*_VALUES, *suggested) if pattern.fullmatch(value)] or ["x"]


def _written_in(template: Template, segments: Sequence[str]) -> str:
    """The path with these segments, with the template's fixed texts and forms in their place."""
    path = []
    for index, (kind, text) in enumerate(template.shape, start=1):
        given = segments[index] if index < len(segments) else ""
        if kind in ("rest", "path"):
            path.append("/".join(segments[index:]) or "x")
        elif kind == "static":
            path.append(text)
        else:
            path.append(_FORMS.get(kind, given or "x"))
    return "/".join(("", *path))
