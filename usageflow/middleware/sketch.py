"""What can be told of an exchange without telling what was in it: names, paths and types.

Never a value of a header, parameter, cookie, token or body; a name that may be a value itself is
`*`, and what stands where a name should be, without a value, is not told. A table whose few keys
are words, such as names of people, cannot be told from an object. Everything is bounded. Pure.
"""

import base64
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

import msgspec

from usageflow._types import JSON, Headers
from usageflow.middleware.templates import NAME_CHARS_MAX
from usageflow.policies.content_type import EVENT_STREAM, JSON_LINES, JSON_SEQUENCE
from usageflow.policies.decoding import open_decoder
from usageflow.policies.json_text import decode_json
from usageflow.policies.media import read_document
from usageflow.policies.query import query_pairs
from usageflow.policies.reason import Reason

PATHS_MAX: Final = 100
"""Paths told of one body or token."""
DEPTH_MAX: Final = 6
"""Steps of the longest path."""
KEYS_MAX: Final = 30
"""Keys of an object; one with more is a table of values, and its keys are `*`."""
ITEMS_MAX: Final = 10
"""Items of a list that are looked at; the others are like them."""
NODES_MAX: Final = 1_000
"""Values of a document that are looked at; bounds the time a look takes."""
NAMES_MAX: Final = 50
"""Names told of one kind."""
FIELDS_MAX: Final = 500
"""Headers, parameters or cookies of a request whose names are looked at."""
TEXT_BYTES_MAX: Final = 8_192
"""Longest token and query that is looked into; most servers take no longer ones."""
DECODED_BYTES_MAX: Final = 262_144
"""Most bytes that a body is decoded to."""
DECODE_CPU_S_MAX: Final = 0.005
"""Longest time that takes, on the event loop."""
LINES_MAX: Final = 100
"""Lines at the end of a stream that are looked at; most are no events."""
EVENTS_MAX: Final = 5
"""Events at the end of a stream that are looked at; usage is told in the last ones."""

ANY_NAME: Final = "*"
STREAMS: Final = JSON_LINES | {EVENT_STREAM, JSON_SEQUENCE}
_COMMON: Final = re.compile(
    r"(accept|content|if|sec|traceparent|tracestate|x-b3|x-forwarded)(-.*)?|authority|cache-control"
    r"|connection|cookie|date|dnt|expect|forwarded|host|keep-alive|origin|pragma|priority|range"
    r"|referer|te|trailer|transfer-encoding|upgrade(-insecure-requests)?|user-agent|via|x-real-ip"
    r"|x-request-id"
)
"""Headers that clients and proxies send everywhere."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]-]*")
_VALUE_IN_NAME: Final = re.compile(
    r"\d{5,}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{12,}"
)
"""Long numbers, UUIDs, and twelve or more letters and digits mixed."""
_BARE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORM: Final = "application/x-www-form-urlencoded"
_JWT_PARTS: Final = 3
_TYPES: Final[dict[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    Decimal: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,60}")

Paths: TypeAlias = dict[str, tuple[str, ...]]
"""JMESPath below a document -> the JSON types seen there."""


class Sketch(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the exchanges of one endpoint look like."""

    request: Paths = {}
    response: Paths = {}
    claims: Paths = {}
    """Of a bearer token that nobody verified."""
    headers: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    request_types: tuple[str, ...] = ()
    response_types: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()


class Look(NamedTuple):
    """One exchange, looked at closely. A body is empty if it was not seen, or too large."""

    request_headers: Headers
    query_string: bytes
    request_body: bytes
    status: int
    response_headers: Headers
    response_body: bytes


def sketch_of(look: Look) -> Sketch:
    """The names and types of one exchange."""
    names = (_text(name).lower() for name, _ in look.request_headers)
    query = look.query_string if len(look.query_string) <= TEXT_BYTES_MAX else b""
    return Sketch(
        request=_body_paths(look.request_body, look.request_headers),
        response=_body_paths(look.response_body, look.response_headers),
        claims=_claims(look.request_headers),
        headers=_names(name for name in names if not _COMMON.fullmatch(name)),
        query=_names(name for name, _ in _pairs(query)),
        cookies=_names(_cookies(look.request_headers)),
        request_types=_names(_media_types(look.request_headers), _MEDIA_TYPE),
        response_types=_names(_media_types(look.response_headers), _MEDIA_TYPE),
        statuses=(look.status,),
    )


def merged(one: Sketch, other: Sketch) -> Sketch:
    """Both together, within the bounds of one."""
    return Sketch(
        request=_merged_paths(one.request, other.request),
        response=_merged_paths(one.response, other.response),
        claims=_merged_paths(one.claims, other.claims),
        headers=_merged_names(one.headers, other.headers),
        query=_merged_names(one.query, other.query),
        cookies=_merged_names(one.cookies, other.cookies),
        request_types=_merged_names(one.request_types, other.request_types),
        response_types=_merged_names(one.response_types, other.response_types),
        statuses=tuple(sorted({*one.statuses, *other.statuses})[:NAMES_MAX]),
    )


def paths_of(document: JSON) -> Paths:
    """Where the values of a document are, and of which types; those near its top come first."""
    found: dict[str, set[str]] = {}
    waiting = deque([("", document, 0)])
    left = NODES_MAX
    while waiting:
        path, value, depth = waiting.popleft()
        inside = list(islice(_inside(path, value), left)) if depth < DEPTH_MAX else []
        left -= len(inside)
        if inside:
            waiting.extend((place, inner, depth + 1) for place, inner in inside)
        elif path and (path in found or len(found) < PATHS_MAX):
            found.setdefault(path, set()).add(_TYPES.get(type(value), "object"))
    return {path: tuple(sorted(types)) for path, types in found.items()}


