"""The ASGI face: `UsageFlowMiddleware`, three lines in an app, or around the proxy."""

from usageflow.middleware.asgi import UsageFlowMiddleware
from usageflow.middleware.exchange import Exchange
from usageflow.middleware.feed import Feed, FixedFeed

__all__ = ["Exchange", "Feed", "FixedFeed", "UsageFlowMiddleware"]
