"""One request on its way: the client's side of ASGI joined to one connection of the upstream.

Both directions run at once. The hot path, a request without a body or with a small one and an
answer that fits one packet, needs no task and no timer; whatever takes longer than a tick gets a
task that attends to the client. Nothing here knows where the upstream is.
"""

import asyncio
from typing import Final

from usageflow._types import Message, Receive, Scope, Send
from usageflow.errors import UpstreamError, UpstreamUnreachable
from usageflow.proxy.connection import UpstreamConnection
from usageflow.proxy.headers import RequestHead, ResponseHead, request_bytes
from usageflow.proxy.pool import ConnectionPool
from usageflow.proxy.refusals import Refusal, refuse

REPLAYABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Idempotent methods (RFC 9110, section 9.2.2): asking twice is asking once."""

_WRONG_LENGTH: Final = "The body of the request is not as long as its Content-Length says."


class Forwarding:
    """The state of one request: `run` it once. `attend` may be called at any time meanwhile."""

    __slots__ = (
        "_body_left",
        "_client_left",
        "_connection",
        "_head",
        "_inbound",
        "_pool",
        "_receive",
        "_receiving",
        "_scope",
        "_send",
        "_started",
        "_uploading",
    )

    def __init__(
        self, pool: ConnectionPool, head: RequestHead, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._pool = pool
        self._head = head
        self._scope = scope
        self._receive = receive
        self._send = send
        self._connection: UpstreamConnection | None = None
        self._inbound: asyncio.Task[None] | None = None
        self._body_left = head.body_bytes
        self._uploading = head.body_bytes != 0
        self._receiving = self._client_left = self._started = False

    async def run(self) -> None:
        """Forward the request and its answer; answer 502 or 504 if the upstream cannot.

        Raises UpstreamError when the upstream fails after its answer has begun, so that the server
        breaks the client's connection instead of ending a cut answer as if it were whole. Returns
        quietly when the client has left; the upstream's connection is then closed.
        """
        try:
            data = await self._opening()
            if isinstance(data, Refusal):
                await refuse(self._send, data)
            elif data:
                await self._deliver(await self._ask(data))
        except UpstreamError as error:
            if self._client_left:
                return
            if self._started:
                raise
            await refuse(self._send, Refusal(error.status, error.code, str(error)))
        finally:
            self._finish()

    def attend(self) -> None:
        """Have a task watch for the client leaving, unless something reads from it already."""
        if self._inbound is None and not self._receiving:
            self._inbound = asyncio.get_running_loop().create_task(self._listen())

    async def _opening(self) -> bytes | Refusal:
        """The head with what there is of the body, in one piece; empty when the client has left.

        With a Content-Length the first bytes are waited for: the body is then usually complete. A
        client that sends chunks may wait for the answer first, so nothing waits for its chunks.
        """
        data = request_bytes(self._scope, self._head.fields)
        if not self._body_left:
            return data
        self._receiving = True
        message = await self._receive()
        self._receiving = False
        if message["type"] == "http.disconnect":
            return b""
        part, self._uploading = _body(message)
        if not self._count(part):
            return Refusal(400, "invalid_framing", _WRONG_LENGTH)
        return data + part

    async def _ask(self, data: bytes) -> ResponseHead:
        """Send the request and wait for the head of the answer.

        A kept-alive connection may turn out to be closed only when it is used. Nothing tells
        whether the request was processed: it is repeated once, if that makes no difference.
        """
        connection = await self._begin(data)
        try:
            return await connection.head()
        except UpstreamUnreachable:
            if self._client_left or not (connection.stale and self._replayable):
                raise
        self._release()
        self._pool.drop_idle()
        connection = await self._begin(data)
        return await connection.head()

    async def _begin(self, data: bytes) -> UpstreamConnection:
        connection = self._connection = self._pool.take_idle() or await self._pool.acquire()
        if self._client_left:
            raise UpstreamUnreachable("The client left before its request was sent.")
        connection.start(
            data,
            to_head=self._scope["method"] == "HEAD",
            body_follows=self._uploading,
            chunked=self._head.body_bytes is None,
        )
        if self._uploading:
            self.attend()
        return connection

    async def _deliver(self, head: ResponseHead) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it gave the head
        self._started = True
        await self._send(
            {"type": "http.response.start", "status": head.status, "headers": head.fields}
        )
        more = True
        while more:
            part, more = await connection.read()
            if not more:
                self._finish()  # before the last message, which may wait for a disk
            await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def _listen(self) -> None:
        """Carry the rest of the body, then notice when the client leaves."""
        try:
            while (message := await self._receive())["type"] != "http.disconnect":
                if self._uploading and self._connection is not None:
                    await self._carry(message, self._connection)
        finally:
            self._client_left = True
            if self._connection is not None:
                self._connection.fail(UpstreamUnreachable("The client has left."))

    async def _carry(self, message: Message, connection: UpstreamConnection) -> None:
        part, self._uploading = _body(message)
        if not self._count(part):
            connection.fail(UpstreamError(_WRONG_LENGTH))
            return
        await connection.write_body(part)
        if not self._uploading:
            connection.end_body()

    def _count(self, part: bytes) -> bool:
        """Whether the body still can be as long as its head says."""
        if self._body_left is None:
            return True
        self._body_left -= len(part)
        return self._body_left > 0 if self._uploading else self._body_left == 0

    @property
    def _replayable(self) -> bool:
        return self._head.body_bytes == 0 and self._scope["method"] in REPLAYABLE

    def _finish(self) -> None:
        """Nothing more is wanted of the upstream, nor of the client."""
        self._release()
        if self._inbound is not None:
            self._inbound.cancel()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


def _body(message: Message) -> tuple[bytes, bool]:
    return message.get("body", b""), message.get("more_body", False)
