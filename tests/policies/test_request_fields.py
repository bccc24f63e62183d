"""One value of a request by its name; how it is judged is in test_identity."""

from collections.abc import Callable

import pytest

from usageflow.policies.facts import Facts
from usageflow.policies.reason import Reason
from usageflow.policies.request_fields import Finder, cookie, header, query


@pytest.mark.parametrize(
    ("find", "changes"),
    [
        (header("x"), {"request_headers": [(b"x", b"1"), (b"x", b"1")]}),
        (query("x"), {"query_string": b"x=1&x=1"}),
        (cookie("x"), {"request_headers": [(b"cookie", b"x=1; x=1"), (b"cookie", b'x="1"')]}),
    ],
)
def test_the_same_value_twice_is_one_value(
    facts: Callable[..., Facts], find: Finder, changes: dict[str, object]
) -> None:
    """Proxies repeat fields; nothing is ambiguous about it."""
    assert find(facts(**changes)) == "1"


@pytest.mark.parametrize(
    ("find", "changes"),
    [
        (header("x"), {"request_headers": [(b"x", b"1"), (b"x", b"2")]}),
        (query("x"), {"query_string": b"x=1&x=2"}),
        (cookie("x"), {"request_headers": [(b"cookie", b"x=1"), (b"cookie", b"x=2")]}),
    ],
)
def test_two_values_are_none(
    facts: Callable[..., Facts], find: Finder, changes: dict[str, object]
) -> None:
    """The app may read the other one."""
    found = find(facts(**changes))
    assert isinstance(found, Reason)
    assert found.text.endswith("x occurs with different values")


def test_a_cookie_is_not_looked_for_in_other_headers(facts: Callable[..., Facts]) -> None:
    """Nor in a cookie whose name or value merely contains it."""
    headers = [(b"x", b"t=1"), (b"cookie", b"at=1; ta=1; a=t; t")]
    assert cookie("t")(facts(request_headers=headers)) == Reason("cookie t is absent")


def test_a_long_header_of_cookies_is_read_in_time(facts: Callable[..., Facts]) -> None:
    """As long as servers let them be; the one we look for is at the end."""
    line = b"; ".join(b"c%d=t" % number for number in range(6_000)) + b"; t=1"
    assert len(line) > 50_000
    assert cookie("t")(facts(request_headers=[(b"cookie", line)])) == "1"
