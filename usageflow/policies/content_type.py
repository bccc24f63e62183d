"""What Content-Type says: the kind of a body, its parameters, and the charset of its text.

Reads header values and decodes text. Does not know what the text means; see `media`, `multipart`.

Sources: RFC 9110, sections 5.6.6 (parameters) and 8.3; RFC 8187 (percent-encoded values); the
WHATWG's Encoding Standard for what "utf-16" means without a byte order mark.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

from usageflow._types import Headers

VALUE_BYTES_MAX: Final = 256
"""Longest Content-Type that is looked into; a boundary has at most 70 characters."""
LONE_PERCENTS_MAX: Final = 20
"""Percent signs of one text that encode nothing and stay; mending each of them takes time."""
EVENT_STREAM: Final = "text/event-stream"
JSON_LINES: Final = frozenset(
    (
        "application/jsonl",
        "application/ndjson",
        "application/stream+json",
        "application/x-jsonlines",
        "application/x-ndjson",
    )
)
"""One JSON text in each line, under many names and no standard."""
JSON_SEQUENCE: Final = "application/json-seq"

_HEADER: Final = b"content-type"
_HEADER_CHARS: Final = len(_HEADER)
_PARAMETER: Final = re.compile(
    rb""";[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|([^;"]*))""",
    re.DOTALL,
)
_LONE_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CODECS: Final = {
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "utf-16": "utf-16-le",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "utf-32": "utf-32-le",
    "utf-32le": "utf-32-le",
    "utf-32be": "utf-32-be",
} | {
    name: name
    for name in (
        "utf-8",
        *(f"iso-8859-{part}" for part in (*range(1, 12), 13, 14, 15, 16)),
        *(f"windows-125{page}" for page in range(9)),
        "shift_jis",
        "gb2312",
        "gbk",
        "gb18030",
        "euc-jp",
        "euc-kr",
        "koi8-r",
        "koi8-u",
    )
}
"""Charsets of texts, by their names in lower case, and Python's codecs for them."""


class ContentType(NamedTuple):
    """A media type in lower case, and the parameters that matter; `codec` is None if unknown."""

    media_type: str
    codec: str | None = "utf-8"
    boundary: bytes = b""


def content_type(headers: Headers) -> ContentType:
    """What the first Content-Type of these headers says; nothing if there is none."""
    for name, value in headers:
        if len(name) == _HEADER_CHARS and name.lower() == _HEADER:
            return parsed(value)
    return _NONE


def parsed(value: bytes) -> ContentType:
    """What this value of the header says; nothing if it is longer than can be meant."""
    return _parsed(value) if len(value) <= VALUE_BYTES_MAX else _NONE


@lru_cache(maxsize=256)
def _parsed(value: bytes) -> ContentType:
    """There are few different ones; of those with a boundary, the latest are remembered."""
    given = dict(parameters(value))
    media_type = value.partition(b";")[0].strip().lower().decode("latin-1")
    return ContentType(
        media_type, codec_of(given.get(b"charset", b"utf-8")), given.get(b"boundary", b"")
    )


def codec_of(charset: bytes) -> str | None:
    """Python's codec for a charset; None for an unknown one, or one that is not for texts."""
    return _CODECS.get(charset.strip().lower().decode("latin-1"))


def decoded(data: bytes, codec: str | None) -> str | None:
    """The text these bytes are in this codec; None if they are none."""
    try:
        return None if codec is None else data.decode(codec)
    except UnicodeDecodeError:
        return None


def parameters(value: bytes) -> list[tuple[bytes, bytes]]:
    """The parameters after the first semicolon, names in lower case, quoted values unquoted.

    Only what quotes and backslashes need is unescaped: names of files are paths in old browsers.
    """
    return [
        (name.lower(), quoted.replace(b'\\"', b'"').replace(b"\\\\", b"\\") or token.rstrip())
        for name, quoted, token in _PARAMETER.findall(value)
    ]


def percent_decoded(data: bytes) -> bytes:
    """What `%XX` stand for; other percent signs stay. Raises ValueError if there are too many.

    The work is done by Python's decoder for its own escapes: urllib takes 100 ms for a megabyte.
    """
    if b"%" not in data:
        return data
    try:
        return _unescaped(data)
    except UnicodeDecodeError:
        return _unescaped(_LONE_PERCENT.sub(b"%25", data, LONE_PERCENTS_MAX))


def _unescaped(data: bytes) -> bytes:
    escaped = data.replace(b"\\", b"%5c").replace(b"%", b"\\x")
    return escaped.decode("unicode_escape").encode("latin-1")


_NONE: Final = ContentType("")
