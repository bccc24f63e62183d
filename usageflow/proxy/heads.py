"""The heads of HTTP/1.1 messages, read strictly. Pure: bytes in, values out.

What two readers could understand in two ways is refused, never mended (RFC 9112). What may cross
the proxy is decided in `headers`, not here.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from usageflow.proxy.refusals import Refusal

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in order, names as they were sent, duplicates kept, values trimmed."""

LONE_LINE_FEED: Final = re.compile(rb"(?<!\r)\n")
"""In what has come of a head: it can never become a good one."""
UNTIL_CLOSE: Final = -1
"""The length of a body that ends with its connection (RFC 9112, section 6.3, rule 8)."""


class RequestHead(NamedTuple):
    """A request whose fields are sound and whose length is certain.

    `target` is as it was sent, in origin-form or `*`; an absolute-form that names the same host as
    Host is given in origin-form. `minor` is 0 or 1, of HTTP/1.x. `lowered` are the fields with
    names in lower case; `named` maps these names to their last value. `body_bytes` is the length
    of the body; None means chunked.
    """

    method: bytes
    target: bytes
    minor: int
    fields: Fields
    lowered: Fields
    named: dict[bytes, bytes]
    body_bytes: int | None


class ResponseHead(NamedTuple):
    """An answer whose fields are sound. `reason` may be empty; the rest is as in RequestHead.

    `body_bytes` is what the fields say, UNTIL_CLOSE if they say nothing: ask `response_length`.
    """

    status: int
    reason: bytes
    minor: int
    fields: Fields
    lowered: Fields
    named: dict[bytes, bytes]
    body_bytes: int | None


METHOD_BYTES_MAX: Final = 32
"""The longest registered method, UPDATEREDIRECTREF, has 17."""

_LENGTH_DIGITS_MAX: Final = 18
"""Stays within the signed 64 bits that most readers count with."""

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
"""A character of methods, names and other words (RFC 9110, section 5.6.2)."""

TEXT: Final = rb"[^\x00-\x08\x0a-\x1f\x7f]"
"""Anything but control characters; bytes from 0x80 are opaque (RFC 9110, section 5.5)."""

# Possessive repeats (`*+`) never look back: no input takes more than one pass.
# Some servers take `get` for GET, others do not: no method has small letters.
_METHOD: Final = rb"[!#$%%&'*+.^_`|~0-9A-Z-]{1,%d}" % METHOD_BYTES_MAX
_REQUEST_LINE: Final = re.compile(rb"(%b) ([\x21\x22\x24-\x7e]++) HTTP/1\.([01])\r\n" % _METHOD)
_OTHER_TARGET: Final = re.compile(rb"%b [^ ]++ HTTP/1\.[01]\r" % _METHOD)
_OTHER_VERSION: Final = re.compile(rb"%b [\x21-\x7e]++ HTTP/[0-9](\.[0-9])?\r" % _METHOD)
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: (%b*+))?\r\n" % TEXT)
_FIELD: Final = re.compile(rb"^(%b++):[ \t]*+(%b*+)(?<![ \t])\r\n" % (TOKEN, TEXT), re.MULTILINE)
_PADDED_FIELD: Final = re.compile(rb"^(%b++):[ \t]*+(%b*+)\r\n" % (TOKEN, TEXT), re.MULTILINE)
_HOST: Final = re.compile(rb"(?:[0-9A-Za-z._~!$&'()*+;=-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"(https?)://([^/?]++)(/[^?]*+)?(\?.*+)?", re.IGNORECASE)
_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}

_BODILESS: Final = frozenset({204, 304})
_SLASH: Final = ord("/")

_BARE_LINE_FEED: Final = Refusal(400, "bare_line_feed", "A line ends without a carriage return.")
_INVALID_HOST: Final = Refusal(
    400, "invalid_host", "The request must have exactly one valid Host header."
)
_MISLEADING: Final = Refusal(
    400,
    "invalid_header",
    "A header has `_` where another one, or one that the proxy relies on, has `-`.",
)
_AMBIGUOUS: Final = Refusal(400, "invalid_framing", "The length of the body is ambiguous.")

