"""Ids of what people see: a prefix that tells what it is, and a UUIDv7, so they sort by age."""

from uuid_utils import uuid7


def new_id(prefix: str) -> str:
    """`PREFIX_` and 32 hex digits: `inv_0198...`."""
    return f"{prefix}_{uuid7().hex}"
