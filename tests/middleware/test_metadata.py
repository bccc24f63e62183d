"""What the app knows about a request, wherever it keeps it."""

import asyncio
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from usageflow.errors import ConfigurationError
from usageflow.middleware.metadata import check_providers, read_metadata
from usageflow.policies.reason import Reason

TENANT: ContextVar[str] = ContextVar("tenant")


@pytest.mark.parametrize(
    ("state", "name", "value"),
    [
        ({"tenant": "t1"}, "tenant", "t1"),
        ({"tenant": {"id": 7}}, "tenant.id", 7),
        ({"tenant": SimpleNamespace(id="t1")}, "tenant.id", "t1"),
        (SimpleNamespace(tenant={"id": "t1"}), "tenant.id", "t1"),
        ({"tenant": "t1"}, "tenant.id", None),
        ({}, "tenant", None),
        ({}, "tenant.id", None),
        (None, "tenant", None),
        (5, "tenant", None),
    ],
)
def test_state_is_read_by_its_dotted_name(state: object, name: str, value: object) -> None:
    """Through mappings and attributes; what is not there is None."""
    assert read_metadata(name, {"state": state}, {}) == value


def test_a_scope_without_state_knows_nothing() -> None:
    """Not every server makes one."""
    assert read_metadata("tenant", {}, {}) is None


def test_what_a_framework_s_request_keeps_is_found() -> None:
    """Starlette's and FastAPI's `request.state` is the scope's."""
    scope: dict[str, Any] = {"type": "http"}
    Request(scope).state.tenant = "t1"
    assert read_metadata("tenant", scope, {}) == "t1"


def test_a_context_variable_gives_its_value() -> None:
    """Before the state; without a value it gives none."""
    providers = {"tenant": TENANT}
    scope = {"state": {"tenant": "of the state"}}
    assert read_metadata("tenant", scope, providers) is None
    token = TENANT.set("t1")
    assert read_metadata("tenant", scope, providers) == "t1"
    TENANT.reset(token)


def test_a_function_is_asked_with_the_scope() -> None:
    """And a policy may go deeper into its answer."""
    providers = {"user": lambda scope: {"id": scope["path"]}}
    assert read_metadata("user.id", {"path": "/a"}, providers) == "/a"


class Broken:
    """An object of the app that fails when it is looked at."""

    @property
    def id(self) -> str:
        """Not there."""
        raise LookupError("secret")


@pytest.mark.parametrize(
    ("name", "error"), [("fails", "ZeroDivisionError"), ("broken.id", "LookupError")]
)
def test_what_the_app_raises_is_a_reason(name: str, error: str) -> None:
    """Without its message, which may hold anything."""
    providers = {"fails": lambda _: 1 // 0, "broken": lambda _: Broken()}
    assert read_metadata(name, {}, providers) == Reason(f"reading it raised {error}")


def test_a_coroutine_is_never_awaited() -> None:
    """A function that hides one gives a reason and no warning."""
    providers = {"tenant": lambda _: asyncio.sleep(0)}
    found = read_metadata("tenant", {}, providers)
    assert found == Reason("the function is asynchronous; metering awaits nothing of the app")


async def coroutine_function(scope: object) -> str:
    """What an app might pass."""
    return "t1"


class AsyncCallable:
    """What it might also pass."""

    async def __call__(self, scope: object) -> str:
        """Not now."""
        return "t1"


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        ({"tenant": coroutine_function}, "'tenant' is a coroutine function"),
        ({"tenant": AsyncCallable()}, "'tenant' is a coroutine function"),
        ({"tenant": "t1"}, "'tenant' must be a ContextVar or a function"),
        ({"tenant.id": TENANT}, "'tenant.id': a name has no dots"),
        ({"": TENANT}, "'': a name has no dots"),
    ],
)
def test_a_provider_that_cannot_work_is_refused(providers: Any, message: str) -> None:
    """When the middleware is made, not when the first request comes."""
    with pytest.raises(ConfigurationError, match="metadata") as refused:
        check_providers(providers)
    assert message in str(refused.value)


def test_good_providers_are_accepted() -> None:
    """Context variables, functions and callable objects."""
    check_providers({"a": TENANT, "b": lambda _: 1, "c": Request})


@given(st.text(), st.dictionaries(st.text(), st.none() | st.text() | st.integers()))
def test_no_name_raises(name: str, state: dict[str, object]) -> None:
    """Whatever a policy says."""
    read_metadata(name, {"state": state}, {})
