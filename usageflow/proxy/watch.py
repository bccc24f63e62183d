"""One request as the meter sees it: what passes is told to it, and it says what to wait for.

The proxy's counterpart of the ASGI middleware's inner functions; the messages are the same, so an
Exchange cannot tell which of the two it is in. It changes no byte and knows no connection.
"""

import time
from collections.abc import Sequence
from typing import Final, Protocol, cast

from usageflow._types import Headers, Scope
from usageflow.middleware.exchange import Exchange
from usageflow.middleware.meter import Meter, elapsed_ms
from usageflow.middleware.observation import Observation
from usageflow.middleware.parts import PartTimer
from usageflow.policies import Match
from usageflow.proxy.tunnel import Overheard, Tap
from usageflow.recorder import Hold

_REQUEST: Final = "http.request"
_START: Final = "http.response.start"
_BODY: Final = "http.response.body"


class Watch(Protocol):
    """What is told of one request. Nothing of it raises; after its end it does nothing."""

    @property
    def include_usage(self) -> bool:
        """Whether the usage of a stream is to be asked for."""

    @property
    def metered(self) -> bool:
        """Whether policies apply."""

    @property
    def metrics(self) -> Sequence[str]:
        """The metrics of the policies that apply; none if the request is only looked at."""

    def received(self, part: bytes, *, more: bool) -> None:
        """A part of the request's body."""

    def answered(self, status: int, fields: Headers) -> None:
        """The head of the answer, names in lower case."""

    def carried(self, part: bytes, *, more: bool) -> None:
        """A part of the answer's body."""

    def ended(self) -> Hold | None:
        """The answer is complete: record it. What its last byte must wait for, if anything."""

    def broken_off(self, reason: str) -> None:
        """The client has not got the whole answer, and will not."""


class ExchangeWatch:
    """A request that policies apply to."""

    __slots__ = ("_exchange", "_match", "_meter", "_parts", "_started_s")

    def __init__(self, meter: Meter, match: Match, scope: Scope, path: str) -> None:
        self._meter = meter
        self._match = match
        self._exchange: Exchange = meter.exchange(match, scope, path)
        self._parts: PartTimer | None = None
        if match.grows:
            self._parts = meter.part_timer(match, self._exchange)
        self._started_s = time.perf_counter()

    @property
    def metered(self) -> bool:
        """See Watch."""
        return True

    @property
    def include_usage(self) -> bool:
        """See Watch."""
        return self._match.include_usage

    @property
    def metrics(self) -> Sequence[str]:
        """See Watch."""
        return _metrics(self._match)

    def received(self, part: bytes, *, more: bool) -> None:
        """See Watch."""
        self._exchange.received({"type": _REQUEST, "body": part, "more_body": more})

    def answered(self, status: int, fields: Headers) -> None:
        """See Watch."""
        self._exchange.sends({"type": _START, "status": status, "headers": fields})

    def carried(self, part: bytes, *, more: bool) -> None:
        """See Watch."""
        exchange = self._exchange
        if exchange.tallies:  # an event may be measured by how long the answer took
            exchange.duration_ms = elapsed_ms(self._started_s)
        exchange.sends({"type": _BODY, "body": part, "more_body": more})
        if self._parts is not None and exchange.tallies:
            self._parts.moved()

    def ended(self) -> Hold | None:
        """See Watch."""
        if self._exchange.settled:
            return None
        return cast("Hold | None", self._meter.settle(self._match, self._exchange, self._started_s))

    def broken_off(self, reason: str) -> None:
        """See Watch."""
        if not self._exchange.settled:
            self._exchange.break_off(reason)
            self._meter.settle(self._match, self._exchange, self._started_s)


