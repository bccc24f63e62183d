"""UsageFlow: meter any HTTP API and bill for it.

Importing this package loads nothing else: public names are resolved on first use (PEP 562), so an
app pays only for the rooms it touches.
"""

from typing import TYPE_CHECKING, Any

from usageflow._version import __version__

if TYPE_CHECKING:
    from usageflow.events import UsageEvent
    from usageflow.middleware import UsageFlowMiddleware
    from usageflow.policies import Policy

__all__ = ["Policy", "UsageEvent", "UsageFlowMiddleware", "__version__"]

_HOMES = {
    "Policy": "usageflow.policies",
    "UsageEvent": "usageflow.events",
    "UsageFlowMiddleware": "usageflow.middleware",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its room the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
