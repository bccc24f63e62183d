"""Routes of an app: what they serve, in which order they are tried, and samples of their paths."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.app_routes import AppRoute
from usageflow.policies.routes import parse_template

UUID = "0190a0b0-0000-7000-8000-000000000001"


def route(*pieces: str, method: str = "GET", host: str | None = None) -> AppRoute:
    """A route of pieces; one that does not begin with a slash is the pattern of a parameter."""
    parts = [piece if piece[0] == "/" else re.compile(piece) for piece in pieces]
    return AppRoute.of(method, "".join(pieces), "name", parts, host)


def paths(found: AppRoute, *templates: str) -> list[str]:
    """The paths of the samples."""
    return [path for _, path in found.requests(map(parse_template, templates))]


def test_a_fixed_path_is_its_only_sample() -> None:
    """Whatever policies write."""
    assert paths(route("/v1/items"), "/v1/:x", "/v1/items", "/{rest:path}") == ["/v1/items"]


@pytest.mark.parametrize(
    ("pattern", "some"),
    [
        ("[^/]+", {"x", "7", "-7", "7.25", UUID}),
        ("[0-9]+", {"7"}),
        (r"[0-9]+(\.[0-9]+)?", {"7", "7.25"}),
        ("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", {UUID}),
        (".*", {"", "x", "x/y"}),
        ("(?:de|fr)", {"de", "fr"}),
        ("[a-z]{3}", {"xxx"}),
        (r"\d{4}-\d\d-\d\d", {"2026-01-01"}),
    ],
)
def test_a_parameter_stands_for_what_fits_its_form(pattern: str, some: set[str]) -> None:
    """All its samples fit it, and the usual ones are among them."""
    values = [path.removeprefix("/a/") for path in paths(route("/a/", pattern))]
    assert some <= set(values)
    assert all(re.fullmatch(pattern, value) for value in values)


def test_a_form_that_suggests_nothing_is_tried_with_x() -> None:
    """The documented limit: better a sample that may be wrong than a route without one."""
    assert paths(route("/a/", r"\W+\W")) == ["/a/x"]


def test_fixed_texts_of_templates_are_samples_where_they_fit() -> None:
    """A policy for one value of a parameter shows that the others are not metered by it."""
    items = route("/items/", "[^/]+", "/parts/", "[0-9]+")
    found = paths(items, "/items/prices/parts/:n", "/items/:i/parts/last", "/items/a", "/x/:y/*")
    assert "/items/prices/parts/7" in found
    assert "/items/x/parts/last" not in found
    assert all(items.pattern.fullmatch(path) for path in found)
    rest = paths(route("/files/", ".*"), "/files/a/:b/{n:int}", "/files/{u:uuid}", "/files/*")
    assert {"/files/a/x/7", f"/files/{UUID}", "/files/x"} <= set(rest)
    assert len(rest) == len(set(rest))


def test_any_method_is_tried_with_each() -> None:
    """A policy for GET and POST does not meter all that such a route serves."""
    requests = route("/a", method="ANY").requests(())
    assert [path for _, path in requests] == ["/a"] * 7
    assert {"GET", "POST", "DELETE"} <= {method for method, _ in requests}


def test_what_a_route_serves() -> None:
    """By method, host and path; HEAD comes to GET."""
    found = route("/a/", "[0-9]+")
    assert found.serves(("GET", "/a/1"), None)
    assert found.serves(("HEAD", "/a/1"), "x.example.org")
    assert not found.serves(("POST", "/a/1"), None)
    assert not found.serves(("GET", "/a/b"), None)
    assert not found.serves(("GET", "/a/1/"), None)
    assert route("/a", method="ANY").serves(("WEBSOCKET", "/a"), None)
    hosted = route("/a", host="x.example.org")
    assert hosted.serves(("GET", "/a"), "x.example.org")
    assert not hosted.serves(("GET", "/a"), None)


def test_the_order_of_specificity() -> None:
    """Fixed texts, then typed parameters, then any segment, then the rest of the path."""
    ordered = (
        route("/a/b"),
        route("/a/", "[0-9]+"),
        route("/a/", "[^/]+"),
        route("/a/", ".*"),
        route("/", ".*"),
    )
    mixed = [*ordered[3:], *ordered[:3]]
    found = sorted(mixed, key=lambda each: each.specificity)
    assert [each.template for each in found] == [each.template for each in ordered]


pieces = st.lists(
    st.sampled_from(["/a", "/", "[^/]+", "[0-9]+", ".*", "a|b"]), min_size=1, max_size=5
)
templates = st.sampled_from(["/a/{rest:path}", "/:x/*", "/*/a", "/{y:int}/b"])


@given(pieces, st.lists(templates, max_size=3))
def test_every_sample_is_served(parts: list[str], texts: list[str]) -> None:
    """Whatever the route and the templates are; and there is at least one sample."""
    found = route("/", *parts)
    requests = found.requests(map(parse_template, texts))
    assert requests
    assert all(found.serves(request, None) for request in requests)
