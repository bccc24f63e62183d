"""Content-Type: what it says in all spellings, and text in the charsets it names."""

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.content_type import (
    _CODECS,
    LONE_PERCENTS_MAX,
    VALUE_BYTES_MAX,
    ContentType,
    content_type,
    decoded,
    parameters,
    percent_decoded,
)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"application/json", ContentType("application/json")),
        (b" Application/JSON ; Charset=UTF-16BE", ContentType("application/json", "utf-16-be")),
        (b'text/plain;charset="iso-8859-1"', ContentType("text/plain", "iso-8859-1")),
        (b"text/plain; charset=base64", ContentType("text/plain", None)),
        (b"text/plain; charset=\xff", ContentType("text/plain", None)),
        (b'm/f; boundary="a b"; x=y', ContentType("m/f", boundary=b"a b")),
        (b"m/f; boundary=--ab ", ContentType("m/f", boundary=b"--ab")),
        (b"", ContentType("")),
        (b"a" * (VALUE_BYTES_MAX + 1), ContentType("")),
    ],
)
def test_the_header_is_read_in_all_spellings(value: bytes, found: ContentType) -> None:
    """Case, spaces and quotes do not count; only charsets of texts are known."""
    assert content_type([(b"x", b"y"), (b"Content-Type", value)]) == found


def test_the_first_of_two_headers_counts() -> None:
    """As frameworks read it; without any there is nothing to go by."""
    headers = [(b"content-type", b"a/b"), (b"content-type", b"c/d")]
    assert content_type(headers).media_type == "a/b"
    assert content_type([]) == ContentType("")


@pytest.mark.parametrize("name", sorted(_CODECS))
def test_every_known_charset_is_one_of_texts(name: str) -> None:
    """Each name has a codec that gives text; a codec such as zlib would not."""
    assert decoded("a1".encode(_CODECS[name]), _CODECS[name]) == "a1"


def test_what_is_not_text_is_none() -> None:
    """Bytes that the charset does not have, and charsets that are not known."""
    assert decoded(b"\xff", "utf-8") is None
    assert decoded(b"a", None) is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b'form-data; name="a"; Filename=b', [(b"name", b"a"), (b"filename", b"b")]),
        (b'f; name="a \\"b\\" \\\\"', [(b"name", b'a "b" \\')]),
        (b'f; name="C:\\dir\\file"', [(b"name", b"C:\\dir\\file")]),
        (b'f; name="a;b=c"', [(b"name", b"a;b=c")]),
        (b"f; name*=UTF-8''a%20b", [(b"name*", b"UTF-8''a%20b")]),
        (b'f; name=""', [(b"name", b"")]),
        (b"f; name", []),
        (b'f; name="a', [(b"name", b"")]),
    ],
)
def test_parameters_are_unquoted(value: bytes, found: list[tuple[bytes, bytes]]) -> None:
    """Quotes and backslashes are escaped in some clients, and paths are not in others."""
    assert parameters(value) == found


@given(st.lists(st.sampled_from([b"%", b"%4", b"%41", b"%fF", b"\\", b"\\x41", b"a", b"\xe9"])))
def test_percents_are_decoded_as_urllib_does(pieces: list[bytes]) -> None:
    """Valid ones are decoded, lone ones stay, backslashes mean nothing."""
    data = b"".join(pieces)
    assert percent_decoded(data) == unquote_to_bytes(data)


def test_lone_percents_are_counted() -> None:
    """As many as the limit stay as they are, among any number of others; one more is refused."""
    data = b"%41" * 350_000 + b"%" * LONE_PERCENTS_MAX
    assert percent_decoded(data) == b"A" * 350_000 + b"%" * LONE_PERCENTS_MAX
    for refused in (b"%" * (LONE_PERCENTS_MAX + 1), b"%" * 1_048_576, b"%4" * 524_288):
        with pytest.raises(ValueError, match="truncated"):
            percent_decoded(refused)
