"""The ASGI and JSON shapes we pass around; our own, so that no framework is needed to read them.

Source: the ASGI specification 3.0, HTTP and lifespan message formats.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in order, names lower-case, duplicates kept, as ASGI gives them."""

JSON: TypeAlias = Any
"""Parsed JSON: dict, list, str, int, Decimal, bool or None. Never a float."""
