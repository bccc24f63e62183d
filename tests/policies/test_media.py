"""Documents: JSON in any charset, forms, and what is no document."""

import codecs
import json
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow._types import Headers
from usageflow.policies.media import FIELDS_MAX, PERCENTS_MAX, json_text, read_document
from usageflow.policies.multipart import named_values
from usageflow.policies.reason import Reason

FORM = "application/x-www-form-urlencoded"
MIB = 1_048_576


def typed(content_type: str) -> Headers:
    """Headers with this Content-Type."""
    return [(b"content-type", content_type.encode())]


def read(data: bytes, content_type: str = FORM) -> Any:
    """What such a request body is."""
    return read_document(data, typed(content_type), "request body")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; Charset=UTF-8",
        "application/vnd.api+json",
        "text/plain",
        "text/html; charset=us-ascii",
        "application/octet-stream",
        "nonsense",
        "",
    ],
)
def test_what_has_no_other_type_is_tried_as_json(content_type: str) -> None:
    """Apps forget the type, or call JSON text; the numbers are exact."""
    assert read(b'{"n": 0.1, "\xc3\xa4": 1}', content_type) == {"n": Decimal("0.1"), "ä": 1}


def test_no_type_at_all_is_tried_as_json() -> None:
    """Without headers the bytes speak."""
    assert read_document(b"[1]", [], "response body") == [1]
    found = read_document(b"hello", [], "response body")
    assert isinstance(found, Reason)
    assert found.text.startswith("response body is not JSON")


@pytest.mark.parametrize(
    "charset",
    ["utf-16le", "UTF-16BE", "utf-32le", "utf-32be", "iso-8859-1", "windows-1252"],
)
def test_json_is_read_in_its_charset(charset: str) -> None:
    """The charset that the header declares."""
    data = '{"größe": 0.25}'.encode(charset)
    assert read(data, f"application/json; charset={charset}") == {"größe": Decimal("0.25")}


@pytest.mark.parametrize("charset", ["shift_jis", "gb18030", "euc-jp", "euc-kr"])
def test_json_is_read_in_charsets_of_east_asia(charset: str) -> None:
    """Some of their characters hold the bytes of quotes and backslashes."""
    data = '{"十": 1}'.encode(charset)
    assert read(data, f"application/json; charset={charset}") == {"十": 1}


