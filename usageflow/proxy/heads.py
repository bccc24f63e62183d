"""The heads of HTTP/1.1 messages, read strictly. Pure: bytes in, values out.

What two readers could understand in two ways is refused, never mended (RFC 9112). What may cross
the proxy is decided in `headers`, not here.
"""

from typing import NamedTuple, TypeAlias

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in order, names as they were sent, duplicates kept, values trimmed."""


class RequestHead(NamedTuple):
    """`target` is as it was sent: origin-form, or `*`. `minor` is 0 or 1, of HTTP/1.x."""

    method: bytes
    target: bytes
    minor: int
    fields: Fields


class ResponseHead(NamedTuple):
    """`reason` may be empty. `minor` is 0 or 1, of HTTP/1.x."""

    status: int
    reason: bytes
    minor: int
    fields: Fields
