"""The hop header: an edge tells the next one which usage of a request it records itself. Pure.

Of two edges on a request's way, such as our proxy and the middleware in the app behind it, the
first one claims what it meters and the second leaves that out. A claim is believed only if it was
signed with the same key, for the same method and target, within the last minute. Knows no clock and
no list of headers; which edge believes whom is not decided here.
"""

import hmac
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from usageflow.config import Settings
from usageflow.policies.models import Policy
from usageflow.policies.reason import Reason

HOP_HEADER: Final = b"usageflow-hop"
HOP_HEADERS: Final = frozenset({HOP_HEADER, b"usageflow_hop"})
"""The names a proxy takes out of requests: CGI and WSGI read both as the same variable."""
SKEW_S_MAX: Final = 60
"""Most seconds between signing and verifying: what two clocks may differ by, and a queue between
the edges may take."""
VALUE_BYTES_MAX: Final = 4_096
"""Longest value that is verified: some sixty metrics with the longest of names."""

MALFORMED: Final = Reason("it is not what an edge of this version writes")
FORGED: Final = Reason(
    "it was signed with another key or for another request; edges behind one another need the same "
    "USAGEFLOW_HOP_KEY, and nothing between them may rewrite the method or the target"
)
UNTIMELY: Final = Reason(
    f"it is more than {SKEW_S_MAX} s old, or the clocks of the two edges differ that much"
)

_AS_GET: Final = "get:"
_VERSION: Final = b"1"
_PURPOSE: Final = b"usageflow-hop/1"
_LISTS_MAX: Final = 1_024
"""Lists of claims remembered in either form; there is one for each set of policies that met."""


def claim(policy: Policy) -> str:
    """What an edge claims by metering under this policy: its metric.

    A shadow policy bills nobody: it claims its metric from other shadow policies alone.
    """
    return policy.metric if policy.mode == "live" else f"{policy.mode}:{policy.metric}"


def unless_accepted(claims: Iterable[str]) -> frozenset[str]:
    """Claims on the handshake of a WebSocket that hold only if it stays the GET that it is."""
    return frozenset(_AS_GET + one for one in claims)


def holding(claims: frozenset[str], *, websocket: bool) -> frozenset[str]:
    """What is claimed of a request that turned out to be a WebSocket, or none."""
    if websocket:
        return frozenset(one for one in claims if not one.startswith(_AS_GET))
    return frozenset(one.removeprefix(_AS_GET) for one in claims)


def hop_key(settings: Settings) -> bytes | None:
    """The key of `hop_key`, or else of `api_key`; None without both: then nothing is claimed.

    Derived for this one purpose, so that no signature tells anything about the API key.
    """
    secret = settings.hop_key or settings.api_key
    if not secret:
        return None
    return hmac.digest(secret.encode(errors="surrogateescape"), _PURPOSE, "sha256")


def hop_header(
    key: bytes, *, method: str, target: bytes, claims: frozenset[str], now_s: int
) -> bytes:
    """The value of HOP_HEADER that claims these of a request, at this Unix time.

    `VERSION.TIME.CLAIMS.SIGNATURE`; the signature is HMAC-SHA256 in hex over the request and all
    that is before it.
    """
    signed = b"%b.%d.%b" % (_VERSION, now_s, _written(claims))
    return signed + b"." + _signature(key, method, target, signed)


def claimed(
    key: bytes, value: bytes, *, method: str, target: bytes, now_s: int
) -> frozenset[str] | Reason:
    """What this value of HOP_HEADER claims of the request, or why it is not believed.

    Never raises, whatever the value is. Only what a holder of the key signed is looked into.
    """
    if len(value) > VALUE_BYTES_MAX:
        return MALFORMED
    signed, _, signature = value.rpartition(b".")
    if not hmac.compare_digest(signature, _signature(key, method, target, signed)):
        return FORGED
    version, _, rest = signed.partition(b".")
    signed_s, _, written = rest.partition(b".")
    if version != _VERSION or not signed_s.isdigit():
        return MALFORMED
    return _read(written) if abs(now_s - int(signed_s)) <= SKEW_S_MAX else UNTIMELY


def _signature(key: bytes, method: str, target: bytes, signed: bytes) -> bytes:
    """The lengths come first, so that no two requests are signed as the same bytes."""
    verb = method.encode(errors="backslashreplace")
    message = b"%d %d %b%b%b" % (len(verb), len(target), verb, target, signed)
    return hmac.digest(key, message, "sha256").hex().encode()


@lru_cache(_LISTS_MAX)
def _written(claims: Iterable[str]) -> bytes:
    return ",".join(quote(one, safe="") for one in sorted(claims)).encode()


@lru_cache(_LISTS_MAX)
def _read(written: bytes) -> frozenset[str]:
    return frozenset(unquote(one) for one in written.decode("ascii", "replace").split(","))
