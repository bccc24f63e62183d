"""How an app turns a request path into segments."""

from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette._utils import get_route_path

from usageflow.policies.paths import RULES, PathRules, route_path, split_path


def split(target: str, rules: str = "", root: str = "") -> str:
    """The routed path of a request target as uvicorn passes it on, with its slashes kept apart."""
    path = unquote(target)
    segments = split_path(path, (root + target).encode("latin-1"), PathRules.parse(rules))
    return "|".join(segments)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, set()),
        ("", set()),
        (" , ", set()),
        ("case", {"case"}),
        (" final-slash,double-slash , case,", {"final-slash", "double-slash", "case"}),
    ],
)
def test_rules_are_names_separated_by_commas(text: str | None, names: set[str]) -> None:
    """None at all is how Starlette routes."""
    assert set(PathRules.parse(text)) == names


def test_an_unknown_rule_is_refused_in_words() -> None:
    """A typo must not leave requests unmetered."""
    with pytest.raises(ValueError, match=r'"final_slash" is not .*mean "final-slash"\?; use final'):
        PathRules.parse("case,final_slash")


@pytest.mark.parametrize(
    ("rules", "target", "routed"),
    [
        ("", "/a//b/", "|a||b|"),
        ("", "/a%2Fb", "|a|b"),
        ("", "", ""),
        ("", "*", "*"),
        ("", "/a%0A", "|a\n"),
        ("", "/sub//x/%0A", "|sub|x|\n"),
        ("", "sub//x%0A", "sub||x\n"),
        ("", "http://h/a", "http:||h|a"),
        ("final-slash", "/a/", "|a"),
        ("final-slash", "/a//", "|a|"),
        ("final-slash", "/", "|"),
        ("double-slash", "//a///b", "|a|b"),
        ("double-slash", "/a//", "|a|"),
        ("double-slash", "//", "|"),
        ("double-slash", "a/b", "|a|b"),
        ("double-slash", "", "|"),
        ("double-slash,final-slash", "/a//", "|a"),
        ("double-slash,final-slash", "//", "|"),
        ("dot-segments", "/a/./b/../c", "|a|c"),
        ("dot-segments", "/a/%2E%2e/b", "|b"),
        ("dot-segments", "/../a", "|a"),
        ("dot-segments", "/a/.", "|a|"),
        ("dot-segments", "/a/b/..", "|a|"),
        ("dot-segments", "/..", "|"),
        ("dot-segments", "/a//../b", "|a|b"),
        ("double-slash,dot-segments", "/a//../b", "|b"),
        ("dot-segments", "/a/.../b", "|a|...|b"),
        ("encoded-slash", "/a%2Fb/%25", "|a/b|%"),
        ("encoded-slash", "/%ff", "|\ufffd"),
        ("encoded-slash,final-slash", "/a%2F", "|a/"),
        ("werkzeug", "//a", "|a"),
        ("werkzeug", "a/b", "|a|b"),
        ("werkzeug", "http://h//a?b", "|a"),
        ("werkzeug", "http://[h/a", ""),
        ("werkzeug", "", "|"),
        ("werkzeug", "/a//b/", "|a||b|"),
        ("case,newline", "/A%0A", "|A\n"),
    ],
)
def test_a_path_is_what_the_app_makes_of_it(rules: str, target: str, routed: str) -> None:
    """Each rule removes exactly what does not count for the app; `|` is where segments meet."""
    assert split(target, rules) == routed


@pytest.mark.parametrize("root", ["", "/api", "/a/b", "/%61pi", "/n%2Fm"])
def test_the_raw_path_is_read_behind_the_root_path(root: str) -> None:
    """Servers put the root path in front of both paths."""
    assert split("/a%2Fb/c", "encoded-slash", root) == "|a/b|c"
    assert split("/", "encoded-slash", root) == "|"


@pytest.mark.parametrize("raw_path", [b"", b"/other", b"/x/a%2Fb/d", b"/a%2F", b"/\xc3\xa4"])
def test_a_raw_path_of_something_else_is_not_used(raw_path: bytes) -> None:
    """A server that gives none, or an app that changed the path: the decoded path counts."""
    rules = PathRules.parse("encoded-slash")
    assert split_path("/a/b/c", raw_path, rules) == ["", "a", "b", "c"]


@given(st.lists(st.text(max_size=4), max_size=5), st.sampled_from(["", "/api", "/%C3%A4/b"]))
def test_encoded_segments_come_back(segments: list[str], root: str) -> None:
    """Whatever is in a segment stays in it."""
    target = "".join("/" + quote(segment, safe="") for segment in segments)
    path = unquote(target)
    raw_path = (root + target).encode()
    assert split_path(path, raw_path, PathRules.parse("encoded-slash")) == ["", *segments]


odd_paths = st.lists(
    st.sampled_from(["/", "a", ".", "..", "%2F", "%2e", "\n", "http://", "[", "?", "\u0130", ""]),
    max_size=12,
).map("".join)
rule_sets = st.sets(st.sampled_from(sorted(RULES))).map(frozenset)


@given(odd_paths, st.binary(max_size=20), rule_sets)
def test_no_path_is_too_strange(path: str, raw_path: bytes, rules: frozenset[str]) -> None:
    """There is always a first segment, which the router looks at."""
    assert split_path(path, raw_path, rules)


@given(odd_paths, rule_sets)
def test_what_was_routed_is_routed_the_same_again(path: str, rules: frozenset[str]) -> None:
    """A rule leaves nothing behind that it would remove."""
    rules -= {"encoded-slash"}
    once = split_path(path, b"", rules)
    if once[0] == "" and "final-slash" not in rules:
        assert split_path("/".join(once), b"", rules) == once


@given(
    st.sampled_from(["", "/", "/api", "/api/", "/api/v1", "/wrong"]),
    st.sampled_from(["", "/", "/api", "/apiary", "/api/", "/api//", "/api/api/x", "/x", "x", "*"]),
)
@example("/api", "/api")
def test_the_route_path_is_starlettes(root: str, path: str) -> None:
    """Also where the root path is not the beginning of the path: nothing is lost then."""
    scope: Any = {"type": "http", "path": path, "root_path": root}
    assert route_path(scope) == get_route_path(scope)


def test_a_root_path_need_not_be_given() -> None:
    """ASGI lets a server leave it out."""
    assert route_path({"path": "/a"}) == "/a"
