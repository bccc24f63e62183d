"""The fields of a multipart/form-data body: texts, and what can be said about files.

Reads the whole body, which is bounded, with a few searches that take time in proportion to it.
Never keeps the content of a file, and never raises: what is malformed is a Reason.

Sources: RFC 7578; RFC 2046, section 5.1 (boundaries); RFC 8187 for names with an asterisk.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from usageflow._types import JSON
from usageflow.policies.content_type import (
    codec_of,
    content_type,
    decoded,
    parameters,
    percent_decoded,
)
from usageflow.policies.reason import Reason

PARTS_MAX: Final = 1_000
"""Fields of one form; the work for each is a few microseconds."""
HEAD_BYTES_MAX: Final = 1_280
"""Header lines of a part together; the name of a file has at most 255 bytes, encoded 765."""
HEADERS_MAX: Final = 8
"""Header lines of a part; three have a meaning."""
MARKS_MAX: Final = 16
"""Semicolons and backslashes in Content-Disposition; the name of a file may hold some."""

_BOUNDARY: Final = re.compile(rb"[ -~]{0,69}[!-~]")


def read_multipart(data: bytes, boundary: bytes, label: str) -> JSON | Reason:
    """An object of texts by name; a file is `{"filename", "content_type", "bytes"}`.

    A name that occurs several times is a list.
    """
    if not _BOUNDARY.fullmatch(boundary):
        return _malformed(label, "it has no valid boundary")
    fields: list[tuple[str, JSON]] = []
    pieces = (b"\r\n" + data).split(b"\r\n--" + boundary, PARTS_MAX + 1)
    for piece in pieces[1:]:
        if piece.startswith(b"--"):
            return named_values(fields)
        if len(fields) == PARTS_MAX:
            return Reason(f"{label} has more than {PARTS_MAX} parts")
        field = _field(piece)
        if field is None:
            return _malformed(label, "a part has no valid head")
        fields.append(field)
    return _malformed(label, "its last boundary is missing")


def named_values(pairs: Iterable[tuple[str, JSON]]) -> dict[str, JSON]:
    """An object of the values by name; those of a repeated name are a list."""
    values: dict[str, list[JSON]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _malformed(label: str, what: str) -> Reason:
    return Reason(f"{label} is not multipart/form-data: {what}")


def _field(piece: bytes) -> tuple[str, JSON] | None:
    """Name and value of a part, which begins behind its boundary; None if it is malformed."""
    head, blank, content = piece.partition(b"\r\n\r\n")
    headers = _headers(head) if blank else None
    if headers is None:
        return None
    disposition = headers.get(b"content-disposition", b"")
    if disposition.count(b";") + disposition.count(b"\\") > MARKS_MAX:
        return None
    pairs = parameters(disposition)
    given = dict(pairs)
    name = _text(given, b"name")
    # Of two names the app might take the other one.
    if name is None or len(given) < len(pairs):
        return None
    return name, _value(content, given, headers.get(b"content-type", b""))


def _headers(head: bytes) -> dict[bytes, bytes] | None:
    if len(head) > HEAD_BYTES_MAX or head.count(b"\r\n") > HEADERS_MAX:
        return None
    padding, *lines = head.split(b"\r\n")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name in headers:
            return None
        headers[name] = value
    return None if padding.strip(b" \t") else headers


def _text(given: Mapping[bytes, bytes], name: bytes) -> str | None:
    """A parameter as text; the form of RFC 8187 tells its charset and is preferred."""
    charset, _, extended = given.get(name + b"*", b"").partition(b"'")
    codec = codec_of(charset)
    if codec is None:
        return decoded(given[name], "utf-8") if name in given else None
    try:
        return decoded(percent_decoded(extended.partition(b"'")[2]), codec)
    except ValueError:
        return None


def _value(content: bytes, given: Mapping[bytes, bytes], said: bytes) -> JSON:
    """A text, or a description of what is a file or cannot be read as text."""
    kind = content_type([(b"content-type", said)])
    if b"filename" not in given and b"filename*" not in given:
        text = decoded(content, kind.codec)
        if text is not None:
            return text
    return {
        "filename": _text(given, b"filename"),
        "content_type": kind.media_type or None,
        "bytes": len(content),
    }
