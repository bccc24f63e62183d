"""Who called: the peers that are believed, and X-Forwarded-* and Forwarded (RFC 7239). Pure.

What an unknown peer says of the hops before it proves nothing, and is replaced. What a trusted one
says is kept and continued. Which fields of a request come here is decided in `headers`.
"""

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

from usageflow.errors import ConfigurationError
from usageflow.proxy.heads import TOKEN, Fields

UNIX_PEER: Final = "unix"
"""Stands for a peer that came through a unix socket, which has no address."""

_VERDICTS_MAX: Final = 4_096
"""Peers whose verdict is remembered, about 0.5 MB; a computed one takes some microseconds."""

_UNKNOWN: Final = b"unknown"
"""The word for a hop without an address (RFC 7239, section 6.2)."""

_WORD: Final = re.compile(TOKEN + rb"++")


class TrustedPeers:
    """Addresses and networks whose word about the hops before them is believed."""

    __slots__ = ("_networks", "_unix", "_verdicts")

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network], *, unix: bool) -> None:
        self._networks = tuple(networks)
        self._unix = unix
        self._verdicts: dict[str, bool] = {}

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The peers of a comma-separated list of addresses, networks and `unix`; None: nobody.

        Raises ConfigurationError naming the item that is none of these.
        """
        items = [item.strip() for item in text.split(",")] if text else []
        return cls([_network(item) for item in items if item != UNIX_PEER], unix=UNIX_PEER in items)

    def trusts(self, address: str) -> bool:
        """Whether this peer is believed; what is no address is not."""
        verdict = self._verdicts.get(address)
        if verdict is None:
            verdict = self._judge(address)
            if len(self._verdicts) >= _VERDICTS_MAX:
                self._verdicts.clear()
            self._verdicts[address] = verdict
        return verdict

    def _judge(self, text: str) -> bool:
        if text == UNIX_PEER:
            return self._unix
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def forwarded_fields(
    inbound: Mapping[bytes, Sequence[bytes]],
    *,
    peer: str,
    scheme: bytes,
    host: bytes,
    trusted: bool,
) -> Fields:
    """The fields that tell the upstream who called, in place of all that came.

    `inbound` has the values that came, by name in lower case; `peer` is an address or UNIX_PEER;
    `host` is the request's Host, empty if it has none.
    """
    address = _UNKNOWN if peer == UNIX_PEER else peer.encode("ascii", "replace")
    if not trusted:
        inbound = {}
    fields = [(b"X-Forwarded-For", _continued(inbound.get(b"x-forwarded-for", ()), address))]
    fields += [
        (b"X-Forwarded-Proto", value) for value in inbound.get(b"x-forwarded-proto", (scheme,))
    ]
    fields += [
        (b"X-Forwarded-Host", value)
        for value in inbound.get(b"x-forwarded-host", (host,) if host else ())
    ]
    if b"forwarded" in inbound:
        element = _element(address, scheme, host)
        fields.append((b"Forwarded", _continued(inbound[b"forwarded"], element)))
    return fields


def client_address(forwarded_for: Sequence[bytes], peer: str, trusted: TrustedPeers) -> str:
    """The address nearest to us that is not of a trusted peer: the client's, as far as is known.

    `forwarded_for` has the values of X-Forwarded-For. The peer or the last trusted address stands
    for what is missing or is no address.
    """
    nearest = peer
    hops = b",".join(forwarded_for).decode("latin-1").split(",")
    while hops and trusted.trusts(nearest):
        address = _address(_without_port(hops.pop().strip(" \t")))
        if address is None:
            break
        nearest = str(address)
    return nearest


def _network(item: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(item)
    except ValueError as error:
        raise ConfigurationError(
            f"trusted_proxies: {error}; give addresses (10.0.0.7), networks (10.0.0.0/8) or unix"
        ) from None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An IPv4 address within IPv6 (`::ffff:10.0.0.7`) is given as what it is."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _without_port(hop: str) -> str:
    """Some proxies add the port: `192.0.2.7:4711`, `[2001:db8::7]:4711`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _continued(values: Sequence[bytes], last: bytes) -> bytes:
    return b", ".join([*filter(None, values), last])


def _element(address: bytes, scheme: bytes, host: bytes) -> bytes:
    node = b"[%b]" % address if b":" in address else address
    pairs = [b"for=" + _quoted(node), b"proto=" + scheme]
    if host:
        pairs.append(b"host=" + _quoted(host))
    return b";".join(pairs)


def _quoted(value: bytes) -> bytes:
    """Quotes where RFC 7239, section 4 wants them; a valid Host has nothing to be escaped."""
    return value if _WORD.fullmatch(value) else b'"%b"' % value
