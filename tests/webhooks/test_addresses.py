"""Where a webhook may go: no spelling of a URL or an address leads into a private network."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.webhooks.addresses import URL_CHARS_MAX, Target, all_public, is_public, target

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1"),
    *("127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1"),
    *("192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("168.63.129.16", "192.0.0.8", "192.0.0.192", "64:ff9b::c000:c0"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1"),
    *("64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1"),
    *("3fff::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%1", "fec0::1"),
    *("ff02::1", "4000::1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1"),
    *("2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"),
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public(address: str) -> None:
    """Every kind of address that only some can reach, embedded ones too."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public(address: str) -> None:
    """Neighbours of reserved networks, and public addresses that are embedded."""
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_what_it_is_by_itself(address: IPv4Address) -> None:
    """As a mapped one, behind 6to4 or behind NAT64."""
    number = int(address)
    mapped = IPv6Address(0xFFFF_0000_0000 | number)
    sixtofour = IPv6Address((0x2002 << 112) | (number << 80))
    nat64 = IPv6Address((0x64_FF9B << 96) | number)
    assert {is_public(one) for one in (mapped, sixtofour, nat64)} == {is_public(address)}


@given(st.ip_addresses())
def test_nothing_private_is_public(address: IPv4Address | IPv6Address) -> None:
    """Whatever Python calls private, local or multicast, unless an embedded one decides."""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.sixtofour):
        return
    if is_public(address):
        assert not address.is_private
        assert not address.is_loopback
        assert not address.is_link_local
        assert not address.is_multicast


def test_one_private_address_is_enough() -> None:
    """A name with a public and a private address is refused, and one without any."""
    assert all_public(["8.8.8.8", "2606:4700:4700::1111"])
    assert not all_public(["8.8.8.8", "10.0.0.1"])
    assert not all_public([])


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://a.example", Target("https", "a.example", 443, "a.example", "/")),
        ("HTTP://A.example:81/x?y=z", Target("http", "a.example", 81, "A.example:81", "/x?y=z")),
        ("https://a.example?q", Target("https", "a.example", 443, "a.example", "/?q")),
        ("http://[2606::1]:8/", Target("http", "2606::1", 8, "[2606::1]:8", "/")),
    ],
)
def test_a_url_in_its_parts(url: str, parts: Target) -> None:
    """Scheme and host without case, the default port of the scheme, and a path."""
    assert target(url) == parts


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://a.example/", "must begin with https:// or http://"),
        ("//a.example/", "must begin with https:// or http://"),
        ("gopher:x", "must begin with https:// or http://"),
        ("https://", "names no host"),
        ("https:///path", "names no host"),
        ("https://user@a.example/", "must not contain a user or password"),
        ("https://user:pw@a.example/", "must not contain a user or password"),
        ("https://a.example\\@b.example/", "must not contain a user or password"),
        ("https://a.example\\.b/", "must not contain a user or password"),
        ("https://a.example/#top", "must not have a fragment"),
        ("https://a.example:0/", "names port 0"),
        ("https://a.example:99999/", "is no URL: Port out of range"),
        ("https://a.example:x/", "is no URL: Port could not be cast"),
        ("https://[::1/", "is no URL: Invalid IPv6 URL"),
        ("https://a.example/ x", "must be ASCII without spaces"),
        ("https://a.exa\nmple/", "must be ASCII without spaces"),
        ("https://bücher.example/", "must be ASCII without spaces"),
        ("", "must be ASCII without spaces"),
        ("https://a.example/" + "x" * URL_CHARS_MAX, "is longer than 2048 characters"),
    ],
    ids=range(19),
)
def test_a_url_that_is_none(url: str, problem: str) -> None:
    """The reason reads on after `the URL`."""
    found = target(url)
    assert isinstance(found, str)
    assert found.startswith(problem)


@given(st.text(max_size=60).map(lambda text: f"https://{text}"))
def test_no_text_breaks_it(url: str) -> None:
    """Any text is a target or a reason; a target has a host and no white space anywhere."""
    found = target(url)
    if isinstance(found, Target):
        assert found.host
        assert 0 < found.port < 65_536
        assert found.path.startswith("/")
        assert not set(found.authority + found.path) & set(" \r\n\t@\\")