class HandshakeWatch:
    """The handshake of a WebSocket, whether policies apply to it or not.

    It is a GET, and what an upstream without WebSockets answers is the answer to a GET. So the
    policies of `plain` apply unless it is accepted; or `Upgrade: websocket` would pass them by.
    Those of `match` apply too, but for metrics that both have.
    """

    __slots__ = ("_match", "_meter", "_over", "_plain", "_plain_match", "_talk")

    def __init__(
        self, meter: Meter, match: Match | None, plain: Match | None, scope: Scope, path: str
    ) -> None:
        self._meter = meter
        self._match = match
        self._talk: Overheard | None = None
        if match is not None:
            self._talk = Overheard(
                match, scope, path, started_at_s=time.time(), providers=meter.providers
            )
        self._plain_match = plain
        self._plain = None if plain is None else ExchangeWatch(meter, plain, scope, path)
        self._over = False

    @property
    def include_usage(self) -> bool:
        """See Watch."""
        return False

    @property
    def metered(self) -> bool:
        """See Watch."""
        return self._match is not None or self._plain is not None

    @property
    def metrics(self) -> Sequence[str]:
        """See Watch."""
        told = () if self._match is None else _metrics(self._match)
        return told if self._plain is None else (*told, *self._plain.metrics)

    def tap(self, fields: Headers) -> Tap | None:
        """What listens to the WebSocket that was accepted with these fields."""
        self._over, self._plain = True, None
        if self._talk is None:
            return None
        meter = self._meter
        return Tap(self._talk, self._record, pace=meter.pace, fields=fields, limits=meter.limits)

    def received(self, part: bytes, *, more: bool) -> None:
        """See Watch; a handshake has no body."""
        if self._plain is not None:
            self._plain.received(part, more=more)

    def answered(self, status: int, fields: Headers) -> None:
        """See Watch; it was refused, or served as a GET."""
        if self._talk is not None:
            start = {"type": "websocket.http.response.start", "status": status, "headers": fields}
            self._talk.sends(start)
        if self._plain is not None:
            self._plain.answered(status, fields)

    def carried(self, part: bytes, *, more: bool) -> None:
        """See Watch."""
        if self._talk is not None:
            body = {"type": "websocket.http.response.body", "body": part, "more_body": more}
            self._talk.sends(body)
        if self._plain is not None:
            self._plain.carried(part, more=more)

    def ended(self) -> Hold | None:
        """See Watch."""
        if self._over:
            return None
        self._leave_to_plain()
        hold = None if self._plain is None else self._plain.ended()
        return self._record(last=True) or hold  # what is recorded later is on disk later

    def broken_off(self, reason: str) -> None:
        """See Watch."""
        if self._over:
            return
        self._leave_to_plain()
        if self._plain is not None:
            self._plain.broken_off(reason)
        if self._talk is not None:
            self._talk.aborted = reason
        self._record(last=True)

    def _leave_to_plain(self) -> None:
        """It was not accepted: what a policy of GET counts is counted by that one alone."""
        self._over = True
        if self._match is not None and self._plain_match is not None:
            policies = self._meter.feed.current
            self._match = policies.without(self._match, self._plain_match.claims)

    def _record(self, *, last: bool) -> Hold | None:
        match, talk = self._match, self._talk
        if match is None or talk is None:
            return None
        hold = self._meter.settlement.settle_part(match, talk, last=last)
        talk.messages_since = 0
        return cast("Hold | None", hold)


class ObservationWatch:
    """A request that no policy applies to, and that discovery looks at."""

    __slots__ = ("_observation",)

    def __init__(self, observation: Observation) -> None:
        self._observation: Observation | None = observation

    @property
    def include_usage(self) -> bool:
        """See Watch."""
        return False

    @property
    def metered(self) -> bool:
        """See Watch."""
        return False

    @property
    def metrics(self) -> Sequence[str]:
        """See Watch."""
        return ()

    def received(self, part: bytes, *, more: bool) -> None:
        """See Watch."""
        self._note({"type": _REQUEST, "body": part, "more_body": more})

    def answered(self, status: int, fields: Headers) -> None:
        """See Watch."""
        self._note({"type": _START, "status": status, "headers": fields})

    def carried(self, part: bytes, *, more: bool) -> None:
        """See Watch."""
        self._note({"type": _BODY, "body": part, "more_body": more})

    def ended(self) -> Hold | None:
        """See Watch."""
        observation, self._observation = self._observation, None
        if observation is not None:
            observation.finish()
        return None

    def broken_off(self, reason: str) -> None:  # noqa: ARG002 - nothing is recorded of it
        """See Watch."""
        self.ended()

    def _note(self, message: dict[str, object]) -> None:
        if self._observation is not None:
            self._observation.note(message)


def _metrics(match: Match) -> Sequence[str]:
    return tuple(compiled.policy.metric for compiled in match.policies)
