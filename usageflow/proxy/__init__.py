"""The forwarder behind `usageflow proxy`; see the README of this room."""

from usageflow.proxy.app import ReverseProxy

__all__ = ["ReverseProxy"]
