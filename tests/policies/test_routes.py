"""`METHOD /template`: what is read, what is refused, and what a request finds."""

import re
import timeit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.routing import compile_path

from usageflow.policies.paths import PathRules
from usageflow.policies.routes import Router, Template, parse_route, parse_template, routed_shape

SEGMENTS = ["a", "b", ":p", "{q}", "*", "{n:int}", "{f:float}", ""]
LAST = [*SEGMENTS, "{r:path}"]


def router(*routes: str, rules: str = "") -> Router[str, list[str]]:
    """A router whose values are the routes as they were written."""
    return Router(((parse_route(route), route) for route in routes), list, PathRules.parse(rules))


def find(found: Router[str, list[str]], method: str, path: str) -> list[str]:
    """The routes of all plans, the most specific first."""
    return [route for plan in found.find(method, path, path.split("/")) for route in plan]


def reference(template: Template) -> re.Pattern[str]:
    """The naive way: one pattern per template, as Starlette would write it."""
    patterns = {
        "int": "[0-9]+",
        "float": r"[0-9]+(\.[0-9]+)?",
        "str": "[^/]+",
        "*": "[^/]+",
        "rest": ".+",
        "path": ".*",
    }
    return re.compile(
        "".join(
            "/" + (re.escape(text) if kind == "static" else patterns[kind])
            for kind, text in template.shape
        )
    )


@pytest.mark.parametrize(
    ("route", "method", "path"),
    [
        ("GET /a", "GET", "/a"),
        ("GET /a", "HEAD", "/a"),
        ("get /a", "GET", "/a"),
        ("GET /a", "get", "/a"),
        ("GET, POST /a", "POST", "/a"),
        ("ANY /a", "PROPFIND", "/a"),
        ("GET /", "GET", "/"),
        ("GET /a/", "GET", "/a/"),
        ("GET /users/:id/profile", "GET", "/users/7/profile"),
        ("GET /users/{id:str}", "GET", "/users/7"),
        ("GET /n/{n:int}", "GET", "/n/007"),
        ("GET /n/{n:float}", "GET", "/n/1.5"),
        ("GET /n/{n:uuid}", "GET", "/n/12345678-1234-1234-1234-1234567890ab"),
        ("GET /a/*/c", "GET", "/a/b/c"),
        ("GET /files/*", "GET", "/files/a/b"),
        ("GET /files/*", "GET", "/files//"),
        ("GET /files/{rest:path}", "GET", "/files/"),
        ("GET /files/{rest:path}", "GET", "/files/a//b/"),
        ("POST /v1/models:predict", "POST", "/v1/models:predict"),
        ("GET /caf\u00e9", "GET", "/caf\u00e9"),
        ("GET /a", "GET", "/a\n"),
        ("GET /n/{n:int}", "GET", "/n/1\n"),
        ("GET /users/:id", "GET", "/users/\n"),
        ("GET /files/{rest:path}", "GET", "/files/a\n"),
        ("GET /a/:b/{rest:path}", "GET", "/a/\n/b"),
    ],
)
def test_a_template_matches_what_the_app_would_route(route: str, method: str, path: str) -> None:
    """Each form of template finds the paths that it stands for."""
    assert find(router(route), method, path) == [route]