_ALIASES: Final = frozenset(
    {
        b"content_length",
        b"keep_alive",
        b"proxy_authenticate",
        b"proxy_authorization",
        b"proxy_connection",
        b"transfer_encoding",
    }
)
"""CGI and WSGI give `Content_Length` and `Content-Length` to an application under one name."""
_DOUBTFUL: Final = _ALIASES | {b"content-length", b"transfer-encoding"}
"""Without any of these, and with one valid Host, there is nothing to decide: most requests."""


def parse_request(head: bytes, *, line_bytes_max: int, fields_max: int) -> RequestHead | Refusal:
    """Read a head, up to and including its empty line, or say why the request is refused.

    `line_bytes_max` limits the request line without its line end. The hot path.
    """
    line = _REQUEST_LINE.match(head)
    if line is None or line.end() > line_bytes_max + len(b"\r\n"):
        return _line_refusal(head, line_bytes_max)
    fields = read_fields(head, line.end())
    if isinstance(fields, Refusal):
        return fields
    if len(fields) > fields_max:
        return Refusal(431, "too_many_headers", f"The request has more than {fields_max} headers.")
    method, target, minor = line.group(1, 2, 3)
    lowered = [(name.lower(), value) for name, value in fields]
    named = dict(lowered)
    plain = len(named) == len(lowered) and _DOUBTFUL.isdisjoint(named)
    if plain and _HOST.fullmatch(named.get(b"host", b"")):
        length: int | Refusal | None = 0
    else:
        length = _request_length(lowered, named, minor)
    if isinstance(length, Refusal):
        return length
    if head.find(b"_", line.end()) >= 0 and _confusable(named):
        return _MISLEADING
    if target[0] != _SLASH or method == b"CONNECT":
        origin = _origin_form(method, target, named.get(b"host", b""))
        if isinstance(origin, Refusal):
            return origin
        target = origin
    return RequestHead(method, target, 1 if minor == b"1" else 0, fields, lowered, named, length)


def _confusable(named: Mapping[bytes, bytes]) -> bool:
    """Whether two names differ by `_` for `-` alone: CGI and WSGI take one for the other."""
    return len({name.replace(b"_", b"-") for name in named}) < len(named)


