"""Answers that are malformed or hostile: each reaches the client, and its event says what it is."""

import gzip
from decimal import Decimal
from typing import Any

import pytest

JSON_BODY = (b"content-type", b"application/json")
GZIP = (b"content-encoding", b"gzip")
UNKNOWN = (b"content-encoding", b"z")
LARGE_HEADER = (b"x-other", b"a" * 65_536)
TOO_MUCH = "response body: decodes to more than decoded_bytes_max (8388608 bytes)"
TOO_LONG = " holds a number with too many digits"

ANSWERS: list[tuple[str, bytes, list[tuple[bytes, bytes]], int | None, str | None]] = [
    ("UTF-8", b'{"n": 1, "x": "\xff"}', [], None, "response body is not JSON: it is not UTF-8"),
    ("duplicate keys", b'{"n": 1, "n": 2}', [], 2, None),
    ("depth of 10,000", b'{"n": ' + b"[" * 10_000, [], None, "response body is nested too deeply"),
    ("cut", b'{"n": 1', [], None, "response body is not JSON: Input data was truncated"),
    (
        *("truncated gzip", gzip.compress(b'{"n": 1}')[:-3], [GZIP], None),
        "response body: ends before its content encoding does",
    ),
    (
        *("no gzip", b'{"n": 1}', [GZIP], None),
        "response body: cannot be decoded as its content encoding says",
    ),
    ("gzip bomb", gzip.compress(bytes(64 << 20)), [GZIP], None, TOO_MUCH),
    ("gzip in gzip", gzip.compress(gzip.compress(bytes(99 << 20))), [GZIP, GZIP], None, TOO_MUCH),
    (
        *("an unknown coding", b'{"n": 1}', [UNKNOWN], None),
        "response body: its content encoding is none of gzip, deflate, br and zstd",
    ),
    ("header of 64 KiB", b'{"n": 1}', [LARGE_HEADER], 1, None),
    ("400 digits", b'{"n": ' + b"9" * 400 + b"}", [], None, f"response.body.n{TOO_LONG}"),
    ("1e999999999", b'{"n": 1e999999999}', [], None, "response.body.n: "),
    ("NaN", b'{"n": NaN}', [], None, "response body is not JSON: "),
    ("negative", b'{"n": -1}', [], None, "response.body.n: negative"),
]


@pytest.mark.parametrize(
    ("content", "headers", "quantity", "reason"),
    [pytest.param(*case[1:], id=case[0]) for case in ANSWERS],
)
def test_what_is_answered(
    site: Any,
    content: bytes,
    headers: list[tuple[bytes, bytes]],
    quantity: int | None,
    reason: str | None,
) -> None:
    """Counted as it is read everywhere, or in the inbox with the reason."""
    size = len(content) // 3 + 1
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    answer, event = site.answers(*chunks, headers=[JSON_BODY, *headers])
    assert all(chunk in answer for chunk in chunks)
    assert event.quantity == (None if quantity is None else Decimal(quantity))
    assert event.state == ("counted" if reason is None else "inbox")
    busy = reason == TOO_MUCH and "takes more than" in event.reason  # a bomb ends by its time, too
    assert busy or (event.reason or "").startswith(reason or "")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (b"0", "response body is empty"),
        (b"3", "response body is not JSON: Input data was truncated"),
        (b"20", "the app raised"),
    ],
)
def test_an_app_that_lies_about_its_length(site: Any, told: bytes, reason: str) -> None:
    """The server breaks the answer off, as it does without us; the row says what was missing."""
    headers = [JSON_BODY, (b"content-length", told)]
    answer, event = site.answers(b'{"n', b'": 7}', headers=headers)
    assert b"content-length: " + told in answer.lower()
    assert (event.state, event.quantity) == ("inbox", None)
    assert reason in event.reason


@pytest.mark.parametrize(
    ("kind", "content"),
    [(b"application/json", b'{"n": 7}'), (b"text/event-stream", b'data: {"n": 7}\n\n')],
)
def test_a_view_of_bytes_is_as_good_as_bytes(site: Any, kind: bytes, content: bytes) -> None:
    """Starlette sends the views that a generator yields, and servers take them."""
    _, event = site.answers(memoryview(content), headers=[(b"content-type", kind)])
    assert (event.state, event.quantity) == ("counted", Decimal(7))
