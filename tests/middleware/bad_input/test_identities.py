"""Identities that cannot be: in each source the request passes, and the event says what it was."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from usageflow.config import Settings
from usageflow.middleware import FixedFeed, UsageFlowMiddleware
from usageflow.policies import PolicySet, parse_file
from usageflow.policies.surroundings import Surroundings

SECRET = "s" * 32
BAD = {"newline": "a\nb", "nul": "a\0b", "quotes": "a\"b'c", "10 KB": "x" * 10_000}
CONTROL = "contains control characters"
LONG = "has 10000 characters; at most 500"
IN_NO_ROW = "header x-account is in no row of the policy's table"
JSON_BODY = (b"content-type", b"application/json")

BY_WIRE = [
    *((source, kind) for source in ("query", "path", "body", "state", "token") for kind in BAD),
    *(
        (source, kind)
        for source in ("header", "cookie", "key", "hashed", "table")
        for kind in ("quotes", "10 KB")
    ),
]
"""What a request of HTTP/1.1 can carry: headers hold no control characters."""
REASONS: dict[tuple[str, str], str | None] = {
    ("key", "quotes"): "header x-api-key: the key is in no row of the policy's owners",
    ("key", "10 KB"): "header x-api-key: the key has more than 4096 characters",
    ("hashed", "10 KB"): "header x-api-key: the key has more than 4096 characters",
    ("token", "10 KB"): "header authorization: the token has more than 8192 characters",
    ("table", "quotes"): IN_NO_ROW,
    ("table", "10 KB"): IN_NO_ROW,
}


def carrying(source: str, value: str) -> tuple[Any, ...]:
    """Target and headers of a request with this identity, and its body last."""
    text = json.dumps(value).encode()
    match source:
        case "query":
            return "/query?account=" + quote(value), b""
        case "path":
            return "/path/" + quote(value, safe=""), b""
        case "body":
            return "/body", JSON_BODY, b'{"account": ' + text + b"}"
        case "state":
            return "/state", text
        case "token":
            token = jwt.encode({"sub": value}, SECRET).encode()
            return "/token", (b"authorization", b"Bearer " + token), b""
        case "cookie":
            return "/cookie", (b"cookie", b"a=1; account=" + value.encode()), b""
        case "key" | "hashed":
            return f"/{source}", (b"x-api-key", value.encode()), b""
        case _:
            return f"/{source}", (b"x-account", value.encode()), b""


@pytest.mark.parametrize(("source", "kind"), BY_WIRE)
def test_bad_identities(site: Any, source: str, kind: str) -> None:
    """Quotes are text like any other; what cannot be stored or sent on is told, and not quoted."""
    *sent, body = carrying(source, BAD[kind])
    _, (event,) = site.ask(*sent, body=body)
    usual = {"quotes": None, "10 KB": LONG}.get(kind, CONTROL)
    reason = REASONS.get((source, kind), usual)
    assert event.quantity == 1
    if reason is None:
        assert (event.state, event.reason) == ("counted", None)
        assert (event.identity.value == BAD[kind]) == (source != "hashed")
    else:
        assert (event.state, event.identity.value) == ("inbox", None)
        assert event.reason.startswith("no identity: ")
        assert event.reason.endswith(reason)


@pytest.mark.parametrize("value", [b"a\nb", b"a\0b"])
def test_no_server_lets_control_characters_pass(site: Any, value: bytes) -> None:
    """They are refused before the app is called, and so before the middleware is."""
    answer, _ = site.ask("/header", (b"x-account", value), events=0)
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("value", [b"a\nb", b"a\0b", b"a\r\nx-account: b"])
@pytest.mark.parametrize("source", ["header", "cookie", "table", "hashed"])
def test_control_characters_in_a_scope(
    kit: Any, tables: dict[str, str], source: str, value: bytes
) -> None:
    """If a server did, they would be no identity either; a digest of them is harmless."""
    parsed = parse_file(tables[source], "t")
    built = PolicySet.build(parsed.policies, Surroundings({"BAD_INPUT_SECRET": SECRET}))
    name = {"cookie": b"cookie", "hashed": b"x-api-key"}.get(source, b"x-account")
    headers = [(name, b"account=" + value if source == "cookie" else value)]
    recorder, client = kit.ManualRecorder(), kit.Client()
    app = UsageFlowMiddleware(
        kit.answering(kit.start(), kit.body(b"ok")),
        settings=Settings(),
        feed=FixedFeed(built),
        recorder=recorder,
    )
    asyncio.run(app(kit.scope(path=f"/{source}", headers=headers), client.receive, client.send))
    assert client.body == b"ok"
    (event,) = recorder.events
    if source == "hashed":
        assert event.identity.value.startswith("key_")
    else:
        assert (event.state, event.identity.value) == ("inbox", None)
        assert event.reason == f"no identity: {IN_NO_ROW}" or event.reason.endswith(CONTROL)
