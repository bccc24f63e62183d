"""One request on its way: a client's connection joined to one of an upstream.

Driven by what the two connections call, with no task and no timer of its own; only a connection
that has to be opened is waited for in a task. Both directions run at once. What the end of an
answer must wait for, the Watch says; nothing here knows policies.
"""

from typing import TYPE_CHECKING, Final, Protocol

from usageflow.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.chunked import chunk, last_chunk
from usageflow.proxy.headers import (
    answer_bytes,
    answer_ending,
    answer_fields,
    expects_continue,
    persists,
    request_bytes,
    request_fields,
    wants_trailers,
)
from usageflow.proxy.heads import UNTIL_CLOSE, Fields, RequestHead, ResponseHead
from usageflow.proxy.metrics import server_timing
from usageflow.proxy.refusals import REASONS, Refusal, refusal_fields
from usageflow.proxy.tunnel import Side, Tunnel
from usageflow.proxy.upstream_connection import UpstreamConnection
from usageflow.proxy.usage_asked import UsageAsked
from usageflow.proxy.watch import HandshakeWatch, Watch

if TYPE_CHECKING:
    from usageflow.proxy.gateway import Gateway

REPLAYABLE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Idempotent methods (RFC 9110, section 9.2.2): asking twice is asking once."""
PENDING_BYTES_MAX: Final = 65_536
"""Body bytes kept while a connection to the upstream is opened; then the client has to wait."""

CLIENT_LEFT: Final = "client_left"
"""The code of a request whose client went away before it had its answer."""
CLIENT_LEFT_STATUS: Final = 499
"""What is logged where no status was sent, as nginx does."""

_CONTINUE: Final = 100
_SERVER_ERROR: Final = 500
"""From here on the client is not at fault (RFC 9110, section 15.6)."""
_GO_ON: Final = ResponseHead(_CONTINUE, b"Continue", 1, [], [], {}, 0)
_UPGRADED: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Client(Side, Protocol):
    """The connection that the request came from."""

    peer: str
    trusted: bool

    def carry(self, tunnel: Tunnel, transit: "Transit") -> None:
        """From now on every byte goes to `tunnel`; count them in `transit`."""

    def done(self, *, keep: bool) -> None:
        """The answer was written; `keep` the connection for the next request, or close it."""

    def cut(self, *, reset: bool) -> None:
        """End the connection after what was written; with a `reset`, at once and visibly so."""


class Transit:
    """One request: `begin` it once, `upload` the rest of its body.

    What is logged of it is there to be read: `status`, `code`, `bytes_in` and so on.
    """

    __slots__ = (
        "_added",
        "_chunked_out",
        "_client",
        "_continued",
        "_decided",
        "_gateway",
        "_keep",
        "_late",
        "_metering_s",
        "_over",
        "_pending",
        "_pending_bytes",
        "_refusal",
        "_retried",
        "_tail",
        "_until_close",
        "_uploading",
        "_upstream",
        "_usage_asked",
        "aborted",
        "answered_at_s",
        "bytes_in",
        "bytes_out",
        "code",
        "head",
        "started_at_s",
        "status",
        "target_name",
        "watch",
    )

    def __init__(
        self,
        gateway: "Gateway",
        client: Client,
        head: RequestHead,
        *,
        added: Fields,
        watch: Watch | None,
        refusal: Refusal | None = None,
        started_at_s: float,
    ) -> None:
        """`added` are the fields sent beside the client's own; a `refusal` is all it gets.

        `started_at_s` is when its head was there, by the gateway's clock.
        """
        self._gateway = gateway
        self._client = client
        self.head = head
        self._added = added
        self.watch = watch
        self._refusal = refusal
        self.started_at_s = started_at_s
        self._metering_s = gateway.now() - started_at_s if gateway.times_metering else 0.0
        self._late: tuple[ResponseHead, Fields] | None = None
        self.answered_at_s = 0.0
        self.status = self.bytes_in = self.bytes_out = 0
        self.code: str | None = None
        self.aborted: str | None = None
        self.target_name: str | None = None
        self._upstream: UpstreamConnection | None = None
        self._usage_asked: UsageAsked | None = None
        self._pending: list[bytes] | None = None
        self._pending_bytes = 0
        self._uploading = head.body_bytes != 0
        self._decided = False  # what the client gets is known, though its end may have to wait
        self._over = False  # the client has it, or is gone
        self._continued = self._retried = False
        self._chunked_out = self._until_close = False
        self._keep = persists(head)
        self._tail = b""

    # The client's side

    def begin(self, part: bytes, *, more: bool) -> None:
        """Ask the upstream, with what there is of the body."""
        watch = self.watch
        self._uploading = more
        self.bytes_in = len(part)
        if watch is not None:
            watch.received(part, more=more)
            if watch.include_usage and UsageAsked.fits(self.head):
                self._usage_asked = UsageAsked(self._gateway.settings.body_bytes_max)
        if self._refusal is not None:
            self.refuse(self._refusal)
        elif self._usage_asked is not None:
            if more:  # the upstream is asked when the body is there: it cannot ask for it
                self.interim(_GO_ON)
            self._collect(self._usage_asked, part, more=more)
        else:
            self._send(part)

    def upload(self, part: bytes, *, more: bool) -> None:
        """Send more of the body."""
        if self._decided:
            return
        self._uploading = more
        self.bytes_in += len(part)
        if self.watch is not None:
            self.watch.received(part, more=more)
        connection = self._upstream
        if connection is not None:
            connection.write(self._framed(part))
            if not more:
                connection.end_upload()
        elif self._pending is not None:
            self._keep_back(self._pending, part)
        elif self._usage_asked is not None:
            self._collect(self._usage_asked, part, more=more)

    def refuse(self, refusal: Refusal) -> None:
        """Answer ourselves; if the upstream's answer has begun, break it off instead.

        An answer that is complete and waits for its usage to be on disk is left alone.
        """
        if self._decided:
            return
        self.code = refusal.code
        if self.status:
            self._break_off(refusal.message)
            return
        if self.target_name is None and refusal.status < _SERVER_ERROR:
            self.watch = None  # it was no request, and nobody was asked
        fields, body = refusal_fields(refusal)
        self.status = refusal.status
        self._keep = self._keep and not self._uploading and not self._gateway.draining
        if self.watch is not None:
            self.watch.answered(refusal.status, fields)
            self.watch.carried(body, more=False)
        if self.head.method == b"HEAD":
            body = b""
        self.bytes_out = len(body)
        ending = answer_ending(minor=self.head.minor, keep=self._keep, chunked=False)
        self._end(answer_bytes(refusal.status, REASONS[refusal.status], fields, ending) + body)

    def client_left(self) -> None:
        """The client is gone; nobody waits for the answer."""
        if self._over:
            return
        self.code = CLIENT_LEFT
        self.status = self.status or CLIENT_LEFT_STATUS
        self._gateway.figures.aborted += 1
        self._stop("the client disconnected")

    def client_full(self) -> None:
        """The client reads more slowly than the upstream answers."""
        if self._upstream is not None:
            self._upstream.pause()

    def client_ready(self) -> None:
        """There is room again."""
        if self._upstream is not None:
            self._upstream.resume()

    # Asking

    def _send(self, part: bytes) -> None:
        connection = self._gateway.upstreams.take()
        if connection is not None:
            self._ask(connection, part)
            return
        self._pending = []
        self._keep_back(self._pending, part)
        self._gateway.spawn(self._open())

    async def _open(self) -> None:
        try:
            connection = await self._gateway.upstreams.acquire()
        except UpstreamError as error:
            self.failed(error)
            return
        if self._decided:
            self._gateway.upstreams.release(connection)
            return
        part = b"".join(self._pending or ())
        if self._pending_bytes >= PENDING_BYTES_MAX:
            self._client.resume()  # before it is sent: the upstream may be full with it
        self._pending, self._pending_bytes = None, 0
        self._ask(connection, part)

    def _keep_back(self, pending: list[bytes], part: bytes) -> None:
        before = self._pending_bytes
        pending.append(part)
        self._pending_bytes += len(part)
        if before < PENDING_BYTES_MAX <= self._pending_bytes:
            self._client.pause()

    def _collect(self, asked: UsageAsked, part: bytes, *, more: bool) -> None:
        body = asked.collect(part, more=more)
        if body is None:
            return
        if more:  # too large to be changed: it goes as it is
            self._usage_asked = None
        else:
            self.head, body = asked.change(self.head, body)
        self._send(body)

    def _ask(self, connection: UpstreamConnection, part: bytes) -> None:
        self._upstream = connection
        self.target_name = connection.target.name
        head = self.head
        host = self._gateway.host_for(connection.target, head)
        data = request_bytes(
            head, request_fields(head, trusted=self._client.trusted), self._added, host=host
        )
        if part or head.body_bytes is None:
            data += self._framed(part)
        connection.start(
            self,
            data,
            to_head=head.method == b"HEAD",
            uploading=self._uploading,
            upgrading=isinstance(self.watch, HandshakeWatch),
        )

    def _framed(self, part: bytes) -> bytes:
        """A part of the body as it is sent: `_uploading` says whether more follows."""
        if self.head.body_bytes is not None:
            return part
        framed = chunk(part)
        return framed if self._uploading else framed + last_chunk()

    # The upstream's side: what an Asker is told

    def interim(self, head: ResponseHead) -> None:
        """Pass a 1xx on to a client that can understand it."""
        if head.status == _CONTINUE:
            if self._continued or not expects_continue(self.head):
                return
            self._continued = True
        if self.head.minor:
            fields, _ = answer_fields(head)
            self._client.write(answer_bytes(head.status, head.reason, fields, b"\r\n"))

    def answered(
        self,
        head: ResponseHead,
        length: int | None,
        body: bytes,
        *,
        complete: bool,
        trailers: Fields,
        raw: bytes,
    ) -> None:
        """Pass the answer on. One that is complete leaves in one piece, when it may."""
        gateway, watch = self._gateway, self.watch
        self.status = head.status
        self.answered_at_s = gateway.now()
        if self._upstream is not None:
            gateway.upstreams.succeeded(self._upstream.target)
        fields, lowered = answer_fields(head)
        if watch is not None:
            watch.answered(head.status, lowered)
            if self._usage_asked is not None and self._usage_asked.filters(lowered):
                fields, length = UsageAsked.without_length(fields), None
        unknown = length is None or length == UNTIL_CLOSE
        self._chunked_out = unknown and self.head.minor == 1
        self._until_close = unknown and not self._chunked_out
        if self._until_close or gateway.draining or (self._uploading and self._unsure()):
            self._keep = False
        if complete and gateway.times_metering:
            self._late = head, fields
            raw = b""
        elif (
            fields is not head.fields
            or self._chunked_out
            or not (self._keep and head.minor and self.head.minor)
        ):
            raw = self._head(head, fields)
        if complete:
            self._whole(raw, body, trailers)
            return
        self._client.write(raw)
        if body:
            self.carried(body, complete=False, trailers=trailers)

    def carried(self, body: bytes, *, complete: bool, trailers: Fields) -> None:
        """Pass more of it on. Only what completes it has to wait."""
        if self.watch is not None:
            self.watch.carried(body, more=not complete)
            if self._usage_asked is not None:
                body = self._usage_asked.feed(body, complete=complete)
        self.bytes_out += len(body)
        if self._chunked_out:
            body = chunk(body)
        if not complete:
            self._client.write(body)
        elif self._chunked_out:
            self._client.write(body)
            self._end(self._last_chunk(trailers))
        else:
            self._end(body)

    def upgraded(self, head: ResponseHead, rest: bytes) -> None:
        """The upstream accepts the WebSocket: from now on bytes pass as they come."""
        connection, watch = self._upstream, self.watch
        assert connection is not None  # noqa: S101 - it is what answers
        assert isinstance(watch, HandshakeWatch)  # noqa: S101 - else no upgrade was asked for
        self.status = head.status
        self.answered_at_s = self._gateway.now()
        self._gateway.upstreams.succeeded(connection.target)
        self._upstream = None  # it serves nobody else from now on
        fields, lowered = answer_fields(head)
        self._client.write(answer_bytes(head.status, head.reason, fields, _UPGRADED))
        tunnel = Tunnel(self._client, connection, watch.tap(lowered))
        connection.carry(tunnel)
        self._client.carry(tunnel, self)
        if rest:
            tunnel.from_upstream(rest)

    def failed(self, error: UpstreamError) -> None:
        """Ask again if that makes no difference; otherwise tell the client what happened."""
        if self._decided:
            return
        connection, figures = self._upstream, self._gateway.figures
        self._release()
        if connection is None:
            figures.upstream_errors["unreachable"] += 1
        elif self._may_repeat(connection, error):
            self._retried = True
            figures.upstream_errors["retried"] += 1
            self._gateway.upstreams.drop_idle(connection.target)
            self._pending = []
            self._gateway.spawn(self._open())
            return
        else:
            figures.upstream_errors[_kind(error)] += 1
            self._gateway.upstreams.failed(connection.target, str(error))
        self.refuse(Refusal(error.status, error.code, str(error)))

    def upstream_full(self) -> None:
        """The upstream takes the upload more slowly than it comes."""
        self._client.pause()

    def upstream_ready(self) -> None:
        """There is room again."""
        self._client.resume()

    def _may_repeat(self, connection: UpstreamConnection, error: UpstreamError) -> bool:
        """Whether it is asked again: once, and only if that makes no difference.

        A kept-alive connection may turn out to be closed only when it is used, and nothing tells
        whether the request was processed.
        """
        return (
            connection.stale
            and not self._retried
            and isinstance(error, UpstreamUnreachable)
            and self.head.body_bytes == 0
            and self.head.method in REPLAYABLE
        )

    # The answer

    def _whole(self, head: bytes, body: bytes, trailers: Fields) -> None:
        """An answer that came in one piece leaves in one, after its usage is on disk."""
        if self.watch is not None:
            self.watch.carried(body, more=False)
            if self._usage_asked is not None:
                body = self._usage_asked.feed(body, complete=True)
        self.bytes_out = len(body)
        if self._chunked_out:
            body = chunk(body) + self._last_chunk(trailers)
        self._end(head + body)

    def _head(self, head: ResponseHead, fields: Fields) -> bytes:
        if self._gateway.times_metering:
            fields = [*fields, (b"Server-Timing", server_timing(self._metering_s))]
        ending = answer_ending(minor=self.head.minor, keep=self._keep, chunked=self._chunked_out)
        return answer_bytes(head.status, head.reason, fields, ending)

    def _unsure(self) -> bool:
        """Whether the client waits to be told to send its body, and was not told.

        It may now send the body or its next request: nothing that comes can be understood any more.
        """
        return not self._continued and expects_continue(self.head)

    def _last_chunk(self, trailers: Fields) -> bytes:
        """The end of the answer; with trailers for those who asked (RFC 9110, section 10.1.4)."""
        return last_chunk(trailers if trailers and wants_trailers(self.head) else ())

    # The end

    def _end(self, tail: bytes) -> None:
        """The answer is complete but for `tail`, which waits until its usage is on disk."""
        self._decided = True
        self._release()
        hold = self.watch.ended() if self.watch is not None else None
        self._tail = tail
        if hold is None:
            self._finish()
        else:
            hold.then(self._finish)

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        if self._late is not None:
            self._metering_s += self._gateway.now() - self.answered_at_s
            self._client.write(self._head(*self._late))
        self._client.write(self._tail)
        self._gateway.journal.finished(self, self._client.peer)
        self._client.done(keep=self._keep)

    def _break_off(self, reason: str) -> None:
        """A cut answer must not look like a whole one.

        Its length shows it, or the chunk that is missing. Where the end of the connection would be
        the end of the answer, only a reset does.
        """
        self._stop(reason)
        self._client.cut(reset=self._until_close)

    def _stop(self, reason: str) -> None:
        self._decided = self._over = True
        self.aborted = reason
        self._release()
        if self.watch is not None:
            self.watch.broken_off(reason)
        self._gateway.journal.finished(self, self._client.peer)

    def _release(self) -> None:
        connection, self._upstream = self._upstream, None
        if connection is not None:
            self._gateway.upstreams.release(connection)


def _kind(error: UpstreamError) -> str:
    """Which of the figures' UPSTREAM_ERRORS it is, on a connection that was open."""
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    return "broken" if isinstance(error, UpstreamUnreachable) else "garbage"
