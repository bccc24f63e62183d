"""Which header fields cross the proxy, and what it adds. Pure.

Fields that belong to one connection (RFC 9110, section 7.6.1) stay on it; all others keep their
order, their duplicates and every byte of their names and values. How a body is framed was decided
in `heads`. This module sends nothing and knows nothing about metering.
"""

from itertools import product
from typing import Final

from usageflow.policies.hops import HOP_HEADERS
from usageflow.proxy.heads import Fields, RequestHead, ResponseHead

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
"""Fields that say who called the proxy; what they become is decided in `forwarded`."""

_SPELLED: Final = frozenset(
    bytes(spelling)
    for name in FORWARDED
    for spelling in product(*(b"-_" if letter in b"-" else (letter,) for letter in name))
)
"""CGI and WSGI read `X_Forwarded-For` as the same field."""
_STOPPED: Final = HOP_BY_HOP | _SPELLED | HOP_HEADERS
_HEARSAY: Final = frozenset(
    {
        *(b"x-forwarded-by", b"x-forwarded-path", b"x-forwarded-port", b"x-forwarded-prefix"),
        *(b"x-forwarded-proto-version", b"x-forwarded-scheme", b"x-forwarded-server"),
        *(b"x-forwarded-ssl", b"x-forwarded-uri", b"x-forwarded-method", b"x-forwarded-user"),
        *(b"x-real-ip", b"x-client-ip", b"true-client-ip", b"x-original-host", b"x-original-url"),
        *(b"x-rewrite-url", b"x-forwarded-client-cert", b"x-forwarded-tls-client-cert"),
    }
)
"""More that a proxy in front might have said and that servers and frameworks believe: it is passed
on from trusted peers alone. We set none of it."""
_STOPPED_OF_STRANGERS: Final = _STOPPED | _HEARSAY
_NONE: Final[frozenset[bytes]] = frozenset()
_KEPT: Final = frozenset({b"host", b"expect", b"content-length"})
"""Never a client's to remove by naming them in Connection."""
_NO_CONTENT: Final = 204
_FINAL_FROM: Final = 200


def request_fields(head: RequestHead, *, trusted: bool) -> Fields:
    """The fields of a request that are sent on as they are. The hot path.

    `trusted`: its peer is believed in what it says of those before it.
    """
    stopped = _stopped(head, trusted=trusted)
    if not stopped:
        return head.fields
    return [
        field
        for field, (name, _) in zip(head.fields, head.lowered, strict=True)
        if name not in stopped
    ]


def seen_fields(head: RequestHead, added: Fields, *, trusted: bool) -> Fields:
    """What the upstream sees, names in lower case; policies see the same, and what an edge said.

    An identity that the upstream never saw must not be billed.
    """
    stopped = _stopped(head, trusted=trusted) - HOP_HEADERS
    seen = head.lowered
    if stopped:
        seen = [field for field in seen if field[0] not in stopped]
    return [*seen, *added]


def _stopped(head: RequestHead, *, trusted: bool) -> frozenset[bytes]:
    """The names in this request that are not sent on; none for most."""
    suspect = _STOPPED if trusted else _STOPPED_OF_STRANGERS
    if suspect.isdisjoint(head.named):
        return _NONE
    return (suspect | tokens(head, b"connection")) - _KEPT


def request_bytes(head: RequestHead, fields: Fields, added: Fields, *, host: bytes | None) -> bytes:
    """The head of the request to send. `host`: what replaces the client's Host, or None.

    The target is byte for byte as it came.
    """
    if host is not None:
        fields = with_host(fields, host)
    lines = [b"%b %b HTTP/1.1" % (head.method, head.target)]
    lines += [b"%b: %b" % field for field in (*fields, *added)]
    lines.append(b"Transfer-Encoding: chunked\r\n\r\n" if head.body_bytes is None else b"\r\n")
    return b"\r\n".join(lines)


