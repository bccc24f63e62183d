"""An app with the middleware that streams `/stream/N` MiB, for the memory trial."""

from usageflow import UsageFlowMiddleware
from usageflow._types import Receive, Scope, Send

MIB = b"x" * 1_048_576


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with N MiB in messages of 1 MiB."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(scope["path"].rsplit("/", 1)[1])):
        await send({"type": "http.response.body", "body": MIB, "more_body": True})
    await send({"type": "http.response.body"})


app = UsageFlowMiddleware(stream)