def media_type(headers: Headers) -> str:
    """What the body of these headers is, without parameters; "" if nothing valid is said."""
    return next(_media_types(headers), "")


def _inside(path: str, value: JSON) -> Iterator[tuple[str, JSON]]:
    """The places below a value."""
    if isinstance(value, list):
        return ((f"{path}[]", item) for item in value[:ITEMS_MAX])
    if not isinstance(value, dict):
        return iter(())
    dot = "." if path else ""
    if len(value) > KEYS_MAX:
        return ((f"{path}{dot}{ANY_NAME}", item) for item in islice(value.values(), ITEMS_MAX))
    return ((f"{path}{dot}{_key(key)}", item) for key, item in value.items())


def _key(key: str) -> str:
    """A key as JMESPath writes it."""
    key = _name(key)
    return key if key == ANY_NAME or _BARE.fullmatch(key) else json.dumps(key)


def _name(text: str, form: re.Pattern[str] = _NAME) -> str:
    """A name of this form, or `*` for what may be a value itself."""
    named = len(text) <= NAME_CHARS_MAX and form.fullmatch(text)
    return text if named and not _VALUE_IN_NAME.search(text) else ANY_NAME


def _names(texts: Iterable[str], form: re.Pattern[str] = _NAME) -> tuple[str, ...]:
    names = (_name(text, form) for text in islice(texts, FIELDS_MAX))
    return tuple(islice(dict.fromkeys(names), NAMES_MAX))


def _body_paths(body: bytes, headers: Headers) -> Paths:
    if not body:
        return {}
    if media_type(headers) in STREAMS:
        documents = list(_events(body))
    else:
        documents = [_document(body, headers)]
    paths: Paths = {}
    for document in documents:
        if not isinstance(document, Reason):
            paths = _merged_paths(paths, paths_of(document))
    return paths


def _document(body: bytes, headers: Headers) -> JSON | Reason:
    decoder = open_decoder(headers, bytes_max=DECODED_BYTES_MAX, cpu_s_max=DECODE_CPU_S_MAX)
    if isinstance(decoder, Reason):
        return decoder
    if decoder is not None:
        body = decoder.feed(body)
        decoder.end()
        if decoder.problem is not None:
            return Reason(decoder.problem)
    if media_type(headers) == _FORM:
        body = _fields(body)
    return read_document(body, headers, "body")


def _pairs(query: bytes) -> list[tuple[str, str]]:
    pairs = query_pairs(_fields(query))
    return [] if isinstance(pairs, Reason) else pairs


def _fields(pairs: bytes) -> bytes:
    """Of a query or form the pairs with a name and a value.

    What stands alone is as often a value that was sent without a name: `curl -d "$KEY"`.
    """
    few = pairs.split(b"&", FIELDS_MAX)[:FIELDS_MAX]
    return b"&".join(pair for pair in few if _has_value(pair))


def _has_value(pair: bytes) -> bool:
    """Not so for `a`, nor for `a=` and `a==`, which may be Base64."""
    return bool(pair.partition(b"=")[2].strip(b"= "))


def _events(tail: bytes) -> Iterator[JSON]:
    """The last documents of a stream: lines of JSON, behind `data:` or a separator (RFC 7464)."""
    found = 0
    for line in reversed(tail.rsplit(b"\n", LINES_MAX)[-LINES_MAX:]):
        document = decode_json(line.removeprefix(b"data:").removeprefix(b"\x1e"), "event")
        if isinstance(document, dict):
            found += 1
            yield document
        if found == EVENTS_MAX:
            return


def _claims(headers: Headers) -> Paths:
    for name, value in headers:
        scheme, _, token = value.partition(b" ")
        if name == b"authorization" and scheme.lower() == b"bearer":
            return paths_of(_payload(token.strip()))
    return {}


def _payload(token: bytes) -> JSON:
    """What a JWT says (RFC 7519), believed by nobody; nothing for any other token."""
    parts = token.split(b".", 3)
    if len(parts) != _JWT_PARTS or len(token) > TEXT_BYTES_MAX:
        return None
    try:
        text = base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4))
    except ValueError:
        return None
    document = decode_json(text, "token")
    return document if isinstance(document, dict) else None


def _cookies(headers: Headers) -> Iterator[str]:
    for name, value in headers:
        if name == b"cookie":
            pairs = filter(_has_value, value.split(b";"))
            yield from (_text(pair.partition(b"=")[0].strip()) for pair in pairs)


def _media_types(headers: Headers) -> Iterator[str]:
    for name, value in headers:
        if name.lower() == b"content-type":
            kind = _text(value).partition(";")[0].strip().lower()
            if _MEDIA_TYPE.fullmatch(kind):
                yield kind


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _merged_paths(one: Paths, other: Paths) -> Paths:
    if not other:
        return one
    paths = dict.fromkeys([*one, *other])
    return {
        path: tuple(sorted({*one.get(path, ()), *other.get(path, ())}))
        for path in islice(paths, PATHS_MAX)
    }


def _merged_names(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(islice(dict.fromkeys([*one, *other]), NAMES_MAX))
