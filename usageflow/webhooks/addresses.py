"""Where a webhook may go: what its URL says, and which addresses are public. Pure.

A server that posts to any URL it is given can be made to talk to what only it can reach: its own
machine, its network, the metadata service of its cloud. So a name is resolved once, each of its
addresses is judged here, and `posting` connects to one of just these. Nothing is resolved here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

URL_CHARS_MAX: Final = 2_048
"""Longer ones are not accepted by many servers either."""
PORTS: Final = {"http": 80, "https": 443}

_VISIBLE: Final = re.compile(r"[!-~]+")
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""What is given out; everything else is reserved, local, or embeds an address of version 4."""
_NOT_GLOBAL: Final = (IPv6Network("2001::/23"), IPv6Network("3fff::/20"))
"""Protocol assignments, Teredo among them, and documentation, which older Pythons do not know."""
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: Final = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("168.63.129.16/32"),
)
"""Protocol assignments, which older Pythons know in part (Oracle's cloud has its metadata there);
relays of 6to4, withdrawn; what a machine in Azure asks about itself."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in the parts a request is made of. `authority` is what the Host header says."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str


def target(url: str) -> Target | str:
    """The parts of `url`, or why no webhook can go there."""
    if len(url) > URL_CHARS_MAX:
        return f"is longer than {URL_CHARS_MAX} characters"
    if not _VISIBLE.fullmatch(url):
        return "must be ASCII without spaces; write the name in punycode and the rest encoded"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if (problem := _problem(parts)) is not None:
        return problem
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if port is None:
        port = PORTS[parts.scheme]
    return Target(parts.scheme, parts.hostname or "", port, parts.netloc, path)


def _problem(parts: SplitResult) -> str | None:
    if parts.scheme not in PORTS:
        return "must begin with https:// or http://"
    if "@" in parts.netloc or "\\" in parts.netloc:
        return "must not contain a user or password; the signature says who calls"
    if not parts.hostname:
        return "names no host"
    if parts.port == 0:
        return "names port 0"
    return "must not have a fragment (#): it would not be sent" if parts.fragment else None


def all_public(addresses: Iterable[str]) -> bool:
    """Whether there are addresses, and all of them are reachable by everyone."""
    judged = [is_public(ip_address(one)) for one in addresses]
    return bool(judged) and all(judged)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is of the public internet.

    One of version 6 that embeds one of version 4 (mapped, 6to4, NAT64) is what that one is.
    """
    if isinstance(address, IPv4Address):
        special = address.is_multicast or any(address in one for one in _NOT_PUBLIC)
        return address.is_global and not special
    embedded = address.ipv4_mapped or address.sixtofour
    if embedded is None and address in _NAT64:
        embedded = IPv4Address(int(address) & 0xFFFF_FFFF)
    if embedded is not None:
        return is_public(embedded)
    given_out = address in _GLOBAL_UNICAST and not any(address in one for one in _NOT_GLOBAL)
    return given_out and address.is_global
