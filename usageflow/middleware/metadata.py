"""What the app knows about a request: `scope["state"]`, a context variable, or a function.

Asked when the response is complete, so that the app has had its chance to say it. Judges no value;
the policies do.
"""

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from usageflow._types import Scope
from usageflow.errors import ConfigurationError
from usageflow.policies.reason import Reason

Provider: TypeAlias = ContextVar[Any] | Callable[[Scope], object]
"""Where a name's value comes from instead of `scope["state"]`; a function gets the ASGI scope."""


def check_providers(providers: Mapping[str, Provider]) -> None:
    """Raise ConfigurationError for a provider that can never give a value."""
    for name, provider in providers.items():
        if not name or "." in name:
            raise ConfigurationError(
                f"metadata {name!r}: a name has no dots; a policy's `name` may go deeper with them"
            )
        if isinstance(provider, ContextVar):
            continue
        if not callable(provider):
            raise ConfigurationError(
                f"metadata {name!r} must be a ContextVar or a function of the ASGI scope"
            )
        if inspect.iscoroutinefunction(provider) or inspect.iscoroutinefunction(
            getattr(provider, "__call__", None)  # noqa: B004 - an object may have an async one
        ):
            raise ConfigurationError(
                f"metadata {name!r} is a coroutine function; metering awaits nothing of the app"
            )


def read_metadata(name: str, scope: Scope, providers: Mapping[str, Provider]) -> object:
    """The value at this dotted name, None if there is none, a Reason if it cannot be read.

    The first part of the name is a provider's or an entry of `scope["state"]`; the others are keys
    or attributes below it. Never raises.
    """
    first, *rest = name.split(".")
    try:
        provider = providers.get(first)
        if provider is None:
            value = _entry(scope.get("state"), first)
        else:
            value = provider.get(None) if isinstance(provider, ContextVar) else provider(scope)
        for key in rest:
            value = _entry(value, key)
    except Exception as error:  # noqa: BLE001 - the app's code; metering must not break the app
        return Reason(f"reading it raised {type(error).__name__}")
    if inspect.iscoroutine(value):
        value.close()  # else the interpreter warns that nobody awaited it
        return Reason("the function is asynchronous; metering awaits nothing of the app")
    return value


def _entry(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
