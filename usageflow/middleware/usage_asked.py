"""Asking an OpenAI-style endpoint for a stream's usage, where a policy says so.

The one place where the edge changes a request: it adds `stream_options.include_usage`, and takes
the chunk that this brings out of the client's stream again. What to add and to take out is decided
in `include_usage`; this moves the messages.
"""

from usageflow._types import Message, Receive, Scope, Send
from usageflow.middleware.include_usage import (
    UsageFilter,
    filters,
    wants,
    with_length,
    with_usage,
    without_encodings,
    without_length,
)


async def ask_for_usage(
    scope: Scope, receive: Receive, send: Send, body_bytes_max: int
) -> tuple[Scope, Receive, Send]:
    """The scope, receive and send to go on with: changed ones if the request asks for a stream
    without its usage, else what is equal to the given ones. Reads the request's body first.
    """
    if not wants(scope["headers"]):
        return scope, receive, send
    messages = await _body(receive, body_bytes_max)
    body = b"".join(message.get("body", b"") for message in messages)
    whole = messages[-1]["type"] == "http.request" and not messages[-1].get("more_body", False)
    changed = with_usage(body) if whole else None
    if changed is None:
        return scope, _replaying(messages, receive), send
    headers = with_length(without_encodings(scope["headers"]), len(changed))
    message: Message = {"type": "http.request", "body": changed, "more_body": False}
    return (
        {**scope, "headers": headers},
        _replaying([message], receive),
        _filtering(send),
    )


async def _body(receive: Receive, bytes_max: int) -> list[Message]:
    """Messages until the body is complete, is too large to be changed, or the client has left."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
        if not more or size > bytes_max:
            return messages


def _replaying(messages: list[Message], receive: Receive) -> Receive:
    async def replay() -> Message:
        return messages.pop(0) if messages else await receive()

    return replay


def _filtering(send: Send) -> Send:
    """Only a plain event stream is filtered; everything else passes as it is."""
    unasked: UsageFilter | None = None

    async def send_filtered(message: Message) -> None:
        nonlocal unasked
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if filters(headers):
                unasked = UsageFilter()
                headers = without_length(headers)
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and unasked is not None:
            body = unasked.feed(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                body += unasked.end()
            message = {**message, "body": body}
        await send(message)

    return send_filtered