def with_host(fields: Fields, host: bytes) -> Fields:
    """The fields with this Host in the place of the one there was, or first."""
    if any(name.lower() == b"host" for name, _ in fields):
        return [(n, host) if n.lower() == b"host" else (n, value) for n, value in fields]
    return [(b"Host", host), *fields]


def connection_fields(head: RequestHead, *, upgrading: bool) -> Fields:
    """The fields about the connection that are sent on: an upgrade, or the wish for trailers."""
    if upgrading:
        return [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    if wants_trailers(head):
        return [(b"TE", b"trailers"), (b"Connection", b"TE")]
    return []


def wants_trailers(head: RequestHead) -> bool:
    """Whether the client reads fields after the body (RFC 9110, section 10.1.4)."""
    return b"te" in head.named and b"trailers" in tokens(head, b"te")


def asks_websocket(head: RequestHead) -> bool:
    """Whether this is the handshake of a WebSocket (RFC 6455, section 4.1)."""
    return (
        b"upgrade" in head.named
        and head.minor == 1
        and head.method == b"GET"
        and head.body_bytes == 0
        and b"websocket" in tokens(head, b"upgrade")
        and b"upgrade" in tokens(head, b"connection")
    )


def persists(head: RequestHead) -> bool:
    """Whether the client wants its connection kept (RFC 9112, section 9.3)."""
    if b"connection" not in head.named:
        return head.minor == 1
    options = tokens(head, b"connection")
    return b"close" not in options and (head.minor == 1 or b"keep-alive" in options)


def expects_continue(head: RequestHead) -> bool:
    """Whether the client waits for 100 before it sends its body (RFC 9110, section 10.1.1)."""
    return b"expect" in head.named and b"100-continue" in tokens(head, b"expect")


def answer_fields(head: ResponseHead) -> tuple[Fields, Fields]:
    """The fields of an answer that cross, as they are and with lower-case names. The hot path.

    A 1xx and a 204 lose the Content-Length that they must not have (RFC 9110, section 8.6): whoever
    believed it would take the next answer for a body.
    """
    lengthless = head.status < _FINAL_FROM or head.status == _NO_CONTENT
    if not lengthless and HOP_BY_HOP.isdisjoint(head.named):
        return head.fields, head.lowered
    stopped = HOP_BY_HOP | (tokens(head, b"connection") - _KEPT)
    if lengthless:
        stopped |= {b"content-length"}
    crossing = [
        (field, lowered)
        for field, lowered in zip(head.fields, head.lowered, strict=True)
        if lowered[0] not in stopped
    ]
    return [field for field, _ in crossing], [lowered for _, lowered in crossing]


def answer_bytes(status: int, reason: bytes, fields: Fields, ending: bytes) -> bytes:
    """The head of an answer; `ending` has the lines that say how it is framed, and the last one."""
    lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    lines += [b"%b: %b" % field for field in fields]
    lines.append(ending)
    return b"\r\n".join(lines)


def answer_ending(*, minor: int, keep: bool, chunked: bool) -> bytes:
    """The lines of an answer's head about the connection to a client of HTTP/1.`minor`, and the
    empty line.
    """
    lines = b"Transfer-Encoding: chunked\r\n" if chunked else b""
    if not keep:
        lines += b"Connection: close\r\n"
    elif not minor:
        lines += b"Connection: keep-alive\r\n"
    return lines + b"\r\n"


def tokens(head: RequestHead | ResponseHead, name: bytes) -> frozenset[bytes]:
    """The comma-separated words of all fields of this name, lower-case."""
    if name not in head.named:
        return frozenset()
    return frozenset(
        word.strip().lower()
        for told, value in head.lowered
        if told == name
        for word in value.split(b",")
    )


def values(head: RequestHead, names: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """The values of these fields in order, by name in lower case."""
    found: dict[bytes, list[bytes]] = {}
    if not names.isdisjoint(head.named):
        for name, value in head.lowered:
            if name in names:
                found.setdefault(name, []).append(value)
    return found
