"""Templates name routes and no identities, and stay few."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.middleware.templates import (
    ROUTED_VALUES_MAX,
    SEGMENTS_MAX,
    VALUES_MAX,
    Templates,
    looks_like_value,
    text_of,
    tokens_of,
)
from usageflow.policies.routes import TEMPLATE_CHARS_MAX, parse_route

VALUES = (
    "7 1-2-3 2026-11-21 2026-11-21T09:30:00Z 3.14 123e4567-e89b-12d3-a456-426614174000 "
    "123E4567-E89B-12D3-A456-426614174000 5d41402abc4b2a76b9719d911017c592 acct_42 user-7 "
    "cus_NffrFeUfNV2Hib eyJhbGciOiJIUzI1NiJ9 a@b.example :x {x} * . .. a?b a#b a%2Fb"
)
NAMES = (
    "users v1 v2beta oauth2 s3 chat-completions line_items index.html größe ~me deadbeef "
    "well-known-configuration internationalisation-settings ..."
)


def template(path: str, **parameters: Any) -> str | None:
    """The template's text."""
    tokens = tokens_of(path, parameters)
    return None if tokens is None else text_of(tokens)


def learning(*paths: str, routed: bool = False) -> Templates[list[str]]:
    """The templates of these paths, each with the paths it stands for."""
    templates: Templates[list[str]] = Templates(lambda one, other: one + other)
    for path in paths:
        add(templates, path, routed=routed)
    return templates


def add(templates: Templates[list[str]], path: str, *, routed: bool = False) -> list[str]:
    """Learn one path."""
    tokens = tokens_of(path, {})
    assert tokens is not None
    return templates.add("GET", tokens, [path], routed=routed)


def texts(templates: Templates[Any]) -> list[str]:
    """The texts of all templates."""
    return sorted(template for _, template, _ in templates.items())


@pytest.mark.parametrize("segment", [*VALUES.split(), "x" * 41, "a b", "a\nb", "\0", "\udc80"])
def test_values_are_seen(segment: str) -> None:
    """Numbers, ids, addresses, and what no template can say."""
    assert looks_like_value(segment)


@pytest.mark.parametrize("segment", [*NAMES.split(), ""])
def test_names_are_left_alone(segment: str) -> None:
    """Words, versions and files; nothing follows a final slash."""
    assert not looks_like_value(segment)


def test_the_router_s_parameters_name_segments() -> None:
    """Whatever their type is, and from the right where a value occurs twice."""
    assert template("/users/alice/orders/7", name="alice", number=7) == (
        "/users/{name}/orders/{number}"
    )
    assert template("/users/users", name="users") == "/users/{name}"
    assert template("/a/7/b/7", one=7, two=7) == "/a/{one}/b/{two}"
    assert template("/files/a/b.txt", rest="a/b.txt") == "/files/{rest:path}"
    assert template("/files/a/b.txt", rest="/a/b.txt") == "/files/{rest:path}"
    assert template("/x/7/f/a/b", n=7, rest="a/b") == "/x/{n}/f/{rest:path}"
    assert template("/users/alice", **{"na-me": "alice"}) == "/users/{id}"
    assert template("/users/007", number=7) == "/users/{id}"
    assert template("/users/alice", other="bob") == "/users/alice"


def test_values_are_parameters_without_a_router() -> None:
    """Each gets a name of its own; a final slash stays."""
    assert template("/users/7/orders/8/") == "/users/{id}/orders/{id_2}/"
    assert template("/") == "/"
    assert template("/a/b/c/d", id="b", **{"b-": "d"}) == "/a/{id}/c/{id_2}"
    assert text_of(["{p}", "{p}", "{p_2}", "{p:path}"]) == "/{p}/{p_2}/{p_2_2}/{p_3:path}"


@pytest.mark.parametrize("path", ["", "*", "a/b", "//", "/a//b", "/" + "a" * TEMPLATE_CHARS_MAX])
def test_paths_that_no_template_describes(path: str) -> None:
    """They are counted together."""
    assert template(path) is None


def test_deep_paths_and_long_names_have_no_template() -> None:
    """A template is at most as long as a policy's may be."""
    assert template("/a" * SEGMENTS_MAX) is not None
    assert template("/a" * (SEGMENTS_MAX + 1)) is None
    parameters = {f"a_parameter_with_a_long_name_{i}": str(i) for i in range(SEGMENTS_MAX)}
    assert template("".join(f"/{i}" for i in range(SEGMENTS_MAX)), **parameters) is None


