"""What the bytes of a body mean: JSON in any charset, forms, and what is no single document.

Reads the whole content of a body, which is bounded and without content encodings. Knows no policy.
"""

import codecs
from typing import Final

from usageflow._types import JSON, Headers
from usageflow.policies.content_type import (
    EVENT_STREAM,
    JSON_LINES,
    JSON_SEQUENCE,
    ContentType,
    content_type,
    decoded,
    percent_decoded,
)
from usageflow.policies.json_text import decode_json
from usageflow.policies.multipart import named_values, read_multipart
from usageflow.policies.reason import Reason

FIELDS_MAX: Final = 1_000
"""Fields of one form, as many as other servers take."""
PERCENTS_MAX: Final = 200_000
"""Percent signs in one form; decoding so many takes 4 ms, and 12 ms if some are malformed."""

_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
_STREAMS: Final = JSON_LINES | {EVENT_STREAM, JSON_SEQUENCE}
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MARK_BYTES: Final = frozenset(mark[0] for mark, _ in _MARKS)


def read_document(data: bytes, headers: Headers, label: str) -> JSON | Reason:
    """The document these bytes are, by their Content-Type; what has no other is tried as JSON.

    Numbers are exact. The fields of a form are texts; a name that occurs several times is a list.
    """
    kind = content_type(headers)
    if kind.media_type == _FORM:
        return _form(data, kind.codec, label)
    if kind.media_type == _MULTIPART:
        return read_multipart(data, kind.boundary, label)
    text = _json_text(data, kind, label)
    return text if isinstance(text, Reason) else decode_json(text, label)


def json_text(data: bytes, headers: Headers, label: str) -> bytes | Reason | None:
    """The JSON text these bytes are meant to be, in UTF-8; None if they are a form."""
    kind = content_type(headers)
    return None if kind.media_type in (_FORM, _MULTIPART) else _json_text(data, kind, label)


def _json_text(data: bytes, kind: ContentType, label: str) -> bytes | Reason:
    if kind.media_type in _STREAMS:
        return Reason(f"{label} is an event stream, not one document")
    codec = kind.codec
    if data and data[0] in _MARK_BYTES:
        for mark, marked in _MARKS:
            if data.startswith(mark):
                data, codec = data[len(mark) :], marked
                break
    if codec == "utf-8":
        return data
    text = decoded(data, codec)
    return _not_text(label, codec) if text is None else text.encode()


def _form(data: bytes, codec: str | None, label: str) -> JSON | Reason:
    pairs = data.split(b"&", FIELDS_MAX)
    if len(pairs) > FIELDS_MAX:
        return Reason(f"{label} has more than {FIELDS_MAX} fields")
    if data.count(b"%") > PERCENTS_MAX:
        return Reason(f"{label} has more than {PERCENTS_MAX} percent signs")
    fields = []
    for pair in filter(None, pairs):
        before, _, after = pair.partition(b"=")
        name, value = _field(before, codec), _field(after, codec)
        if name is None or value is None:
            return _not_text(label, codec)
        fields.append((name, value))
    return named_values(fields)


def _field(raw: bytes, codec: str | None) -> str | None:
    try:
        return decoded(percent_decoded(raw.replace(b"+", b" ")), codec)
    except ValueError:
        return None


def _not_text(label: str, codec: str | None) -> Reason:
    if codec is None:
        return Reason(f"{label} has a charset that is not known")
    return Reason(f"{label} is not text in its charset")