@pytest.mark.parametrize(
    ("route", "method", "path"),
    [
        ("GET /a", "POST", "/a"),
        ("HEAD /a", "GET", "/a"),
        ("GET /a", "GET", "/a/"),
        ("GET /a/", "GET", "/a"),
        ("GET /a", "GET", "/a/b"),
        ("GET /a/b", "GET", "/a"),
        ("GET /a", "GET", "//a"),
        ("GET /a", "GET", "a"),
        ("GET /a", "GET", ""),
        ("ANY /*", "GET", "http://elsewhere/a"),
        ("GET /users/:id", "GET", "/users/"),
        ("GET /n/{n:int}", "GET", "/n/1a"),
        ("GET /n/{n:int}", "GET", "/n/\u0661"),
        ("GET /n/{n:float}", "GET", "/n/1."),
        ("GET /n/{n:uuid}", "GET", "/n/12345678"),
        ("GET /a/*/c", "GET", "/a//c"),
        ("GET /files/*", "GET", "/files/"),
        ("GET /files/*", "GET", "/files"),
        ("GET /files/*", "GET", "/files/\n"),
        ("GET /files/{rest:path}", "GET", "/files"),
        ("GET /files/{rest:path}", "GET", "/files/a\nb"),
        ("GET /files/{rest:path}", "GET", "/files/a\n\n"),
        ("GET /a", "GET", "/a\n\n"),
        ("GET /n/{n:int}/x", "GET", "/n/1\n/x"),
    ],
)
def test_a_template_matches_nothing_else(route: str, method: str, path: str) -> None:
    """Method, trailing slash, empty segments and the form of a parameter are significant."""
    assert find(router(route), method, path) == []


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("/a", "has no method"),
        ("v1/chat", "has no space before the path"),
        ("POST/v1/chat", "has no space before the path"),
        ("", "has no method"),
        ("POST", "has no path"),
        ("POST a", "has no path"),
        ("POST http://x/a", "is not a method"),
        ("PO ST /a", "is not a method"),
        ("P(ST /a", "is not a method"),
        ("GET, /a", "is not a method"),
        (",GET /a", "is not a method"),
        ("GET,ANY /a", "ANY stands alone"),
        ("GET /a//b", "//"),
        ("GET /a?b=1", "before"),
        ("GET /a#b", "before"),
        ("GET /a%20b", "decoded"),
        ("GET /a b", "white space"),
        ("GET /a\tb", "white space"),
        ("GET /:", "not a parameter"),
        ("GET /{}", "not a parameter"),
        ("GET /:1a", "not a parameter"),
        ("GET /:a/{a}", "twice"),
        ("GET /{a:uint}", "not known"),
        ("GET /{a:path}/b", "last segment"),
        ("GET /a{b}", "whole segment"),
        ("GET /{b}.json", "whole segment"),
        ("GET /a/../b", "dot segments"),
        ("GET /.", "dot segments"),
        ("GET /a*", "whole segment"),
        ("GET /" + "a" * 500, "500"),
    ],
)
def test_a_wrong_route_is_refused_with_the_reason(route: str, message: str) -> None:
    """Whatever could never match, or not as it was meant, is an error in words."""
    with pytest.raises(ValueError, match=message):
        parse_route(route)


def test_the_most_specific_template_comes_first() -> None:
    """Static, typed, parameter, `*`, the rest: decided at the first segment that differs."""
    routes = (
        "GET /{rest:path}",
        "GET /*",
        "GET /*/x",
        "GET /:p/x",
        "GET /{f:float}/x",
        "GET /{i:int}/x",
        "GET /1/*",
        "GET /1/x",
    )
    assert find(router(*routes), "GET", "/1/x") == list(reversed(routes))


def test_a_branch_that_ends_nowhere_is_left_again() -> None:
    """A static segment that leads nowhere does not hide a parameter that leads somewhere."""
    assert find(router("GET /a/b/c", "GET /:x/b/d"), "GET", "/a/b/d") == ["GET /:x/b/d"]


def test_values_of_one_template_are_gathered_by_method() -> None:
    """A plan has the values for its method and those for ANY; other methods get those for ANY."""
    found = router("GET /a/:x", "ANY /a/{y}", "POST /a/:z")
    assert find(found, "GET", "/a/1") == ["GET /a/:x", "ANY /a/{y}"]
    assert find(found, "HEAD", "/a/1") == ["GET /a/:x", "ANY /a/{y}"]
    assert find(found, "DELETE", "/a/1") == ["ANY /a/{y}"]


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("/a/:x/*/{y}", "/a/1/2/3", {"x": "1", "y": "3"}),
        ("/a/{r:path}", "/a/b//c/", {"r": "b//c/"}),
        ("/a/{r:path}", "/a/", {"r": ""}),
        ("/{n:int}", "/007", {"n": "007"}),
        ("/{n:int}/{s}", "/007/a\n", {"n": "007", "s": "a\n"}),
        ("/{s}/{n:int}", "/a/007\n", {"s": "a", "n": "007"}),
    ],
)
def test_a_parameter_is_exactly_what_the_path_says(
    template: str, path: str, values: dict[str, str]
) -> None:
    """Values are segments, or for `path` everything that is left, without conversion."""
    parsed = parse_template(template)
    assert {name: parsed.value(name, path.split("/")) for name in parsed.parameters} == values


def test_a_final_newline_is_routed_as_starlette_routes_it() -> None:
    """Starlette serves `/chat%0A` as `/chat`; nobody gets an endpoint for free that way."""
    assert compile_path("/chat")[0].match("/chat\n")
    assert find(router("ANY /:p", "ANY /chat"), "GET", "/chat\n") == ["ANY /chat", "ANY /:p"]


