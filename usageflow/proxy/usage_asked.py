"""Asking an OpenAI-style endpoint for a stream's usage, where a policy says so.

The one place where the proxy changes a message: what is added to the request is taken out of the
answer again. What that is, is decided in `middleware.include_usage`; this keeps the body until it
is complete and applies it.
"""

from usageflow.middleware.include_usage import (
    UsageFilter,
    filters,
    wants,
    with_length,
    with_usage,
    without_encodings,
    without_length,
)
from usageflow.proxy.heads import Fields, RequestHead


class UsageAsked:
    """One request whose usage is to be asked for. `applied` once it was."""

    __slots__ = ("_body", "_body_bytes_max", "_filter", "applied")

    def __init__(self, body_bytes_max: int) -> None:
        self._body = b""
        self._body_bytes_max = body_bytes_max
        self._filter: UsageFilter | None = None
        self.applied = False

    @staticmethod
    def fits(head: RequestHead) -> bool:
        """Whether a request with this head may ask for a stream."""
        return head.body_bytes != 0 and wants(head.lowered)

    def collect(self, part: bytes, *, more: bool) -> bytes | None:
        """Take a part of the body; all of it so far once it is complete or too large to change."""
        self._body += part
        if more and len(self._body) <= self._body_bytes_max:
            return None
        return self._body

    def change(self, head: RequestHead, body: bytes) -> tuple[RequestHead, bytes]:
        """The complete request with its wish, or as it was if it has none or has its own."""
        changed = with_usage(body)
        if changed is None:
            return head, body
        self.applied = True
        fields = with_length(without_encodings(head.fields), len(changed))
        lowered = [(name.lower(), value) for name, value in fields]
        length = head.body_bytes if head.body_bytes is None else len(changed)
        head = head._replace(fields=fields, lowered=lowered, named=dict(lowered), body_bytes=length)
        return head, changed

    def filters(self, lowered: Fields) -> bool:
        """Whether the answer with these fields has to be filtered; `feed` it from then on."""
        if self.applied and filters(lowered):
            self._filter = UsageFilter()
        return self._filter is not None

    @staticmethod
    def without_length(fields: Fields) -> Fields:
        """The fields of an answer whose length is not known any more."""
        return without_length(fields)

    def feed(self, part: bytes, *, complete: bool) -> bytes:
        """What the client gets of a part of the answer."""
        if self._filter is None:
            return part
        passed = self._filter.feed(part)
        return passed + self._filter.end() if complete else passed
