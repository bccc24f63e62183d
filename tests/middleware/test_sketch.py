"""A sketch has names, paths and types, and nothing that was said."""

import base64
import gzip
import json
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.middleware import sketch
from usageflow.middleware.sketch import Look, Sketch, media_type, merged, paths_of, sketch_of
from usageflow.policies.json_text import decode_json

JSON_TYPE = [(b"content-type", b"application/json; charset=utf-8")]
SECRET = "s3cr3t-of-the-caller"
NOTHING_INSIDE: list[Any] = [None, 3, "text", [], {}]


def look(**changes: Any) -> Look:
    """An exchange with nothing in it but what is given."""
    nothing: dict[str, Any] = {
        "request_headers": [],
        "query_string": b"",
        "request_body": b"",
        "status": 200,
        "response_headers": [],
        "response_body": b"",
    }
    return Look(**nothing | changes)


def bearer(payload: Any) -> list[tuple[bytes, bytes]]:
    """A header with a token that says this."""
    body = base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=")
    return [(b"authorization", b"Bearer e30." + body + b".c2lnbmF0dXJl")]


def test_paths_have_types() -> None:
    """Exact numbers, lists as one, and what is empty."""
    text = b"""{"id": "x", "usage": {"total_tokens": 3, "cost": 1.5}, "none": [], "flag": true,
               "items": [{"price": 1}, {"price": 2.5, "note": null}], "empty": {}, "deep": [[1]]}"""
    assert paths_of(decode_json(text, "text")) == {
        "id": ("string",),
        "usage.total_tokens": ("integer",),
        "usage.cost": ("number",),
        "none": ("array",),
        "flag": ("boolean",),
        "items[].price": ("integer", "number"),
        "items[].note": ("null",),
        "empty": ("object",),
        "deep[][]": ("integer",),
    }


def test_what_is_near_the_top_comes_first() -> None:
    """The usage behind a long text is not crowded out."""
    document = {"a": {"b": {"c": 1}}, "usage": 2}
    assert list(paths_of(document)) == ["usage", "a.b.c"]


def test_a_document_without_members_has_no_paths() -> None:
    """Nothing to choose from."""
    assert [paths_of(value) for value in NOTHING_INSIDE] == [{}] * 5
    assert paths_of([1]) == {"[]": ("integer",)}


def test_keys_that_are_values_are_not_told() -> None:
    """Neither ids and addresses, nor the keys of a table."""
    by_user = {"7": 1, "ann@example.org": 2, "123e4567-e89b-12d3-a456-426614174000": 3}
    assert paths_of({"users": by_user, "x" * 41: 1, "session_5d41402abc4b2a76": 1, "": 1}) == {
        "users.*": ("integer",),
        "*": ("integer",),
    }
    table = {f"name{letter}": {"n": 1} for letter in "abcdefghijklmnopqrstuvwxyzABCDE"}
    assert paths_of({"t": table}) == {"t.*.n": ("integer",)}
    assert paths_of(table) == {"*.n": ("integer",)}
    assert len(paths_of(dict(list(table.items())[:30]))) == 30


def test_paths_are_bounded() -> None:
    """In number, depth and work, whatever the document is."""
    deep: Any = 1
    for _ in range(50):
        deep = {"a": deep}
    assert paths_of(deep) == {"a.a.a.a.a.a": ("object",)}
    wide: Any = {f"k{chr(97 + i)}": {f"k{chr(97 + j)}": 1 for j in range(25)} for i in range(25)}
    assert len(paths_of(wide)) == sketch.PATHS_MAX
    lists = paths_of([[[[[[1] * 100] * 100] * 100] * 100] * 100])
    assert set(lists.values()) == {("array",)}, "their numbers are too far away"
    assert paths_of([1] * 10_000 + ["late"]) == {"[]": ("integer",)}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_every_path_is_an_expression(document: Any) -> None:
    """A policy can use it as it is."""
    for path, types in paths_of(document).items():
        jmespath.compile(path)
        assert set(types) <= {"null", "boolean", "integer", "number", "string", "array", "object"}


def test_keys_that_are_no_words_are_quoted() -> None:
    """As JMESPath wants it."""
    (path,) = paths_of({"a-b": {"c[d].e": Decimal(1)}})
    assert path == '"a-b"."c[d].e"'
    assert jmespath.search(path, {"a-b": {"c[d].e": 4}}) == 4


