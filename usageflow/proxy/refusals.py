"""The answers that are the proxy's own. They name what happened, never an internal address."""

import json

from usageflow._types import Send
from usageflow.proxy.headers import Refusal


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer `{"error": {"code": ..., "message": ...}}` with the refusal's status."""
    error = {"code": refusal.code, "message": refusal.message}
    body = json.dumps({"error": error}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
