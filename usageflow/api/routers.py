"""Every router of the HTTP API: a module of `api.v1` for each noun, and the documents' dialects."""

import importlib
import pkgutil

from fastapi import APIRouter

from usageflow.api import invoices, subscriptions, v1


def routers() -> list[APIRouter]:
    """All of them: the dialects, then `/api/v1` in the order of its modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(v1.__path__))
    modules = [importlib.import_module(f"{v1.__name__}.{name}") for name in names]
    found = [invoices.router, subscriptions.router]
    for module in modules:
        found += getattr(module, "routers", None) or [module.router]
    return found
