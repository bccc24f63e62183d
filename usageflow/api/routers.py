"""Every router of the HTTP API."""

import importlib
import pkgutil

from fastapi import APIRouter

from usageflow.api import v1


def routers() -> list[APIRouter]:
    """All of them, in the order of their modules."""
    names = [f"{v1.__name__}.{module.name}" for module in pkgutil.iter_modules(v1.__path__)]
    modules = [importlib.import_module(name) for name in sorted(names)]
    return [router for module in modules for router in getattr(module, "routers", [module.router])]
