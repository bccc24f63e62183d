"""Coverage: metered, partly, exempt or uncovered, and what nobody needs."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from usageflow.policies import Policy
from usageflow.policies.app_routes import AppRoute
from usageflow.policies.coverage import Coverage, Covered, cover
from usageflow.policies.exemptions import Exemption

Make = Callable[..., Policy]
ID = re.compile("[^/]+")
NUMBER = re.compile("[0-9]+")
REST = re.compile(".*")


def route(text: str, *pieces: str | re.Pattern[str], host: str | None = None) -> AppRoute:
    """`METHOD /template`, with the pieces of the template if they are not just its text."""
    method, _, template = text.partition(" ")
    return AppRoute.of(method, template, "handler", pieces or (template,), host)


ITEM = route("GET /items/{id}", "/items/", ID)


def exempt(*match: str, reason: str = "for people") -> Exemption:
    """An exemption of these routes."""
    return Exemption(match=match, reason=reason)


def covered(
    routes: Sequence[AppRoute],
    policies: Sequence[Policy],
    exemptions: Sequence[Exemption] = (),
    **options: Any,
) -> Coverage:
    """The coverage under these policies."""
    return cover(routes, [(policy, "1") for policy in policies], exemptions, **options)


def only(*arguments: Any, **options: Any) -> Covered:
    """What is known of the last route."""
    return covered(*arguments, **options).routes[-1]


def test_a_route_whose_every_request_is_matched_is_metered(policy: Make) -> None:
    """By all policies that count it, each named once."""
    found = only(
        [ITEM],
        [
            policy(name="item", match="GET /items/:id"),
            policy(name="bytes", match="GET /*", metric="BYTES"),
            policy(name="elsewhere", match="POST /items/:id", metric="OTHER"),
        ],
    )
    assert (found.status, found.policies, found.missed) == ("metered", ("item", "bytes"), None)


@pytest.mark.parametrize(
    ("match", "missed"),
    [
        ("GET /items/{id:int}", "GET /items/x"),
        ("GET /items/{id:uuid}", "GET /items/x"),
        ("GET /items/prices", "GET /items/x"),
    ],
)
def test_a_policy_for_some_paths_meters_partly(policy: Make, match: str, missed: str) -> None:
    """And a request that goes by unmetered is named."""
    found = only([ITEM], [policy(match=match)])
    assert (found.status, found.policies, found.missed) == ("partly", ("chat",), missed)


def test_policies_together_may_meter_a_route(policy: Make) -> None:
    """One for numbers and one for the rest."""
    policies = [
        policy(name="number", match="GET /items/{id:int}"),
        policy(name="name", match="GET /items/:id"),
    ]
    assert only([ITEM], policies).status == "metered"
    assert set(only([ITEM], policies).policies) == {"number", "name"}


def test_a_parameter_of_the_app_is_tried_in_its_form(policy: Make) -> None:
    """A route for numbers is metered by a policy for numbers."""
    number = route("GET /items/{id:int}", "/items/", NUMBER)
    assert only([number], [policy(match="GET /items/{id:int}")]).status == "metered"


def test_a_route_without_a_policy_is_uncovered(policy: Make) -> None:
    """Also if a policy has the same path with another method."""
    found = only([route("GET /other")], [policy(match="POST /other")])
    assert (found.status, found.policies, found.missed) == ("uncovered", (), "GET /other")


def test_a_policy_under_a_condition_meters_partly(policy: Make) -> None:
    """What does not meet it goes by; a second policy without one, or an exemption, closes this."""
    paid = policy(match="GET /items/:id", header={"x-plan": "paid"})
    found = only([ITEM], [paid])
    assert (found.status, found.policies, found.conditional) == ("partly", (), ("chat",))
    assert found.missed == "GET /items/x"
    free = policy(name="free", match="GET /items/:id")
    both = only([ITEM], [paid, free])
    assert (both.status, both.policies, both.conditional) == ("metered", ("free",), ("chat",))
    rest = only([ITEM], [paid], [exempt("GET /items/:id", reason="free plan")])
    assert (rest.status, rest.reason) == ("metered", "free plan")


def test_every_policy_under_a_condition_is_named(policy: Make) -> None:
    """Also a less specific one of the same metric: it counts what the other does not."""
    policies = [
        policy(name="item", match="GET /items/:id", header={"x-plan": "paid"}),
        policy(name="all", match="GET /*", query={"metered": "*"}),
    ]
    assert set(only([ITEM], policies).conditional) == {"item", "all"}
    assert covered([ITEM], policies).idle_policies == ()


def test_a_condition_on_the_host_is_met_by_the_host_of_the_requests(policy: Make) -> None:
    """Which the route or the caller names; under another host the policy says nothing."""
    hosted = policy(match="GET /a", host="api.example.com")
    here, there = (route("GET /a", host=f"{name}.example.com") for name in ("api", "www"))
    anywhere = route("GET /a")
    assert only([here], [hosted]).status == "metered"
    assert only([there], [hosted]).status == "uncovered"
    assert only([anywhere], [hosted]).status == "partly"
    assert only([anywhere], [hosted], host="api.example.com").status == "metered"
    assert only([there], [hosted], host="api.example.com").status == "uncovered"


def test_an_exempt_route_has_its_reason(policy: Make) -> None:
    """The most specific exemption speaks; other routes stay uncovered."""
    exemptions = [exempt("ANY /{rest:path}", reason="all"), exempt("GET /health", reason="probe")]
    found = covered([route("GET /health"), route("GET /x")], [], exemptions)
    assert [(each.status, each.reason) for each in found.routes] == [
        ("exempt", "probe"),
        ("exempt", "all"),
    ]
    assert only([route("GET /x")], [], exemptions[1:]).status == "uncovered"


def test_an_exemption_of_what_is_left_completes_a_route(policy: Make) -> None:
    """Some paths are metered, the others are exempt: every request is decided in writing."""
    found = only([ITEM], [policy(match="GET /items/{id:int}")], [exempt("GET /items/*")])
    assert (found.status, found.policies, found.reason) == ("metered", ("chat",), "for people")


def test_a_path_that_an_earlier_route_serves_is_not_judged_here(policy: Make) -> None:
    """The policy for /items/prices meters that route, and nothing of the one below it."""
    prices = route("GET /items/prices")
    found = covered([prices, ITEM], [policy(match="GET /items/prices")])
    assert [each.status for each in found.routes] == ["metered", "uncovered"]
    other = route("POST /items/prices")
    assert only([other, ITEM], [policy(match="GET /items/prices")]).status == "partly"


def test_a_route_that_is_never_reached_is_judged_as_if_it_were(policy: Make) -> None:
    """It is listed, and a later change of order does not surprise."""
    below = route("GET /items/prices")
    assert only([ITEM, below], [policy(match="GET /items/prices")]).status == "metered"
    assert only([ITEM, below], []).status == "uncovered"


def test_any_method_is_metered_by_any(policy: Make) -> None:
    """A mounted app may answer to all of them."""
    mount = route("ANY /app/{path}", "/app/", REST)
    assert only([mount], [policy(match="ANY /app/{rest:path}")]).status == "metered"
    found = only([mount], [policy(match="GET, POST /app/{rest:path}")])
    assert (found.status, found.missed) == ("partly", "PUT /app/x")


def test_websockets_are_a_method_of_their_own(policy: Make) -> None:
    """GET is not a WebSocket; ANY covers it too."""
    live = route("WEBSOCKET /live")
    assert only([live], [policy(match="GET /live")]).status == "uncovered"
    assert only([live], [policy(match="WEBSOCKET /live")]).status == "metered"
    assert only([live], [policy(match="ANY /live")]).status == "metered"


def test_what_no_route_needs_is_named(policy: Make) -> None:
    """Policies whose routes are gone, exemptions of what is gone or metered; not what is off."""
    found = covered(
        [ITEM],
        [
            policy(name="item", match="GET /items/:id"),
            policy(name="gone", match="GET /old"),
            policy(name="conditional", match="GET /items/:id", metric="M", query={"a": "*"}),
            policy(name="off", match="GET /older", mode="off"),
        ],
        [exempt("GET /items/*"), exempt("GET /gone", "GET /items/:id"), exempt("GET /x")],
    )
    assert found.idle_policies == ("gone",)
    assert len(found.idle_exemptions) == 3
    assert covered([ITEM], [], [exempt("GET /gone", "GET /items/*")]).idle_exemptions == ()


def test_a_policy_that_is_off_meters_nothing(policy: Make) -> None:
    """And one in shadow mode does: its usage is recorded."""
    assert only([ITEM], [policy(match="GET /items/*", mode="off")]).status == "uncovered"
    assert only([ITEM], [policy(match="GET /items/*", mode="shadow")]).status == "metered"
