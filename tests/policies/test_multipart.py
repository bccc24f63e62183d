"""Multipart forms: fields as every client writes them, files described, hostile ones refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.multipart import (
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    MARKS_MAX,
    PARTS_MAX,
    named_values,
    read_multipart,
)
from usageflow.policies.reason import Reason

MIB = 1_048_576
HEAD = b'Content-Disposition: form-data; name="a"'


def form(*parts: bytes, boundary: bytes = b"XX") -> bytes:
    """A body of parts, each with its head."""
    opened = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return opened + b"--" + boundary + b"--\r\n"


def part(name: bytes, content: bytes) -> bytes:
    """A part as browsers write it."""
    return b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (name, content)


def read(body: bytes, boundary: bytes = b"XX") -> Any:
    """What such a request body is."""
    return read_multipart(body, boundary, "request body")


def test_fields_are_texts_by_name() -> None:
    """Also empty ones, several lines, and names that occur twice."""
    body = form(
        part(b"model", b"large"),
        part(b"empty", b""),
        part(b"lines", b"a\r\nb\r\n\r\n--X\r\n"),
        part(b"tag", b"1"),
        part(b"tag", b"2"),
        part("größe".encode(), "ä€".encode()),
    )
    assert read(body) == {
        "model": "large",
        "empty": "",
        "lines": "a\r\nb\r\n\r\n--X\r\n",
        "tag": ["1", "2"],
        "größe": "ä€",
    }


def test_a_file_is_described() -> None:
    """Its name, type and size; its content is nobody's business."""
    head = b'Content-Disposition: form-data; name="doc"; filename="a.pdf"\r\n'
    body = form(
        head + b"Content-Type: Application/PDF\r\n\r\n%PDF\xff",
        b"content-disposition:form-data;name=b;filename*=utf-8''%e2%82%ac.txt\r\n\r\nabc",
        b'Content-Disposition: form-data; name="c"; filename=""\r\n\r\n',
        b"Content-Disposition: form-data; name=\"d\"; filename*=UTF-8''%ff\r\n\r\n",
    )
    assert read(body) == {
        "doc": {"filename": "a.pdf", "content_type": "application/pdf", "bytes": 5},
        "b": {"filename": "€.txt", "content_type": None, "bytes": 3},
        "c": {"filename": "", "content_type": None, "bytes": 0},
        "d": {"filename": None, "content_type": None, "bytes": 0},
    }


def test_a_text_has_a_charset_of_its_own() -> None:
    """What cannot be read as the text it claims to be is described like a file."""
    body = form(
        HEAD + b"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n\r\n\xe4",
        HEAD + b"\r\nContent-Type: text/plain; charset=klingon\r\n\r\n\xe4",
        HEAD + b"\r\n\r\n\xe4",
    )
    unread = {"filename": None, "bytes": 1}
    assert read(body) == {
        "a": ["ä", unread | {"content_type": "text/plain"}, unread | {"content_type": None}]
    }


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'form-data; name="a \\"b\\""', 'a "b"'),
        (b"form-data; name=%22a%22", "%22a%22"),
        (b"form-data; name*=UTF-8''%e2%82%ac", "€"),
        (b"form-data; name*=iso-8859-1'de'%e4; name=\"a\"", "ä"),
        (b"form-data; name*=klingon''x; name=a", "a"),
    ],
)
def test_names_are_tolerated_in_all_forms(disposition: bytes, name: str) -> None:
    """Quoted, escaped, percent-encoded as browsers do, and in the form of RFC 8187."""
    assert read(form(b"Content-Disposition: " + disposition + b"\r\n\r\n1")) == {name: "1"}


def test_what_surrounds_the_parts_is_ignored() -> None:
    """Preamble, epilogue, spaces behind a boundary, and an empty form."""
    body = b"preamble\r\n" + form(part(b"a", b"1")).replace(b"XX\r\n", b"XX \t\r\n", 1) + b"more"
    assert read(body) == {"a": "1"}
    assert read(b"--XX--") == {}