@given(path=st.text(), parameters=st.dictionaries(st.text(), st.text() | st.integers()))
def test_every_template_is_a_route(path: str, parameters: dict[str, Any]) -> None:
    """A policy can be made of it, whatever the path and the app's parameters are."""
    tokens = tokens_of("/" + path, parameters)
    if tokens is not None:
        assert parse_route(f"GET {text_of(tokens)}").template.text == text_of(tokens)


def test_too_many_names_are_values() -> None:
    """Nobody told, but nobody has that many routes side by side; what was counted is merged."""
    paths = [f"/users/{chr(97 + i)}x/orders" for i in range(VALUES_MAX)]
    templates = learning(*paths)
    assert templates.size == VALUES_MAX
    assert templates.closings == 0
    assert add(templates, "/users/zoe/orders") == [*paths, "/users/zoe/orders"]
    assert texts(templates) == ["/users/{id}/orders"]
    assert (templates.size, templates.closings) == (1, 1)
    assert add(templates, "/users/yan/orders")[-1] == "/users/yan/orders"
    add(templates, "/users/yan/friends")
    add(templates, "/users/")
    assert texts(templates) == ["/users/", "/users/{id}/friends", "/users/{id}/orders"]


def test_a_router_s_names_are_trusted_longer() -> None:
    """An API may have many resources; a folder of files has more."""
    names = [f"/{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(ROUTED_VALUES_MAX + 1)]
    templates = learning(*names[:-1], routed=True)
    assert templates.size == ROUTED_VALUES_MAX
    add(templates, names[-1], routed=True)
    assert texts(templates) == ["/{id}"]


def test_merging_goes_down() -> None:
    """What is below merged names may become too many, or be closed already."""
    below = [f"/{chr(97 + i)}/{chr(97 + j)}" for i in range(4) for j in range(6)]
    templates = learning(*[f"/a/{chr(97 + i)}" for i in range(VALUES_MAX + 1)])
    assert texts(templates) == ["/a/{id}"]
    for path in below:
        add(templates, path)
    wide = [f"/{chr(97 + i)}x/y" for i in range(VALUES_MAX + 1)]
    for path in wide:
        add(templates, path)
    assert texts(templates) == ["/{id}/{id_2}"]
    assert sum(len(paths) for _, _, paths in templates.items()) == 21 + len(below) + len(wide)


def test_many_below_merged_names_are_values_too() -> None:
    """Ten names below each of three, all different, are thirty below one."""
    templates = learning(*[f"/{chr(97 + i)}" for i in range(VALUES_MAX - 3)])
    for i in range(3):
        for j in range(10):
            add(templates, f"/x{chr(97 + i)}/{chr(97 + i)}{chr(97 + j)}")
    assert templates.closings == 0
    add(templates, "/last")
    assert texts(templates) == ["/{id}", "/{id}/{id_2}"]


def test_methods_are_told_apart() -> None:
    """One template, two methods."""
    templates = learning("/a")
    templates.add("POST", ["a"], ["posted"])
    assert sorted(templates.items()) == [("GET", "/a", ["/a"]), ("POST", "/a", ["posted"])]
    assert (templates.get("POST", ["a"]), templates.get("PUT", ["a"])) == (["posted"], None)
    assert templates.get("GET", ["a", "b"]) is None


def test_finding_is_sure_without_names_as_values() -> None:
    """A number can only be a parameter; a word may be another route, which only the app knows."""
    templates = learning("/users/7", "/users/me")
    templates.add("GET", ["f", "{rest:path}"], ["files"])
    assert templates.find("GET", "/users/8") == (["/users/7"], True)
    assert templates.find("GET", "/users/me") == (["/users/me"], True)
    assert templates.find("GET", "/users/bob") == (["/users/7"], False)
    assert templates.find("POST", "/users/8") == (None, True)
    assert templates.find("GET", "/nobody/8") == (None, False)
    assert templates.find("GET", "/f/a/b/c") == (["files"], False)


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=4)))
def test_nothing_is_lost_in_merging(paths: list[list[str]]) -> None:
    """Every path is under one template, and `size` is their number."""
    templates = learning(*("/" + "/".join(path) for path in paths))
    found = [path for _, _, paths in templates.items() for path in paths]
    assert sorted(found) == sorted("/" + "/".join(path) for path in paths)
    assert templates.size == len(texts(templates)) == len(set(texts(templates)))
