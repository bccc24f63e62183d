"""The sans-I/O exchange: which message completes a response, and what was seen."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow._types import Message
from usageflow.config import Settings
from usageflow.middleware.exchange import NOT_READ, Exchange
from usageflow.middleware.limits import Limits
from usageflow.policies import Match, PolicySet, parse_file

TOKENS = """
[[policy]]
name = "tokens"
match = "ANY /x"
identify = [ { from = "body", path = "account" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.tokens"
"""
COUNT = TOKENS.replace('"response.body.tokens"', "1").replace(
    '"body", path = "account"', '"header", name = "x-account"'
)


def match(toml: str = TOKENS) -> Match:
    """The match of POST /x."""
    found = PolicySet.build(parse_file(toml, "t").policies).match("POST", "/x")
    assert found is not None
    return found


def exchange(method: str = "POST", *, toml: str = TOKENS, body_bytes_max: int = 100) -> Exchange:
    """An exchange of POST /x."""
    scope = {"method": method, "path": "/x", "headers": [], "query_string": b"a=1"}
    limits = Limits.of(Settings())._replace(body_bytes_max=body_bytes_max)
    return Exchange(match(toml), scope, "/x", limits, started_at_s=1_800_000_000)


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> Message:
    """A response start."""
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def part(content: bytes = b"", more: bool = False, kind: str = "body") -> Message:  # noqa: FBT001, FBT002
    """A response body message."""
    return {"type": f"http.response.{kind}", "body": content, "more_body": more}


@pytest.mark.parametrize(
    ("method", "messages", "completing"),
    [
        pytest.param(
            "POST", [start(), part(b"a", more=True), part()], 2, id="no length: final message"
        ),
        pytest.param("POST", [start(), part(b"a")], 1, id="one message"),
        pytest.param(
            "POST",
            [
                start(200, (b"Content-Length", b"2")),
                part(b"a", more=True),
                part(b"b", more=True),
                part(),
            ],
            2,
            id="length: the message that reaches it",
        ),
        pytest.param("HEAD", [start(200, (b"content-length", b"9")), part()], 0, id="HEAD"),
        pytest.param("POST", [start(204), part()], 0, id="204"),
        pytest.param("POST", [start(304, (b"content-length", b"9")), part()], 0, id="304"),
        pytest.param("POST", [start(200, (b"content-length", b"0")), part()], 0, id="empty"),
        pytest.param(
            "POST", [start(200, (b"content-length", b"x")), part(b"a")], 1, id="unreadable length"
        ),
        pytest.param(
            "POST",
            [start(200, trailers=True), part(b"a"), {"type": "http.response.trailers"}],
            2,
            id="trailers",
        ),
        pytest.param(
            "HEAD",
            [start(200, trailers=True), {"type": "http.response.trailers"}],
            1,
            id="HEAD trailers",
        ),
        pytest.param(
            "POST", [start(), {"type": "http.response.pathsend", "path": "/f"}], 1, id="pathsend"
        ),
        pytest.param("POST", [start(), part(kind="zerocopysend")], 1, id="zerocopysend"),
        pytest.param(
            "POST", [{"type": "http.response.push"}, start(), part()], 2, id="unknown messages pass"
        ),
    ],
)
def test_exactly_one_message_completes_a_response(
    method: str, messages: list[Message], completing: int
) -> None:
    """The four cases of the design, and what servers may add."""
    subject = exchange(method)
    told = [subject.sends(message) for message in messages]
    assert told == [index == completing for index in range(len(messages))]
    assert subject.complete


def test_a_response_shorter_than_its_length_is_not_complete() -> None:
    """The server will break the connection: the client never has it whole."""
    subject = exchange()
    assert not subject.sends(start(200, (b"content-length", b"5")))
    assert not subject.sends(part(b"abc"))
    subject.abandon()
    assert subject.aborted == "the app ended without completing its response"


def test_bodies_are_kept_in_order() -> None:
    """Chunk boundaries mean nothing."""
    subject = exchange()
    subject.received({"type": "http.request", "body": b"ab", "more_body": True})
    assert subject.request_body.unfinished == NOT_READ
    subject.received({"type": "http.request", "body": b"c"})
    subject.sends(start())
    subject.sends(part(b"d", more=True))
    subject.sends(part(b"e"))
    assert subject.request_body.data == b"abc"
    assert subject.request_body.unfinished is None
    assert (subject.response_body.data, subject.response_body.problem) == (b"de", None)


def test_a_body_beyond_the_bound_is_counted_and_not_kept() -> None:
    """Memory stays bounded; the reason names the setting."""
    subject = exchange(body_bytes_max=4)
    subject.sends(start())
    subject.sends(part(b"abc", more=True))
    subject.sends(part(b"def"))
    assert subject.response_body.bytes_total == 6
    assert subject.response_body.data == b""
    assert subject.response_body.problem == "larger than body_bytes_max (4 bytes)"


def test_nothing_is_kept_that_no_policy_needs() -> None:
    """A policy that counts requests keeps no body."""
    subject = exchange(toml=COUNT)
    subject.received({"type": "http.request", "body": b"secret"})
    subject.sends(start())
    subject.sends(part(b"secret"))
    assert (subject.request_body.data, subject.response_body.data) == (b"", b"")
    assert (subject.request_body.bytes_total, subject.response_body.bytes_total) == (6, 6)


def test_a_request_body_that_was_never_read_is_unknown() -> None:
    """Not empty: unknown, and told so."""
    assert exchange().request_body.unfinished == NOT_READ


def test_an_app_that_raises_without_a_response_gets_the_servers_500() -> None:
    """A cancelled app gets none."""
    subject = exchange()
    subject.fail(ValueError())
    assert (subject.status, subject.aborted) == (500, "the app raised ValueError")
    subject = exchange()
    subject.fail(KeyboardInterrupt())
    assert subject.status is None


def test_a_cut_response_says_why_its_body_cannot_be_measured() -> None:
    """Half a JSON document is not a document."""
    subject = exchange()
    subject.sends(start())
    subject.sends(part(b"{", more=True))
    subject.received({"type": "http.disconnect"})
    subject.abandon()
    assert subject.aborted == "the client disconnected"
    assert subject.response_body.unfinished == "the response is incomplete: the client disconnected"


def test_a_disconnect_after_the_end_is_no_abort() -> None:
    """Clients leave when they have what they came for."""
    subject = exchange()
    subject.sends(start())
    subject.sends(part(b"{}"))
    subject.received({"type": "http.disconnect"})
    assert not subject.disconnected


KINDS = st.sampled_from(
    [
        "http.response.start",
        "http.response.body",
        "http.response.trailers",
        "http.response.pathsend",
    ]
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "type": KINDS,
            "status": st.integers(100, 599),
            "headers": st.lists(
                st.tuples(st.sampled_from([b"content-length", b"x"]), st.binary(max_size=3)),
                max_size=3,
            ),
            "body": st.binary(max_size=8),
            "more_body": st.booleans(),
            "trailers": st.booleans(),
        }
    ),
    max_size=8,
)


@given(MESSAGES, st.sampled_from(["GET", "HEAD", "POST"]))
def test_any_sequence_of_messages_completes_at_most_once(
    messages: list[Message], method: str
) -> None:
    """Whatever an app sends, no exception, one completion, and bounded memory."""
    subject = exchange(method, body_bytes_max=10)
    told = [subject.sends(message) for message in messages]
    assert sum(told) <= 1
    assert len(subject.response_body.data) <= 10
