"""How an app turns a request path into the segments that it routes. Pure.

Without rules that is what Starlette does: the decoded path, split at its slashes, nothing removed.
Other apps are described by rules, each named after what does not count for them. Which rules
describe which framework is in docs/matching.md. Knows no template and no policy.
"""

from typing import Final
from urllib.parse import unquote, urlparse

from usageflow._types import Scope
from usageflow.policies.suggestions import did_you_mean

FINAL_SLASH: Final = "final-slash"
DOUBLE_SLASH: Final = "double-slash"
DOT_SEGMENTS: Final = "dot-segments"
CASE: Final = "case"
ENCODED_SLASH: Final = "encoded-slash"
NEWLINE: Final = "newline"
WERKZEUG: Final = "werkzeug"
RULES: Final = {
    FINAL_SLASH: "a final slash does not count",
    DOUBLE_SLASH: "empty segments do not count, nor does a missing first slash",
    DOT_SEGMENTS: '"." and ".." are resolved',
    CASE: "upper and lower case do not count in fixed segments",
    ENCODED_SLASH: "%2F is a part of its segment",
    NEWLINE: "a newline is a character like any other",
    WERKZEUG: "first slashes and parameters as in Werkzeug (Flask, Quart)",
}
"""Every rule and what it says. CASE, NEWLINE and the parameters of WERKZEUG are the router's."""


class PathRules(frozenset[str]):
    """Names of RULES; none of them is how Starlette and FastAPI route."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | None) -> "PathRules":
        """Read names separated by commas. Raises ValueError for a name that is no rule."""
        names = [name.strip() for name in (text or "").split(",")]
        for name in names:
            if name and name not in RULES:
                hint = did_you_mean(name, RULES)
                raise ValueError(f'"{name}" is not a path rule{hint}; use {", ".join(RULES)}')
        return cls(filter(None, names))


def route_path(scope: Scope) -> str:
    """The path the app routes on: `path` without the `root_path` it is mounted under.

    The same rule as Starlette's `get_route_path`: a `root_path` that is not the beginning of the
    path, or ends within a segment of it, is not removed.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("/", ""):
        return path[len(root) :]
    return path


def split_path(path: str, raw_path: bytes, rules: frozenset[str]) -> list[str]:
    """The segments that an app with these rules routes; the first is empty, or it routes nothing.

    `path` is decoded and without `root_path`; `raw_path` is as the server gives it, with
    `root_path` and encoded, and is read for ENCODED_SLASH only. Never raises.
    """
    if not rules:
        segments = path.split("/")
        # Starlette's mounts take a final newline for a character less than it is: what is mounted
        # at /sub serves `/sub//x%0A` as `/sub/x`.
        return _without_empty(segments) if path[-1:] == "\n" and not segments[0] else segments
    if WERKZEUG in rules:
        path = _from_first_slash(path)
    segments = path.split("/")
    if ENCODED_SLASH in rules:
        segments = _raw_segments(path, raw_path) or segments
    if DOUBLE_SLASH in rules:
        segments = _without_empty(segments)
    if DOT_SEGMENTS in rules:
        segments = _resolved(segments)
    if FINAL_SLASH in rules and len(segments) > 2 and not segments[-1]:  # noqa: PLR2004 - not "/"
        segments.pop()
    return segments


def _from_first_slash(path: str) -> str:
    """One slash first: Quart takes the path out of a URL, Werkzeug adds and drops first slashes."""
    if not path.startswith("/"):
        try:
            path = urlparse(path).path
        except ValueError:  # brackets that hold no IPv6 address; Quart raises as well
            return ""
    return "/" + path.lstrip("/")


def _raw_segments(path: str, raw_path: bytes) -> list[str] | None:
    """`path` split where `raw_path` has its slashes; None if `raw_path` does not end in `path`.

    A server need not give it, and a middleware may have changed one of the two.
    """
    segments = [unquote(segment) for segment in raw_path.decode("ascii", "replace").split("/")]
    root_chars = len("/".join(segments)) - len(path)
    start = 0
    while root_chars > 0 and start < len(segments):
        root_chars -= len(segments[start]) + 1
        start += 1
    segments[:start] = [""] * (start > 0)
    return segments if "/".join(segments) == path else None


def _without_empty(segments: list[str]) -> list[str]:
    kept = [segment for segment in segments if segment]
    if not kept or not segments[-1]:
        kept.append("")  # whether a final slash counts is another rule
    return ["", *kept]


def _resolved(segments: list[str]) -> list[str]:
    """Without dot segments, as RFC 3986, section 5.2.4 removes them."""
    kept: list[str] = []
    for segment in segments[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return [segments[0], *kept]
