"""Which header fields cross the proxy, and how each side's body is framed. Pure.

Fields that belong to one connection (RFC 9110, section 7.6.1) stay on it; all others keep their
order, their duplicates and every byte of their values. Framing is decided here and nowhere else:
what a parser left ambiguous is refused, so that no two readers can disagree about where a message
ends. This module sends nothing and knows nothing about metering.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from usageflow._types import Headers, Scope
from usageflow.proxy.refusals import Refusal

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields about one connection (RFC 9110, section 7.6.1); `Connection` may name more."""

FORWARDED: Final = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
)
"""Fields that say who called the proxy. A client's own copies prove nothing: they are replaced."""

_INSPECTED_IN_REQUEST: Final = HOP_BY_HOP | FORWARDED | {b"host", b"content-length"}
_INSPECTED_IN_RESPONSE: Final = HOP_BY_HOP | {b"content-length"}
_KEPT: Final = frozenset({b"host", b"content-length"})

_BODILESS: Final = frozenset({204, 304})
"""Answers that never have a body, whatever their fields say (RFC 9112, section 6.3)."""

_Inspected = dict[bytes, list[bytes]]


class RequestHead(NamedTuple):
    """The fields to send. `body_bytes` is the length of the body; None means chunked."""

    fields: Headers
    body_bytes: int | None


class ResponseHead(NamedTuple):
    """The answer's status and fields. `until_close`: the end of the connection ends its body."""

    status: int
    fields: Headers
    until_close: bool


def request_head(scope: Scope, authority: bytes) -> RequestHead | Refusal:
    """What to send upstream for an ASGI http scope, or why it is refused.

    `authority` becomes the Host of an HTTP/1.0 request that has none; every other Host is kept.
    """
    kept, inspected = _sorted_out(scope["headers"], _INSPECTED_IN_REQUEST)
    hosts = inspected.get(b"host", [])
    refusal = _target_refusal(scope) or _host_refusal(scope, hosts) or _framing_refusal(inspected)
    if refusal:
        return refusal
    if not hosts:
        kept.insert(0, (b"host", authority))
    if b"connection" in inspected:
        kept = _without(kept, _tokens(inspected[b"connection"]))
    if b"trailers" in _tokens(inspected.get(b"te", ())):
        kept += ((b"te", b"trailers"), (b"connection", b"te"))
    kept += _forwarded(scope, hosts)
    if b"transfer-encoding" in inspected:
        kept.append((b"transfer-encoding", b"chunked"))
        return RequestHead(kept, None)
    lengths = inspected.get(b"content-length")
    return RequestHead(kept, int(lengths[0]) if lengths else 0)


def response_head(status: int, fields: Headers, *, to_head: bool) -> ResponseHead | str:
    """The head to give to the client, or in words what is wrong with the upstream's.

    `to_head` says that the request was a HEAD. Content-Length is dropped from 204, which must not
    have one, and from 304, where it is optional and ASGI servers insist on a body of that length.
    """
    if not 200 <= status <= 599:  # noqa: PLR2004 - the final statuses of RFC 9110, section 15
        return f"status {status}"
    kept, inspected = _sorted_out(fields, _INSPECTED_IN_RESPONSE)
    if b"connection" in inspected:
        kept = _without(kept, _tokens(inspected[b"connection"]))
    if status in _BODILESS:
        kept = [field for field in kept if field[0] != b"content-length"]
    codings = inspected.get(b"transfer-encoding")
    lengths = inspected.get(b"content-length")
    if to_head or status in _BODILESS:
        return ResponseHead(status, kept, until_close=False)
    if codings and (lengths or not _is_chunked(codings)):
        return "a transfer coding other than chunked, or a length beside it"
    return ResponseHead(status, kept, until_close=not (codings or lengths))


def request_bytes(scope: Scope, fields: Headers) -> bytes:
    """The head of an HTTP/1.1 request, with path and query byte for byte as they were received.

    ASGI drops the question mark of an empty query, so `/a?` is sent as `/a`.
    """
    query = scope["query_string"]
    parts = [scope["method"].encode("ascii"), b" ", scope["raw_path"]]
    parts += (b"?", query, b" HTTP/1.1\r\n") if query else (b" HTTP/1.1\r\n",)
    for name, value in fields:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def _sorted_out(
    fields: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]
) -> tuple[Headers, _Inspected]:
    """The fields that may pass, and the values of those that need a decision. The hot path."""
    kept: Headers = []
    inspected: _Inspected = {}
    for field in fields:
        name = field[0]
        if name in names:
            inspected.setdefault(name, []).append(field[1])
            if name not in _KEPT:
                continue
        kept.append(field)
    return kept, inspected


def _target_refusal(scope: Scope) -> Refusal | None:
    if scope["raw_path"].startswith(b"/"):
        return None
    return Refusal(400, "invalid_target", "The request target must be a path that starts with '/'.")


def _host_refusal(scope: Scope, hosts: list[bytes]) -> Refusal | None:
    if len(hosts) == 1 or (not hosts and scope["http_version"] == "1.0"):
        return None
    return Refusal(400, "invalid_host", "The request must have exactly one Host header.")


def _framing_refusal(inspected: _Inspected) -> Refusal | None:
    codings = inspected.get(b"transfer-encoding")
    lengths = inspected.get(b"content-length")
    if lengths and (codings or len(lengths) > 1 or not lengths[0].isdigit()):
        return Refusal(400, "invalid_framing", "The length of the request's body is ambiguous.")
    if codings and not _is_chunked(codings):
        return Refusal(501, "unknown_coding", "The only transfer coding known here is chunked.")
    return None


def _forwarded(scope: Scope, hosts: list[bytes]) -> Headers:
    fields = [(b"x-forwarded-proto", scope["scheme"].encode("ascii"))]
    client = scope.get("client")
    if client:
        fields.append((b"x-forwarded-for", client[0].encode("ascii")))
    if hosts:
        fields.append((b"x-forwarded-host", hosts[0]))
    return fields


def _is_chunked(codings: list[bytes]) -> bool:
    return len(codings) == 1 and codings[0].strip().lower() == b"chunked"


def _tokens(values: Iterable[bytes]) -> set[bytes]:
    return {token.strip().lower() for value in values for token in value.split(b",")}


def _without(fields: Headers, names: set[bytes]) -> Headers:
    """`fields` less the named ones; Host and the framing are never a client's to remove."""
    names -= _KEPT
    return [field for field in fields if field[0] not in names]
