"""The HTTP API of the server: what edges and operators may ask over the network.

It knows HTTP, keys and limits. What events and policies mean is the ledger's and the catalog's.
"""

from usageflow.api.app import create_api

__all__ = ["create_api"]
