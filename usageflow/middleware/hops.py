"""Metering once where a request passes several edges: what others have claimed is left out here.

Edges in one process tell each other in the scope, which no client can write to; edges in different
processes by the signed header of `policies.hops`. What cannot be verified is not believed: the
request is then metered here too, which is told in the log and counted. Sends nothing.
"""

import logging
import time
from typing import Final
from urllib.parse import quote

from usageflow._types import Scope
from usageflow.config import Settings
from usageflow.middleware.conversation import METHOD as WEBSOCKET
from usageflow.policies import Match, PolicySet
from usageflow.policies.hops import HOP_HEADER, claimed, holding, hop_header, hop_key
from usageflow.policies.reason import Reason

log = logging.getLogger("usageflow.middleware")

CLAIMED: Final = "usageflow.claimed"
"""Where a scope has the path of a request and what edges record of it."""
SEVERAL: Final = Reason("there are several")
NO_KEY: Final = Reason("there is no key here to verify it with: set USAGEFLOW_HOP_KEY")
UNTRUSTED: Final = Reason("the peer that sent it is none of USAGEFLOW_TRUSTED_PROXIES")

_NOTHING: Final[frozenset[str]] = frozenset()
_PATH_CHARS: Final = "/:@!$&'()*+,;=-._~"
"""What stands for itself in a path (RFC 3986, section 3.3)."""


class Hops:
    """What the edges before this one claim, and what this one tells the next.

    `unverified` counts the requests with a header that was not believed.
    """

    def __init__(self, settings: Settings) -> None:
        self.unverified = 0
        self._key = hop_key(settings)
        self._told: set[Reason] = set()

    def unclaimed(
        self,
        policies: PolicySet,
        match: Match | None,
        method: str,
        scope: Scope,
        *,
        trusted: bool,
        first: bool = False,
    ) -> Match | None:
        """The part of `match` that no edge before this one records; noted as claimed here.

        A header that is believed is taken out of the scope: what the app does not know it cannot
        tell a client, who could send it again. `trusted`: the peer may send one; `first`: there is
        none.
        """
        claims = _NOTHING if first else self._received(method, scope, trusted=trusted)
        if claims and match is not None:
            match = policies.without(match, claims)
        if match is not None:
            claims = claims | match.claims if claims else match.claims
        if claims:
            scope[CLAIMED] = (scope["path"], claims)
        return match

    def header(self, method: str, scope: Scope) -> bytes | None:
        """The value of HOP_HEADER for all that is claimed; None if nothing is, or without a key."""
        if self._key is None or CLAIMED not in scope:
            return None
        _, claims = scope[CLAIMED]
        return hop_header(
            self._key,
            method=_sent(method),
            target=_target(scope),
            claims=claims,
            now_s=int(time.time()),
        )

    def _received(self, method: str, scope: Scope, *, trusted: bool) -> frozenset[str]:
        if CLAIMED in scope:
            return _noted(scope)
        value: bytes | None = None
        for name, sent in scope["headers"]:
            if name == HOP_HEADER:
                if value is not None:
                    return self._disbelieve(SEVERAL)
                value = sent
        if value is None:
            return _NOTHING
        found = self._verified(value, method, scope)
        if isinstance(found, Reason):
            return self._disbelieve(found)
        if not trusted:
            return self._disbelieve(UNTRUSTED)
        scope["headers"] = [field for field in scope["headers"] if field[0] != HOP_HEADER]
        return holding(found, websocket=method == WEBSOCKET)

    def _verified(self, value: bytes, method: str, scope: Scope) -> frozenset[str] | Reason:
        if self._key is None:
            return NO_KEY
        method, target, now_s = _sent(method), _target(scope), int(time.time())
        found = claimed(self._key, value, method=method, target=target, now_s=now_s)
        root = scope.get("root_path", "").encode(errors="replace")
        if isinstance(found, Reason) and root and target.startswith(root):
            # Servers put the root path that they are told of before the target that they were sent.
            target = target[len(root) :]
            return claimed(self._key, value, method=method, target=target, now_s=now_s)
        return found

    def _disbelieve(self, reason: Reason) -> frozenset[str]:
        self.unverified += 1
        if reason not in self._told:
            self._told.add(reason)
            log.warning(
                "a request came with a usageflow-hop header that is not believed, so that it is "
                "metered here too: %s",
                reason.text,
            )
        return _NOTHING


def _noted(scope: Scope) -> frozenset[str]:
    """What was noted, if it is of this request: mounting an app shortens its path at most.

    An app may call itself with a copy of a scope; what it asks for there is metered.
    """
    path: str
    claims: frozenset[str]
    path, claims = scope[CLAIMED]
    return claims if scope["path"] == "/" or path.endswith(scope["path"]) else _NOTHING


def _sent(method: str) -> str:
    """The method as it is sent: the handshake of a WebSocket is a GET (RFC 6455, section 4.1)."""
    return "GET" if method == WEBSOCKET else method


def _target(scope: Scope) -> bytes:
    """Path and query as they were sent; ASGI drops the question mark of an empty query."""
    path = scope.get("raw_path") or quote(scope["path"], _PATH_CHARS, errors="replace").encode()
    query = scope.get("query_string")
    target: bytes = path + b"?" + query if query else path
    return target
