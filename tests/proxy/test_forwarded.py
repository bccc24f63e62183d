"""Who called: what is believed of it, and what the upstream is told."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.errors import ConfigurationError
from usageflow.proxy.forwarded import (
    _VERDICTS_MAX,
    UNIX_PEER,
    TrustedPeers,
    client_address,
    forwarded_fields,
)
from usageflow.proxy.heads import Fields

PEER = "192.0.2.7"
NAMES = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded")
Inbound = dict[bytes, list[bytes]]

inbounds = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.binary(max_size=40), min_size=1, max_size=3)
)
peers = st.one_of(st.ip_addresses().map(str), st.just(UNIX_PEER), st.text(max_size=20))


def told(
    inbound: Inbound, *, peer: str = PEER, host: bytes = b"api.example.com", trusted: bool = True
) -> Fields:
    """The fields for a request over plain HTTP."""
    return forwarded_fields(inbound, peer=peer, scheme=b"http", host=host, trusted=trusted)


@pytest.mark.parametrize(
    ("address", "verdict"),
    [
        ("10.0.0.1", True),
        ("10.255.255.255", True),
        ("11.0.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::7", True),
        ("2001:DB8:0::7", True),
        ("2001:db9::7", False),
        ("::ffff:10.0.0.1", True),  # IPv4 as an IPv6 socket shows it
        ("::ffff:11.0.0.1", False),
        ("fe80::1%eth0", True),
        ("unix", True),
        ("", False),
        ("10.0.0.1:80", False),
        ("localhost", False),
        ("010.0.0.1", False),
    ],
)
def test_trusted_peers(address: str, *, verdict: bool) -> None:
    """Addresses and networks of both kinds, and unix sockets; the second answer is the first."""
    peers = TrustedPeers.parse(" 10.0.0.0/8, 192.0.2.7 ,2001:db8::/32,fe80::/10,unix")
    assert [peers.trusts(address), peers.trusts(address)] == [verdict, verdict]


@pytest.mark.parametrize("text", [None, ""])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "unix", ""])
def test_nobody_is_trusted_by_default(text: str | None, address: str) -> None:
    """Not even this machine itself."""
    assert not TrustedPeers.parse(text).trusts(address)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("10.0.0.300", "10.0.0.300"),
        ("10.0.0.1, proxy.internal", "proxy.internal"),
        ("10.0.0.1/8", "10.0.0.1/8"),
        ("10.0.0.0/33", "10.0.0.0/33"),
        ("10.0.0.1,,10.0.0.2", "''"),
        ("*", "*"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_what_is_no_peer_is_named(text: str, bad: str) -> None:
    """The operator is told which item is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        TrustedPeers.parse(text)
    assert bad in str(caught.value)
    assert "trusted_proxies" in str(caught.value)


def test_verdicts_are_not_kept_without_end() -> None:
    """Any number of peers may come; the verdicts stay right."""
    peers = TrustedPeers.parse("10.0.0.0/8")
    for number in range(_VERDICTS_MAX + 10):
        assert not peers.trusts(f"192.168.{number // 256}.{number % 256}")
    assert len(peers._verdicts) <= _VERDICTS_MAX
    assert peers.trusts("10.1.2.3")


@given(inbounds)
def test_unknown_peers_are_not_believed(inbound: Inbound) -> None:
    """Whatever they say of hops before them, the upstream hears of themselves alone."""
    assert told(inbound, trusted=False) == [
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"api.example.com"),
    ]


def test_trusted_peers_are_continued() -> None:
    """Their list of hops grows by themselves; scheme and host are theirs."""
    inbound = {
        b"x-forwarded-for": [b"203.0.113.5", b"203.0.113.6, 10.0.0.1"],
        b"x-forwarded-proto": [b"https"],
        b"x-forwarded-host": [b"shop.example.com"],
    }
    assert told(inbound) == [
        (b"X-Forwarded-For", b"203.0.113.5, 203.0.113.6, 10.0.0.1, 192.0.2.7"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"shop.example.com"),
    ]


def test_trusted_peers_that_say_nothing() -> None:
    """Then the hops begin with them, and an empty list is none."""
    beginning = told({}, trusted=False)
    assert told({}) == beginning
    assert told({b"x-forwarded-for": [b""]}) == beginning