@pytest.mark.parametrize(
    ("mark", "codec"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=utf-16", "; charset=x"])
def test_a_byte_order_mark_is_believed(mark: bytes, codec: str, charset: str) -> None:
    """It tells more surely than a header what the bytes are."""
    assert read(mark + '{"ä": 1}'.encode(codec), f"application/json{charset}") == {"ä": 1}


@pytest.mark.parametrize(
    ("data", "content_type", "reason"),
    [
        (b"{}", "application/json; charset=base64", "has a charset that is not known"),
        (b"{}", "application/json; charset=rot13", "has a charset that is not known"),
        (b"{}", "application/json; charset=utf-7", "has a charset that is not known"),
        (b"{}\0", "application/json; charset=utf-16", "is not text in its charset"),
        (b"\0\xd8\0\0", "application/json; charset=utf-16", "is not text in its charset"),
        (b"data: 1\n\n", "Text/Event-Stream; charset=utf-8", "is an event stream, not one"),
        (b"1\n2\n", "application/x-ndjson", "is an event stream, not one document"),
        (b"1\n2\n", "application/stream+json", "is an event stream, not one document"),
        (b"--X--", "multipart/form-data", "is not multipart/form-data: it has no valid"),
        (b"a=\xff", FORM, "is not text in its charset"),
        (b"%ff=a", FORM, "is not text in its charset"),
        (b"a=1", f"{FORM}; charset=zlib", "has a charset that is not known"),
        (b"%" * 300, FORM, "is not text in its charset"),
        (b"%41" * (PERCENTS_MAX + 1), FORM, "has more than 200000 percent signs"),
        (b"&" * FIELDS_MAX, FORM, "has more than 1000 fields"),
    ],
)
def test_what_is_no_document_is_a_reason(data: bytes, content_type: str, reason: str) -> None:
    """In words, and without quoting a header or the body."""
    found = read(data, content_type)
    assert isinstance(found, Reason)
    assert found.text.startswith(f"request body {reason}")


def test_a_form_is_an_object_of_texts() -> None:
    """Numbers stay texts, plus is a space, and a name that occurs twice is a list."""
    data = b"model=large&n=42&text=a+b%20%C3%A4%3D%26%2B&tag=1&tag=&&flag&x=a=b&50%=%zz\\x41"
    assert read(data) == {
        "model": "large",
        "n": "42",
        "text": "a b ä=&+",
        "tag": ["1", ""],
        "flag": "",
        "x": "a=b",
        "50%": "%zz\\x41",
    }
    assert read(b"") == {}


def test_a_form_has_a_charset() -> None:
    """UTF-8, unless the header says otherwise."""
    assert read(b"a=%e4", f"{FORM}; charset=iso-8859-1") == {"a": "ä"}


def test_a_multipart_form_is_read_by_its_boundary() -> None:
    """The header names the boundary."""
    data = b'--b b\r\nContent-Disposition: form-data; name="n"\r\n\r\n42\r\n--b b--'
    assert read(data, 'multipart/form-data; boundary="b b"') == {"n": "42"}


def test_json_text_is_for_whoever_looks_for_one_value() -> None:
    """JSON as UTF-8 without its mark, not copied if it is that already; a form is no JSON."""
    data = b'{"a": 1}'
    assert json_text(data, [], "body") is data
    assert json_text(codecs.BOM_UTF8 + data, [], "body") == data
    assert (
        json_text(data, typed("text/x; charset=utf-16"), "body")
        == data.decode("utf-16-le").encode()
    )
    assert json_text(b"a=1", typed(FORM), "body") is None
    assert json_text(b"", typed("multipart/form-data"), "body") is None
    assert isinstance(json_text(data, typed("text/event-stream"), "body"), Reason)


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=6))
def test_every_form_is_read_back(pairs: list[tuple[str, str]]) -> None:
    """Any fields, written as a client would, are read as Python reads them."""
    data = urlencode(pairs).encode()
    assert read(data) == named_values(parse_qsl(data.decode(), keep_blank_values=True))


@given(
    st.recursive(st.text() | st.integers() | st.booleans(), st.lists, max_leaves=5),
    st.sampled_from(["utf-8", "utf-16le", "utf-16be", "utf-32le", "utf-32be", "gb18030"]),
)
def test_every_json_is_read_back(value: Any, charset: str) -> None:
    """In each charset that has all characters."""
    data = json.dumps(value, ensure_ascii=False).encode(charset)
    assert read(data, f"application/json; charset={charset}") == value


@given(
    st.binary(max_size=40),
    st.sampled_from(["application/json", "multipart/form-data; boundary=a", FORM, "a/b"]),
    st.sampled_from(["utf-8", "utf-16", "utf-32be", "shift_jis", "gb18030", "koi8-r"]),
)
def test_nothing_raises(data: bytes, media_type: str, charset: str) -> None:
    """Any bytes are a document or a reason."""
    read(data, f"{media_type}; charset={charset}")


HOSTILE: dict[str, tuple[bytes, object]] = {
    "escapes": (b"a=" + b"%41" * PERCENTS_MAX, {"a": "A" * PERCENTS_MAX}),
    "escapes and one that is none": (
        b"a=" + b"%41" * (PERCENTS_MAX - 1) + b"%",
        {"a": "A" * (PERCENTS_MAX - 1) + "%"},
    ),
    "percents": (b"%" * PERCENTS_MAX, Reason("request body is not text in its charset")),
    "separators": (b"&" * MIB, Reason(f"request body has more than {FIELDS_MAX} fields")),
    "equals": (b"=" * MIB, {"": "=" * (MIB - 1)}),
    "fields": (
        b"&".join(b"%%41%d=%%42+%%43" % number for number in range(FIELDS_MAX)),
        {f"A{number}": "B C" for number in range(FIELDS_MAX)},
    ),
    "mended": (
        b"&".join([b"%" * 20 + b"%41" * 175] * FIELDS_MAX),
        {"%" * 20 + "A" * 175: [""] * FIELDS_MAX},
    ),
}


@pytest.mark.parametrize(("data", "found"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_form_is_read_within_the_limits(data: bytes, found: object) -> None:
    """What is at all limits at once is read in full; what is beyond one is refused."""
    assert read(data) == found