@pytest.mark.parametrize(
    ("rules", "route", "path", "is_found"),
    [
        ("final-slash", "GET /a/", "/a", True),
        ("final-slash", "GET /", "/", True),
        ("case", "GET /Items/:id", "/iTEMS/A", True),
        ("case", "GET /{id:uuid}", "/0190A0B0-0000-7000-8000-000000000001", True),
        ("final-slash", "GET /Items", "/items", False),
        ("newline", "GET /a", "/a\n", False),
        ("newline", "GET /{n:int}", "/1\n", False),
        ("newline", "GET /f/{rest:path}", "/f/a\nb", True),
        ("newline", "GET /:p", "/a\n", True),
        ("werkzeug", "GET /a", "/a\n", False),
        ("werkzeug", "GET /:p", "/a\n", True),
        ("werkzeug", "GET /f/{rest:path}", "/f/a\nb", False),
        ("werkzeug", "GET /f/{rest:path}", "/f/a\n", False),
        ("werkzeug", "GET /f/{rest:path}", "/f/\n", True),
        ("werkzeug", "GET /f/{rest:path}", "/f/\na/b", True),
        ("werkzeug", "GET /f/{rest:path}", "/f/\n\n", False),
        ("werkzeug", "GET /f/{rest:path}", "/f/a/\nb", False),
        ("werkzeug", "GET /f/{rest:path}", "/f/a//b", True),
        ("werkzeug", "GET /f/{rest:path}", "/f//a", False),
        ("werkzeug", "GET /f/{rest:path}", "/f/", False),
        ("werkzeug", "GET /{n:int}", "/\u0661", True),
        ("werkzeug", "GET /{n:float}", "/1.5", True),
        ("werkzeug", "GET /{n:float}", "/1", False),
        ("werkzeug", "GET /{n:uuid}", "/0190a0b0-0000-7000-8000-000000000001", True),
        ("werkzeug", "GET /{n:uuid}", "/0190a0b0000070008000000000000001", False),
    ],
)
def test_rules_change_what_a_template_matches(
    rules: str, route: str, path: str, *, is_found: bool
) -> None:
    """What the router itself does differently under the rules of an app."""
    assert find(router(route, rules=rules), "GET", path) == [route] * is_found


def test_a_parameter_keeps_its_case() -> None:
    """Only fixed segments are compared without it; the segments stay as they are."""
    segments = ["", "Items", "AcCt"]
    assert router("GET /items/:id", rules="case").find("GET", "/Items/AcCt", segments)
    assert segments == ["", "Items", "AcCt"]


def test_equal_shapes_match_the_same_requests() -> None:
    """What two policies may not both claim depends on what the app tells apart."""

    def shapes(rules: str, *texts: str) -> int:
        known = PathRules.parse(rules)
        return len({routed_shape(parse_template(text).shape, known) for text in texts})

    assert shapes("", "/a", "/a/", "/A", "/a/*", "/a/{p:path}") == 5
    assert shapes("final-slash", "/a", "/a/") == 1
    assert shapes("case", "/a", "/A") == 1
    assert shapes("werkzeug", "/a/*", "/a/{p:path}") == 1


segments = st.lists(st.sampled_from(SEGMENTS), max_size=4)
templates = st.builds(
    lambda head, last: "/" + "/".join([*head, last]), segments, st.sampled_from(LAST)
)
paths = st.lists(st.sampled_from(["a", "b", "1", "1.5", "x", ""]), max_size=6).map("/".join)


def is_valid(template: str) -> bool:
    """Whether the generated template may be written."""
    try:
        parse_template(template)
    except ValueError:
        return False
    return True


@given(st.lists(templates.filter(is_valid), max_size=8), st.lists(paths, max_size=20))
@example(["/"], ["", "/"])
def test_the_router_agrees_with_one_pattern_per_template(texts: list[str], said: list[str]) -> None:
    """The tree finds exactly the templates that a naive loop of patterns finds."""
    found = router(*(f"ANY {text}" for text in texts))
    for path in ["/" + path for path in said]:
        wanted = [f"ANY {t}" for t in texts if reference(parse_template(t)).fullmatch(path)]
        assert sorted(find(found, "GET", path)) == sorted(wanted)


starlette_texts = st.builds(
    lambda head, last: "/" + "/".join([*head, last]),
    st.lists(st.sampled_from(["a", "{p}", "{n:int}", "{f:float}"]), max_size=3, unique=True),
    st.sampled_from(["b", "{q}", "{r:path}", ""]),
).filter(is_valid)


@given(starlette_texts, paths, st.sampled_from(["", "\n"]))
def test_what_starlette_routes_is_found(text: str, said: str, end: str) -> None:
    """Whenever Starlette's own pattern serves a path, the template is found for it."""
    path = f"/{said}{end}"
    found = bool(find(router(f"ANY {text}"), "GET", path))
    served = compile_path(text)[0].match(path) is not None
    assert found >= served
    assert found == served or end


def test_five_thousand_templates_are_found_as_fast_as_few() -> None:
    """The tree's cost is the path's depth, not the number of templates (a wide margin: noise)."""
    few = router("GET /api/r1/:id")
    many = router(*(f"GET /api/r{number}/:id" for number in range(5_000)))

    def cost_s(found: Router[str, list[str]]) -> float:
        return min(timeit.repeat(lambda: find(found, "GET", "/api/r1/7"), number=500, repeat=5))

    assert cost_s(many) < 5 * cost_s(few)
