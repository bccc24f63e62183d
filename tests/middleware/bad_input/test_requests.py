"""Requests that are malformed or hostile: each reaches the app, and its event says what it was."""

import gzip
from decimal import Decimal
from typing import Any

import pytest

ACCOUNT = (b"x-account", b"acct_1")
JSON_BODY = (b"content-type", b"application/json")
GZIP = (b"content-encoding", b"gzip")
PARAMETERS = "&".join(f"p{number}={number}" for number in range(1_000))

IDENTITIES: list[tuple[str, tuple[Any, ...], bytes, str | None, str | None]] = [
    ("UTF-8, header", ("/header", (b"x-account", b"\xff\xfe")), b"", "\xff\xfe", None),
    ("UTF-8, cookie", ("/cookie", (b"cookie", b"account=\xff\xfe")), b"", "\xff\xfe", None),
    (
        *("UTF-8, query", ("/query?account=%ff%fe",), b"", None),
        "query account is not valid Unicode text",
    ),
    ("UTF-8, another parameter", ("/query?x=%ff%fe&account=a",), b"", "a", None),
    # The server replaces it, so the app sees no more either.
    ("UTF-8, path", ("/path/%ff%fe",), b"", "\ufffd\ufffd", None),
    (
        *("UTF-8, body", ("/body", JSON_BODY), b'{"account": "\xff\xfe"}', None),
        "request body is not JSON: it is not UTF-8",
    ),
    (
        *("half a pair", ("/state",), b'"\\ud800"', None),
        "metadata tenant is not valid Unicode text",
    ),
    ("twice, body", ("/body", JSON_BODY), b'{"account": "a", "account": "b"}', "b", None),
    (
        *("twice, query", ("/query?account=a&account=b",), b"", None),
        "query account occurs with different values",
    ),
    (
        *("twice, header", ("/header", ACCOUNT, (b"x-account", b"acct_2")), b"", None),
        "header x-account occurs with different values",
    ),
    (
        "depth of 10,000",
        ("/body", JSON_BODY),
        b'{"account": "a", "x": ' + b'{"y":' * 10_000 + b"1" + b"}" * 10_001,
        *(None, "request body is nested too deeply"),
    ),
    (
        *("header of 64 KiB", ("/header", (b"x-account", b"a" * 65_536)), b"", None),
        "header x-account has 65536 characters; at most 500",
    ),
    ("beside 64 KiB", ("/header", ACCOUNT, (b"x-other", b"a" * 65_536)), b"", "acct_1", None),
    ("1,000 parameters", (f"/query?{PARAMETERS}&account=a",), b"", "a", None),
]


@pytest.mark.parametrize(
    ("sent", "body", "identity", "reason"),
    [pytest.param(*case[1:], id=case[0]) for case in IDENTITIES],
)
def test_who_it_was(
    site: Any, sent: tuple[Any, ...], body: bytes, identity: str | None, reason: str | None
) -> None:
    """Counted under what was sent, or in the inbox with the reason."""
    answer, (event,) = site.ask(*sent, body=body)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (event.identity.value, event.quantity) == (identity, 1)
    assert event.state == ("counted" if reason is None else "inbox")
    assert event.reason == (None if reason is None else f"no identity: {reason}")


QUANTITIES: list[tuple[str, tuple[Any, ...], bytes, int | None, str | None]] = [
    ("duplicate keys", (JSON_BODY,), b'{"n": 1, "n": 2}', 2, None),
    ("UTF-8", (JSON_BODY,), b'{"n": 1, "x": "\xff"}', None, " is not JSON: it is not UTF-8"),
    ("depth of 10,000", (JSON_BODY,), b'{"n": ' + b"[" * 10_000, None, " is nested too deeply"),
    (
        *("depth beside it", (JSON_BODY,)),
        b'{"n": 1, "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        *(None, " is nested too deeply"),
    ),
    (
        *("truncated gzip", (JSON_BODY, GZIP), gzip.compress(b'{"n": 5}')[:-3], None),
        ": ends before its content encoding does",
    ),
    (
        *("no gzip", (JSON_BODY, GZIP), b'{"n": 5}', None),
        ": cannot be decoded as its content encoding says",
    ),
    (
        *("gzip bomb", (JSON_BODY, GZIP), gzip.compress(bytes(64 << 20)), None),
        ": decodes to more than decoded_bytes_max (8388608 bytes)",
    ),
]


@pytest.mark.parametrize(
    ("headers", "body", "quantity", "reason"),
    [pytest.param(*case[1:], id=case[0]) for case in QUANTITIES],
)
def test_how_much_it_was(
    site: Any, headers: tuple[Any, ...], body: bytes, quantity: int | None, reason: str | None
) -> None:
    """Counted as it is read everywhere, or in the inbox with the reason."""
    answer, (event,) = site.ask("/asked", ACCOUNT, *headers, body=body)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert event.identity.value == "acct_1"
    assert event.quantity == (None if quantity is None else Decimal(quantity))
    assert event.state == ("counted" if reason is None else "inbox")
    told = None if event.reason is None else event.reason.removeprefix("request body")
    if reason is not None and "decodes to more" in reason and told != reason:
        assert told is not None
        assert told.startswith(": takes more than "), "on a busy machine a bomb ends by its time"
    else:
        assert told == reason


def test_a_thousand_parameters_are_counted(site: Any) -> None:
    """A quantity may ask for all of them."""
    _, (event,) = site.ask(f"/parameters?{PARAMETERS}", ACCOUNT)
    assert (event.state, event.quantity) == ("counted", Decimal(1_000))


def test_a_query_that_is_not_read_is_told(site: Any) -> None:
    """A client that makes its query long does not make its bill small."""
    _, (event,) = site.ask(f"/parameters?{PARAMETERS}&x={'x' * 20_000}", ACCOUNT)
    assert (event.state, event.quantity) == ("inbox", None)


def test_an_identity_in_a_query_that_is_not_read_is_not_absent(site: Any) -> None:
    """It was sent; that nobody looked is another reason."""
    _, (event,) = site.ask(f"/query?account=a&x={'x' * 20_000}")
    assert event.state == "inbox"
    assert "absent" not in event.reason


@pytest.mark.parametrize("target", [b"/query?account=\xff", b"/path/\xff", b"/header \xff"])
def test_requests_that_no_server_takes(site: Any, target: bytes) -> None:
    """The app never sees them, and neither does the middleware."""
    answer, _ = site.ask(target, events=0)
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_client_that_sends_more_than_it_said(site: Any) -> None:
    """The rest is another request, and a bad one; the first one is counted."""
    _, (event,) = site.ask("/asked", ACCOUNT, JSON_BODY, body=b'{"n": 5}GARBAGE', length=8)
    assert (event.state, event.quantity) == ("counted", Decimal(5))


@pytest.mark.parametrize("body", [b"", b'{"n": ', b'{"n": 5}'])
def test_a_client_that_sends_less_than_it_said(site: Any, body: bytes) -> None:
    """The app gets no more either, and answers nothing; the row says that the client left."""
    answer, (event,) = site.ask("/asked", ACCOUNT, JSON_BODY, body=body, length=700, leave=True)
    assert answer == b""
    assert (event.state, event.quantity, event.request_status) == ("inbox", None, None)
    assert "aborted: the client disconnected" in event.reason