@pytest.mark.parametrize(
    ("peer", "host", "element"),
    [
        (PEER, b"a.example", b"for=192.0.2.7;proto=http;host=a.example"),
        (PEER, b"a.example:81", b'for=192.0.2.7;proto=http;host="a.example:81"'),
        (PEER, b"", b"for=192.0.2.7;proto=http"),
        ("2001:db8::7", b"a", b'for="[2001:db8::7]";proto=http;host=a'),
        (UNIX_PEER, b"a", b"for=unknown;proto=http;host=a"),
    ],
)
def test_forwarded_is_continued(peer: str, host: bytes, element: bytes) -> None:
    """Only if it is there, and with the quotes of RFC 7239."""
    inbound = {b"forwarded": [b"for=203.0.113.5;proto=https", b'for="[::1]"']}
    expected = b'for=203.0.113.5;proto=https, for="[::1]", ' + element
    assert dict(told(inbound, peer=peer, host=host))[b"Forwarded"] == expected
    assert b"Forwarded" not in dict(told({}, peer=peer, host=host))


def test_peers_without_an_address() -> None:
    """A unix socket has none, and an HTTP/1.0 request may have no Host."""
    assert told({}, peer=UNIX_PEER, host=b"") == [
        (b"X-Forwarded-For", b"unknown"),
        (b"X-Forwarded-Proto", b"http"),
    ]


@given(inbound=inbounds, peer=peers, trusted=st.booleans())
def test_no_bytes_raise(inbound: Inbound, peer: str, *, trusted: bool) -> None:
    """Whatever a trusted peer sends, the fields of each name are made, and make sense."""
    names = [name for name, _ in told(inbound, peer=peer, trusted=trusted)]
    assert names.count(b"X-Forwarded-For") == 1
    assert {name.lower() for name in names} <= set(NAMES)
    everybody = TrustedPeers.parse("0.0.0.0/0, ::/0, unix")
    client = client_address(inbound.get(b"x-forwarded-for", []), peer, everybody)
    assert client == peer or client == str(ip_address(client))


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ([], "10.0.0.9"),
        ([b""], "10.0.0.9"),
        ([b"203.0.113.5"], "203.0.113.5"),
        ([b"198.51.100.1, 203.0.113.5"], "203.0.113.5"),  # the first is the client's own claim
        ([b"198.51.100.1, 203.0.113.5,10.0.0.1 "], "203.0.113.5"),
        ([b"203.0.113.5", b"10.0.0.1"], "203.0.113.5"),
        ([b"10.0.0.2, 10.0.0.1"], "10.0.0.2"),  # all are trusted: the farthest
        ([b"203.0.113.5:4711"], "203.0.113.5"),
        ([b"[2001:db8::7]:4711"], "2001:db8::7"),
        ([b"[2001:db8::7]"], "2001:db8::7"),
        ([b"2001:DB8::7"], "2001:db8::7"),
        ([b"::ffff:203.0.113.5"], "203.0.113.5"),
        ([b"203.0.113.5, unknown"], "10.0.0.9"),
        ([b"203.0.113.5, <script>, 10.0.0.1"], "10.0.0.1"),
        ([b"203.0.113.5, \xff\r\n"], "10.0.0.9"),
        ([b"203.0.113.5,"], "10.0.0.9"),
    ],
)
def test_client_address(values: list[bytes], address: str) -> None:
    """The rightmost address that is not trusted; nothing behind it or behind garbage counts."""
    assert client_address(values, "10.0.0.9", TrustedPeers.parse("10.0.0.0/8")) == address


def test_client_address_of_unknown_peers() -> None:
    """It is the peer's own, whatever it says; and a trusted unix socket's is what it says."""
    says = [b"203.0.113.5"]
    assert client_address(says, PEER, TrustedPeers.parse("10.0.0.0/8")) == PEER
    assert client_address(says, UNIX_PEER, TrustedPeers.parse("unix")) == "203.0.113.5"
    assert client_address(says, UNIX_PEER, TrustedPeers.parse(None)) == UNIX_PEER
