"""An observed request passes as if nobody looked."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from usageflow._types import ASGIApp, Message
from usageflow.middleware.observation import BODY_BYTES_MAX, Observation

JSON = (b"content-type", b"application/json")
STREAM = (b"content-type", b"text/event-stream")


def observe(
    kit: Any, app: ASGIApp, *incoming: Message, closely: bool = True
) -> tuple[Observation, Any]:
    """Run the app through an observation; what was seen, and the client."""
    done: list[Observation] = []
    seen = Observation(kit.scope(), "/metered", closely=closely, finish=done.append)
    client = kit.Client(incoming=list(incoming))
    asyncio.run(seen.through(app, client.receive, client.send))
    assert done == [seen]
    return seen, client


def reading(then: ASGIApp) -> ASGIApp:
    """An app that reads one message first."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await then(scope, receive, send)

    return app


def test_both_bodies_are_seen(kit: Any) -> None:
    """As they passed; the client has every message."""
    answer = [kit.start(200, JSON), kit.body(b'{"a"', more=True), kit.body(b": 1}")]
    request = {"type": "http.request", "body": b"asked"}
    seen, client = observe(kit, reading(kit.answering(*answer)), request)
    assert client.outgoing == answer
    look = seen.look(200)
    assert (look.request_body, look.response_body) == (b"asked", b'{"a": 1}')
    assert (look.response_headers, look.status) == ([JSON], 200)
    assert look.request_headers == [(b"x-account", b"acct_1")]


def test_a_light_look_keeps_no_body(kit: Any) -> None:
    """Only how it was answered."""
    request = {"type": "http.request", "body": b"asked"}
    app = reading(kit.answering(kit.start(204), kit.body(b"x")))
    seen, _ = observe(kit, app, request, closely=False)
    assert seen.status == 204
    assert (seen.look(204).request_body, seen.look(204).response_body) == (b"", b"")


def test_the_body_of_an_error_says_nothing_of_the_endpoint(kit: Any) -> None:
    """Its paths are those of an error."""
    seen, _ = observe(kit, kit.answering(kit.start(400, JSON), kit.body(b'{"detail": 1}')))
    assert seen.look(400).response_body == b""


@pytest.mark.parametrize("chunk_bytes", [1_000, 70_000])
def test_of_large_bodies_nothing_is_kept_and_of_streams_the_end(kit: Any, chunk_bytes: int) -> None:
    """In bounded memory."""
    chunks = [bytes([65 + n]) * chunk_bytes for n in range(20)] * 4
    whole = b"".join(chunks)
    messages = [kit.body(chunk, more=True) for chunk in chunks]
    seen, client = observe(kit, kit.answering(kit.start(200, JSON), *messages))
    assert client.body == whole
    assert seen.look(200).response_body == b""
    seen, client = observe(kit, kit.answering(kit.start(200, STREAM), *messages))
    assert client.body == whole
    assert seen.look(200).response_body == whole[-BODY_BYTES_MAX:]


def test_an_app_that_raises_has_failed(kit: Any) -> None:
    """The error goes on; the client gets a 500, unless an answer had begun."""

    def failing(*messages: Message) -> ASGIApp:
        async def app(scope: Any, receive: Any, send: Callable[..., Any]) -> None:
            await kit.answering(*messages)(scope, receive, send)
            raise LookupError

        return app

    for messages, status in (((), 500), ((kit.start(201),), 201)):
        done: list[Observation] = []
        seen = Observation(kit.scope(), "/", closely=True, finish=done.append)
        client = kit.Client()
        with pytest.raises(LookupError):
            asyncio.run(seen.through(failing(*messages), client.receive, client.send))
        assert ([seen], seen.status) == (done, status)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "http.response.start"},
        {"type": "http.response.start", "status": 200, "headers": [("str", "str")]},
        {"type": "http.response.start", "status": 200, "headers": [1]},
        {"type": "http.response.body", "body": None},
        {"type": "http.response.body", "body": "text"},
    ],
    ids=str,
)
def test_what_is_malformed_is_the_server_s_to_refuse(kit: Any, message: Message) -> None:
    """It passes unchanged, and looking at it raises nothing."""
    seen, client = observe(kit, kit.answering(message))
    assert client.outgoing == [message]
    seen.look(200)


def test_headers_that_can_be_read_once_are_left_to_the_server(kit: Any) -> None:
    """An iterator."""
    message = kit.start(200) | {"headers": iter([JSON])}
    seen, client = observe(kit, kit.answering(message))
    assert list(client.outgoing[0]["headers"]) == [JSON]
    assert seen.look(200).response_headers == []