@pytest.mark.parametrize(
    "key",
    [
        *(
            "7",
            "ann@example.org",
            "a b",
            "Zoë",
            '{"user":"ann"}',
            "/users/ann",
            "",
            "x" * 41,
            "a\n",
        ),
        *("key_12345", "A1b2C3d4E5f6", "sk_live_4eC39HqLyjWDarjt", "deadbeef-cafe-x", "x:y"),
    ],
)
def test_what_is_not_like_a_name_is_not_told(key: str) -> None:
    """Of no key, header, parameter or cookie; a person may have put a value there."""
    assert paths_of({key: 1}) == {"*": ("integer",)}
    header = (key.encode(), b"1")
    assert sketch_of(look(request_headers=[header])).headers == ("*",)
    query = urlencode({key: "1"}).encode()
    assert sketch_of(look(query_string=query)).query == ("*",)
    form = [(b"content-type", b"application/x-www-form-urlencoded")]
    body = sketch_of(look(request_headers=form, request_body=query)).request
    assert body == {"*": ("string",)}


@pytest.mark.parametrize(
    "name", ["user_id", "customerId", "x-amz-content-sha256", "user[name]", "org.id", "_x", "v2"]
)
def test_what_is_like_a_name_is_told(name: str) -> None:
    """As programs call things."""
    assert sketch_of(look(query_string=f"{name}=1".encode())).query == (name,)


@pytest.mark.parametrize(
    "alone", [b'{"user":"ann"}', b"sk_live_ZxQaBcDe", b"c2tfbGl2ZV9=", b"YQ=="]
)
def test_a_value_without_a_name_is_not_told(alone: bytes) -> None:
    """Not where a client forgot the name, or meant another content type."""
    form = [(b"content-type", b"application/x-www-form-urlencoded; charset=utf-8")]
    found = sketch_of(
        look(
            request_headers=[*form, (b"cookie", alone + b"; tenant=a; " + alone)],
            query_string=b"q=1&" + alone,
            request_body=b"a=1&" + alone + b"&b=2",
        )
    )
    assert (found.query, found.cookies) == (("q",), ("tenant",))
    assert list(found.request) == ["a", "b"]


def test_names_of_headers_parameters_and_cookies() -> None:
    """Not what every client sends, and never a value."""
    headers = [
        *((b"Host", SECRET.encode()), (b"accept", b"*/*"), (b"sec-fetch-mode", b"cors")),
        *((b"x-account-id", SECRET.encode()), (b"X-Account-ID", b"again")),
        *((b"cookie", b"tenant=s3cr3t; sid=s3cr3t"), (b"cookie", b"ga_5d41402abc4b2a76=1")),
    ]
    found = sketch_of(
        look(request_headers=headers, query_string=b"q=s3cr3t&page=2&q=x&ann%40x.org=1&%FF=1")
    )
    assert found == Sketch(
        headers=("x-account-id",),
        query=("q", "page", "*"),
        cookies=("tenant", "sid", "*"),
        statuses=(200,),
    )


def test_bodies_and_their_types() -> None:
    """Both sides of the exchange; what cannot be read has no paths."""
    found = sketch_of(
        look(
            request_headers=JSON_TYPE,
            request_body=b'{"model": "x"}',
            response_headers=[(b"Content-Type", b"Application/JSON")],
            response_body=b'{"n": 1}',
        )
    )
    assert found == Sketch(
        request={"model": ("string",)},
        response={"n": ("integer",)},
        request_types=("application/json",),
        response_types=("application/json",),
        statuses=(200,),
    )
    assert sketch_of(look(response_body=b"<html>")) == Sketch(statuses=(200,))


def test_encoded_bodies_and_forms() -> None:
    """Read as policies read them; what is too large or broken is passed over."""
    encoded = [(b"content-encoding", b"gzip"), *JSON_TYPE]
    document = gzip.compress(b'{"n": 1}')
    for body, expected in (
        (document, {"n": ("integer",)}),
        (document[:-9], {}),
        (b"no gzip", {}),
        (gzip.compress(b'["' + b"x" * sketch.DECODED_BYTES_MAX + b'"]'), {}),
    ):
        found = sketch_of(look(response_headers=encoded, response_body=body))
        assert found.response == expected
    unknown = [(b"content-encoding", b"secret"), *JSON_TYPE]
    assert sketch_of(look(response_headers=unknown, response_body=b'{"n": 1}')).response == {}
    form = [(b"content-type", b"application/x-www-form-urlencoded")]
    found = sketch_of(look(request_headers=form, request_body=b"model=x&n=2"))
    assert found.request == {"model": ("string",), "n": ("string",)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"text/html", "text/html"), (b" a/b ;x", "a/b"), (b"\xff/b", ""), (b"a", ""), (b"", "")],
)
def test_media_types_are_checked(value: bytes, expected: str) -> None:
    """A client may send anything."""
    assert media_type([(b"content-type", value)]) == expected