@pytest.mark.parametrize("boundary", [b"", b"a" * 71, b"a\nb", b"a ", b"\xff"])
def test_a_boundary_is_checked(boundary: bytes) -> None:
    """RFC 2046 allows 1 to 70 characters that can be printed."""
    assert read(form(part(b"a", b"1"), boundary=boundary), boundary) == Reason(
        "request body is not multipart/form-data: it has no valid boundary"
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "its last boundary is missing"),
        (b"{}", "its last boundary is missing"),
        (form(part(b"a", b"1"))[:-6], "its last boundary is missing"),
        (form(part(b"a", b"1"))[:-4], "a part has no valid head"),
        (form(part(b"a", b"1")).replace(b"\r\n", b"\n"), "a part has no valid head"),
        (form(b"\r\n1"), "a part has no valid head"),
        (form(HEAD), "a part has no valid head"),
        (form(HEAD + b"\r\nno colon\r\n\r\n1"), "a part has no valid head"),
        (form(HEAD + b"\r\n" + HEAD + b"\r\n\r\n1"), "a part has no valid head"),
        (form(HEAD + b'; name="b"\r\n\r\n1'), "a part has no valid head"),
        (form(b"Content-Type: text/plain\r\n\r\n1"), "a part has no valid head"),
        (form(b"Content-Disposition: form-data\r\n\r\n1"), "a part has no valid head"),
        (form(part(b"\xff", b"1")), "a part has no valid head"),
        (form(part(b"a", b"1")).replace(b"XX", b"XXX", 1), "a part has no valid head"),
        (form(HEAD + b"; x=y" * MARKS_MAX + b"\r\n\r\n1"), "a part has no valid head"),
        (form(HEAD + b"\r\nx%d: y" * HEADERS_MAX + b"\r\n\r\n1"), "a part has no valid head"),
        (form(part(b"a" * HEAD_BYTES_MAX, b"1")), "a part has no valid head"),
        (
            form(b"Content-Disposition: form-data; name*=utf-8''" + b"%" * 200 + b"\r\n\r\n1"),
            "a part has no valid head",
        ),
    ],
)
def test_what_is_malformed_is_a_reason(body: bytes, reason: str) -> None:
    """Nothing is guessed where the app might read something else."""
    assert read(body) == Reason(f"request body is not multipart/form-data: {reason}")


def test_parts_are_counted() -> None:
    """As many as the limit are read; one more is a reason."""
    field = part(b"a", b"1")
    assert read(form(*[field] * PARTS_MAX)) == {"a": ["1"] * PARTS_MAX}
    assert read(form(*[field] * (PARTS_MAX + 1))) == Reason("request body has more than 1000 parts")


def test_a_name_that_occurs_again_is_a_list() -> None:
    """In the order of the pairs."""
    assert named_values([("a", 1), ("b", 2), ("a", 3)]) == {"a": [1, 3], "b": 2}


@given(
    st.dictionaries(
        st.text("abc äß=;\"'\\", min_size=1, max_size=5), st.text(max_size=20), max_size=5
    )
)
def test_every_form_is_read_back(fields: dict[str, str]) -> None:
    """Any names and any texts, written as a client would."""
    boundary = b"0f3b2c"
    parts = [
        part(name.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"'), text.encode())
        for name, text in fields.items()
    ]
    assert read(form(*parts, boundary=boundary), boundary) == fields


@given(st.lists(st.sampled_from([b"--XX", b"--", b"\r\n", b"\r\n\r\n", HEAD, b"x", b'"', b";"])))
def test_nothing_raises(pieces: list[bytes]) -> None:
    """Any bytes are an object or a reason."""
    assert isinstance(read(b"".join(pieces)), dict | Reason)


NO_END, NO_HEAD = (
    Reason(f"request body is not multipart/form-data: {what}")
    for what in ("its last boundary is missing", "a part has no valid head")
)
EMPTY = {"a": [""] * PARTS_MAX}
HOSTILE: dict[str, tuple[bytes, object]] = {
    "line ends": (form(part(b"a", b"\r\n" * (MIB // 2))), {"a": "\r\n" * (MIB // 2)}),
    "almost boundaries": (b"\r\n--X" * (MIB // 5), NO_END),
    "boundaries": (b"\r\n--XX" * (MIB // 6), NO_HEAD),
    "long heads": (form(*[HEAD + b"\r\na:" + b"b" * 900 + b"\r\n\r\n"] * PARTS_MAX), EMPTY),
    "header lines": (
        form(
            *[HEAD + b"".join(b"\r\n%d:" % n for n in range(HEADERS_MAX - 1)) + b"\r\n\r\n"]
            * PARTS_MAX
        ),
        EMPTY,
    ),
    "parameters": (
        form(
            *[HEAD + b"".join(b";%d=b" % n for n in range(MARKS_MAX - 1)) + b"\r\n\r\n"] * PARTS_MAX
        ),
        EMPTY,
    ),
    "quotes": (
        form(*[HEAD + b'; x="' + b'\\"' * (MARKS_MAX - 2) + b'"\r\n\r\n'] * PARTS_MAX),
        EMPTY,
    ),
    "escapes": (form(HEAD + b'; x="' + b"\\\\" * (MIB // 2) + b'"\r\n\r\n'), NO_HEAD),
    "long head": (form(HEAD + b"; name*=utf-8''" + b"%41" * (MIB // 3) + b"\r\n\r\n"), NO_HEAD),
    "percents": (
        form(*[HEAD[:-8] + b"name*=utf-8''" + b"%41" * 380 + b"\r\n\r\n"] * PARTS_MAX),
        {"A" * 380: [""] * PARTS_MAX},
    ),
    "names": (
        form(*[part(b"%d" % number, b"") for number in range(PARTS_MAX)]),
        {str(number): "" for number in range(PARTS_MAX)},
    ),
}


@pytest.mark.parametrize(("body", "found"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_form_is_read_within_the_limits(body: bytes, found: object) -> None:
    """What is at all limits at once is read in full; what is beyond one is refused."""
    assert read(body) == found
