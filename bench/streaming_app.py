"""An app with the middleware that answers `/v1/stream/N` with N MiB, for the memory trial."""

from bench.bulk import BLOCK, MIB
from usageflow import UsageFlowMiddleware
from usageflow._types import Receive, Scope, Send


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in messages of 1 MiB."""
    if scope["type"] != "http":
        return
    mib = int(scope["path"].rsplit("/", 1)[1])
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(mib * MIB).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(mib):
        await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
    await send({"type": "http.response.body"})


app = UsageFlowMiddleware(stream)