def parse_response(head: bytes) -> ResponseHead | str:
    """Read the head of an answer, or say in words what is wrong with it.

    The reason phrase and the space before it may be missing, as some servers leave them out.
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        return "The status line is not one of HTTP/1.1 or HTTP/1.0."
    fields = read_fields(head, line.end())
    if isinstance(fields, Refusal):
        return fields.message
    minor, status, reason = line.group(1, 2, 3)
    lowered = [(name.lower(), value) for name, value in fields]
    named = dict(lowered)
    length = _told_length(lowered, named, minor)
    if isinstance(length, Refusal):
        return length.message
    return ResponseHead(
        int(status), reason or b"", 1 if minor == b"1" else 0, fields, lowered, named, length
    )


def response_length(head: ResponseHead, *, to_head: bool) -> int | None:
    """Bytes of the answer's body; None: chunked; UNTIL_CLOSE: the connection's end is its end.

    `to_head` says that the request was a HEAD. RFC 9112, section 6.3, rules 1 and 4 to 8.
    """
    if to_head or head.status in _BODILESS or head.status < 200:  # noqa: PLR2004 - 1xx is interim
        return 0
    return head.body_bytes


def read_fields(text: bytes, start: int) -> Fields | Refusal:
    """The fields of `text` from `start`, where a line begins, up to the empty line that ends it."""
    fields: Fields = _FIELD.findall(text, start)
    # A match is a whole line: as many matches as lines before the empty one means all of them.
    lines = text.count(b"\n", start) - 1
    if len(fields) != lines:
        padded = _PADDED_FIELD.findall(text, start)
        fields = [(name, value.rstrip(b" \t")) for name, value in padded]
    if len(fields) != lines or not text.endswith(b"\r\n\r\n"):
        return _fields_refusal(text, start)
    return fields


def _line_refusal(head: bytes, line_bytes_max: int) -> Refusal:
    line, feed, _ = head.partition(b"\n")
    if len(line) > line_bytes_max + len(b"\r"):
        return Refusal(
            414, "request_line_too_long", f"The request line is longer than {line_bytes_max} bytes."
        )
    if feed and not line.endswith(b"\r"):
        return _BARE_LINE_FEED
    if _OTHER_TARGET.fullmatch(line):
        return Refusal(400, "invalid_target", "The request target has a character that no URL has.")
    if _OTHER_VERSION.fullmatch(line):
        return Refusal(505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    return Refusal(400, "invalid_request_line", "The request line is not one of HTTP/1.1.")


def _fields_refusal(text: bytes, start: int) -> Refusal:
    for line in text[start:].split(b"\r\n"):
        if b"\n" in line:
            return _BARE_LINE_FEED
        if line[:1] in (b" ", b"\t"):
            return Refusal(400, "obsolete_folding", "A header is folded over several lines.")
    return Refusal(400, "invalid_header", "A header is not a name, a colon and a printable value.")


def _request_length(
    lowered: Fields, named: dict[bytes, bytes], minor: bytes
) -> int | Refusal | None:
    """The length of a request's body, of which no word means none; or what is wrong with it."""
    host = named.get(b"host")
    if host is None:
        sound = minor == b"0"
    else:
        sound = _HOST.fullmatch(host) is not None and _is_single(b"host", lowered, named)
    if not sound:
        return _INVALID_HOST
    if not _ALIASES.isdisjoint(named):
        return _MISLEADING
    length = _told_length(lowered, named, minor)
    return 0 if length == UNTIL_CLOSE else length


def _told_length(lowered: Fields, named: dict[bytes, bytes], minor: bytes) -> int | Refusal | None:
    """The length that the fields tell: bytes, None for chunked, UNTIL_CLOSE for no word of it."""
    length = named.get(b"content-length")
    coding = named.get(b"transfer-encoding")
    if coding is None:
        if length is None:
            return UNTIL_CLOSE
        if _is_length(length) and _is_single(b"content-length", lowered, named):
            return int(length)
        return _AMBIGUOUS
    if length is not None or minor == b"0":
        return _AMBIGUOUS
    if coding.lower() != b"chunked" or not _is_single(b"transfer-encoding", lowered, named):
        return Refusal(501, "unknown_coding", "The only transfer coding known here is chunked.")
    return None


def _is_length(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _LENGTH_DIGITS_MAX


def _is_single(name: bytes, lowered: Fields, named: dict[bytes, bytes]) -> bool:
    """Whether a field that is there is there once. Seldom is any there twice."""
    return len(named) == len(lowered) or sum(field[0] == name for field in lowered) == 1


def _origin_form(method: bytes, target: bytes, host: bytes) -> bytes | Refusal:
    """The target as an origin server is asked for it (RFC 9112, section 3.2)."""
    if method == b"CONNECT":
        return Refusal(501, "connect_not_supported", "This proxy opens no tunnels.")
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return Refusal(400, "invalid_target", "The request target must be a path from '/'.")
    scheme, authority, path, query = absolute.groups()
    port = _DEFAULT_PORTS[scheme.lower()]
    if authority.lower().removesuffix(port) != host.lower().removesuffix(port):
        return Refusal(400, "invalid_target", "The request target names another host than Host.")
    if path is None and query is None and method == b"OPTIONS":
        return b"*"
    return (path or b"/") + (query or b"")
