"""The `include_usage` option: ask an OpenAI-style endpoint for the usage of a stream it would not
report, and keep the answer from a client that did not ask. Sans I/O.

The one place where requests and responses are changed, and only for policies that say so. The body
is edited as text, so that everything the client wrote stays as it was; in the response exactly one
event is left out. Does not measure: that is done before the filter.

Source: OpenAI's API reference, chat completions, `stream_options.include_usage`: an additional
chunk before `data: [DONE]` has the usage of the entire request and an empty `choices`.
"""

import re
from itertools import islice
from typing import Final

import msgspec

from usageflow._types import Headers
from usageflow.policies.content_type import EVENT_STREAM, content_type

EVENT_BYTES_MAX: Final = 16_384
"""Largest event that may be the one with the usage, which has some hundred bytes; so much is held
back at most."""
PLACES_MAX: Final = 4
"""Objects called `stream_options` that are tried; a request has one."""

_ADDED: Final = b'"include_usage":true'
_OPTIONS: Final = re.compile(rb'"stream_options"\s*:\s*(?:(null)|\{(\s*\})?)')

_EVENT_END: Final = re.compile(rb"\n\n|[\n\r]\r\n?")
_EVENT: Final = re.compile(rb"[^\r\n].*?(?:\n\n|[\n\r]\r\n?)", re.DOTALL)
_DATA: Final = re.compile(rb"(?:^|[\r\n])data: ?([^\r\n]*)")
_OTHER_DATA: Final = re.compile(rb"data:[ \t]*[^ \t\r\n{]")
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_SOME_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*[^\s\]]')


class _Options(msgspec.Struct):
    include_usage: msgspec.Raw = msgspec.Raw()


class _Request(msgspec.Struct):
    stream: bool = False
    stream_options: _Options | msgspec.UnsetType | None = msgspec.UNSET


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: msgspec.Raw


_requests: Final = msgspec.json.Decoder(_Request)
_chunks: Final = msgspec.json.Decoder(_Chunk)


def wants(headers: Headers) -> bool:
    """Whether a request with these headers may ask for a stream: its body is plain JSON."""
    kind = content_type(headers)
    named_json = kind.media_type == "application/json" or kind.media_type.endswith("+json")
    return named_json and kind.codec == "utf-8" and not _encoded(headers)


def filters(headers: Headers) -> bool:
    """Whether a response with these headers can be filtered: it is a plain event stream."""
    return content_type(headers).media_type == EVENT_STREAM and not _encoded(headers)


def with_usage(body: bytes) -> bytes | None:
    """The request body, asking for usage too; None if it is to be left as it is.

    That is a request for a stream in which the client itself does not say whether it wants usage.
    Only the option is written into the text; all the rest keeps its bytes.
    """
    request = _read(body)
    if request is None or not request.stream:
        return None
    if request.stream_options is msgspec.UNSET:
        at = body.index(b"{") + 1
        return b'%b"stream_options":{%b},%b' % (body[:at], _ADDED, body[at:])
    if _asked(request):
        return None
    for found in islice(_OPTIONS.finditer(body), PLACES_MAX):
        changed = _with_option(body, found)
        again = _read(changed)
        # The same words may stand deeper inside: the text is right if it says what it should.
        if again is not None and _asked(again):
            return changed
    return None


def with_length(headers: Headers, length: int) -> Headers:
    """The headers of a request for a body of another length."""
    return [
        (name, b"%d" % length if name.lower() == b"content-length" else value)
        for name, value in headers
    ]


def without_length(headers: Headers) -> Headers:
    """The headers of a response whose length is not known any more."""
    return [(name, value) for name, value in headers if name.lower() != b"content-length"]


def without_encodings(headers: Headers) -> Headers:
    """The headers of a request whose response must be readable."""
    kept = [(name, value) for name, value in headers if name.lower() != b"accept-encoding"]
    return [*kept, (b"accept-encoding", b"identity")]


class UsageFilter:
    """Leaves the event with the usage out of an event stream, and passes everything else.

    What belongs to an unfinished event is passed at once, unless it may still become that event.
    The output does not depend on how the stream is cut into chunks.
    """

    __slots__ = ("_held", "_passing", "_swallow")

    def __init__(self) -> None:
        self._held = b""  # the unfinished event; while one is passing, the last byte passed
        self._passing = False
        self._swallow = False  # the event that was left out ended in \r; a \n belongs to it

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets for these bytes of the stream."""
        if self._swallow and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._swallow = False
        if not self._passing:
            return self._judge(self._held + chunk)
        seen = self._held + chunk
        end = _EVENT_END.search(seen)
        if end is None:
            self._held = seen[-1:]
            return chunk
        cut = end.end() - len(self._held)
        self._passing = False
        return chunk[:cut] + self._judge(chunk[cut:])

    def end(self) -> bytes:
        """What the client gets at the end of the stream."""
        held = b"" if self._passing else self._held
        self._held = b""
        return b"" if _is_usage(held) else held

    def _judge(self, data: bytes) -> bytes:
        """Pass on data that begins with an event, and hold what may become the usage."""
        cut = _last_end(data)
        whole, rest = data[:cut], data[cut:]
        passed = _EVENT.sub(self._judged, whole) if _NO_CHOICES.search(whole) else whole
        self._swallow = self._swallow and not rest
        self._passing = _cannot_be_usage(rest)
        self._held = rest[-1:] if self._passing else rest
        return passed + rest if self._passing else passed

    def _judged(self, event: re.Match[bytes]) -> bytes:
        is_usage = _is_usage(event[0])
        self._swallow = is_usage and event[0].endswith(b"\r")
        return b"" if is_usage else event[0]


def _encoded(headers: Headers) -> bool:
    return any(
        name.lower() == b"content-encoding" and value.strip().lower() not in (b"", b"identity")
        for name, value in headers
    )


def _read(body: bytes) -> _Request | None:
    try:
        return _requests.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _asked(request: _Request) -> bool:
    """Whether the request itself says if it wants usage."""
    return isinstance(request.stream_options, _Options) and bool(
        bytes(request.stream_options.include_usage)
    )


def _with_option(body: bytes, place: re.Match[bytes]) -> bytes:
    """The body with the option in the object at this place, or instead of the null there."""
    null, empty = place.groups()
    if null:
        return b"%b{%b}%b" % (body[: place.start(1)], _ADDED, body[place.end() :])
    at = place.start(2) if empty else place.end()
    return b"%b%b%b%b" % (body[:at], _ADDED, b"" if empty else b",", body[at:])


def _last_end(data: bytes) -> int:
    """Where the last finished event ends: behind a line end at the beginning of a line."""
    at = max(map(data.rfind, (b"\n\n", b"\n\r", b"\r\r")))
    if at < 0:
        return 0
    return at + (3 if data[at + 1 : at + 3] == b"\r\n" else 2)


def _cannot_be_usage(event: bytes) -> bool:
    """True only if nothing that may follow makes this beginning the event with the usage."""
    return (
        len(event.rstrip(b"\r\n")) > EVENT_BYTES_MAX
        or _OTHER_DATA.match(event) is not None
        or _SOME_CHOICES.search(event) is not None
    )


def _is_usage(event: bytes) -> bool:
    if _cannot_be_usage(event) or not _NO_CHOICES.search(event):
        return False
    try:
        chunk = _chunks.decode(b"\n".join(_DATA.findall(event)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return not chunk.choices and bytes(chunk.usage) != b"null"
