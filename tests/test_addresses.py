"""Addresses to listen on: how they are written, and what is said when one cannot be had."""

import socket

import pytest

from usageflow.addresses import bound_socket, host_and_port
from usageflow.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65_535)),
    ],
)
def test_an_address_has_two_parts(text: str, parts: tuple[str, int]) -> None:
    """IPv6 is written in brackets, as in a URL."""
    assert host_and_port(text) == parts


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "127.0.0.1:", "a:b", "a:-1", "a:²", "127.0.0.1:65536"]
)
def test_anything_else_is_refused(text: str) -> None:
    """The message quotes it and gives an example."""
    with pytest.raises(ConfigurationError, match=r"must look like 127\.0\.0\.1:8080") as refused:
        host_and_port(text)
    assert repr(text) in str(refused.value)


def test_a_taken_port_is_named_with_the_way_out() -> None:
    """The message names the port and the option that changes it."""
    with bound_socket("127.0.0.1", 0, option="--port") as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port}: .*another with --listen"):
            bound_socket("127.0.0.1", port, option="--listen")


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 99_999), ("host.invalid", 80), ("::1", -1)]
)
def test_what_is_no_address_is_named(host: str, port: int) -> None:
    """A port beyond the last one, a name that does not resolve."""
    with pytest.raises(ConfigurationError, match=f"cannot listen on {host} port {port}: "):
        bound_socket(host, port, option="--port")


def test_a_shared_port_is_bound_by_each_that_shares_it() -> None:
    """Both may listen; a socket that does not share may not join them."""
    with bound_socket("::1", 0, option="-", shared=True) as first:
        first.listen()
        port = first.getsockname()[1]
        assert first.family == socket.AF_INET6
        with bound_socket("::1", port, option="-", shared=True) as second:
            second.listen()
        with pytest.raises(ConfigurationError, match="in use"):
            bound_socket("::1", port, option="-")