def test_a_stream_is_its_last_events() -> None:
    """From the first whole one that is still there; lines that are no JSON are passed over."""
    tail = (
        b'": 1}\n\ndata: {"old": 1}\n\n'
        + b'data: {"choices": [{"d": "x"}]}\r\n\r\n' * 4
        + b'data: {"usage": {"total_tokens": 3}}\n\ndata: [DONE]\n\n'
    )
    headers = [(b"content-type", b"text/event-stream")]
    found = sketch_of(look(response_headers=headers, response_body=tail)).response
    assert found == {"usage.total_tokens": ("integer",), "choices[].d": ("string",)}


@pytest.mark.parametrize(
    ("kind", "mark"), [(b"x-ndjson", b""), (b"stream+json", b""), (b"json-seq", b"\x1e")]
)
def test_streams_of_json_have_many_names(kind: bytes, mark: bytes) -> None:
    """All that policies read."""
    headers = [(b"content-type", b"application/" + kind)]
    lines = mark + b'{"a": 1}\n' + mark + b'{"a": "x"}\n'
    found = sketch_of(look(response_headers=headers, response_body=lines)).response
    assert found == {"a": ("integer", "string")}


def test_an_endless_stream_of_nothing_costs_little() -> None:
    """Only the last lines are looked at."""
    headers = [(b"content-type", b"text/event-stream")]
    body = b'data: {"early": 1}\n' + b"\n" * sketch.LINES_MAX
    assert sketch_of(look(response_headers=headers, response_body=body)).response == {}
    assert sketch_of(look(response_headers=headers, response_body=body[:-2])).response


def test_of_very_many_names_some_are_told() -> None:
    """Not all are looked at."""
    names = [b"n" + bytes([97 + n // 26, 97 + n % 26]) for n in range(26 * 26)]
    many = look(
        request_headers=[(name, b"") for name in names]
        + [(b"cookie", b";".join(name + b"=1" for name in names))],
        query_string=b"&".join(name + b"=1" for name in names),
    )
    found = sketch_of(many)
    assert len(found.headers) == len(found.cookies) == len(found.query) == sketch.NAMES_MAX
    longer = b"a=1&" * sketch.TEXT_BYTES_MAX
    assert sketch_of(look(query_string=longer)).query == ()


def test_claims_of_a_token_that_nobody_verified() -> None:
    """Names and types; anything that is no such token has none."""
    headers = bearer({"sub": SECRET, "org": {"id": 7}})
    assert sketch_of(look(request_headers=headers)).claims == {
        "sub": ("string",),
        "org.id": ("integer",),
    }
    for value in (
        *(b"Bearer opaque", b"Bearer a.b", b"Bearer a.b.c", b"Bearer a.\xff.c", b"Basic e30.e30.x"),
        *(b"Bearer e30.W10.x", b"Bearer " + b"e30." * 3, b"Bearer a." + b"e" * 9_000 + b".c", b""),
    ):
        assert sketch_of(look(request_headers=[(b"authorization", value)])).claims == {}


def test_no_value_is_in_a_sketch() -> None:
    """Whatever carries it."""
    told = [
        *bearer({"sub": SECRET}),
        *((b"x-a", SECRET.encode()), (b"cookie", b"c=" + SECRET.encode())),
        (b"content-type", b"application/json; x=" + SECRET.encode()),
    ]
    body = json.dumps({"a": SECRET, "b": [SECRET]}).encode()
    found = sketch_of(
        look(
            request_headers=told,
            query_string=b"q=" + SECRET.encode(),
            request_body=body,
            response_headers=told,
            response_body=body,
        )
    )
    assert SECRET not in repr(found)
    assert found.claims


def test_merging_stays_within_the_bounds() -> None:
    """Types and names of both, the older first; statuses in order."""
    one = Sketch(response={"a": ("integer",)}, headers=("x",), statuses=(404,))
    other = Sketch(response={"a": ("null",), "b": ("string",)}, headers=("y", "x"), statuses=(200,))
    assert merged(one, other) == Sketch(
        response={"a": ("integer", "null"), "b": ("string",)},
        headers=("x", "y"),
        statuses=(200, 404),
    )
    many = Sketch(
        request={f"p{n}": ("null",) for n in range(1000)},
        query=tuple(map(str, range(1000))),
        statuses=tuple(range(1000)),
    )
    both = merged(one, many)
    assert len(both.request) == sketch.PATHS_MAX
    assert len(both.query) == len(both.statuses) == sketch.NAMES_MAX
