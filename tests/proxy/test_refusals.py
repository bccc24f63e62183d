"""The proxy's own answers."""

import asyncio
import json

from usageflow._types import Message
from usageflow.proxy.refusals import Refusal, refuse


def test_a_refusal_is_a_json_problem() -> None:
    """Status, code and message in one small JSON answer with its length."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(refuse(send, Refusal(502, "upstream_unreachable", "It is down.")))
    start, body = sent
    assert start["status"] == 502
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
    assert json.loads(body["body"]) == {
        "error": {"code": "upstream_unreachable", "message": "It is down."}
    }
