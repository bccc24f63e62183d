"""The demo: everything on loopback, real traffic through both edges, and a comparison."""

from usageflow.demo.run import main

__all__ = ["main"]
