"""Where the proxy listens: what is bound, what is told, and how arrivals end."""

import os
import resource
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.proxy.listening import (
    FILES_RESERVED,
    Address,
    Listening,
    admit,
    allow_files,
    announcement,
    files_needed,
    turn_away,
)

PATIENCE_S = 5.0
SOON_S = 0.3
"""A handshake on loopback takes a thousandth of it; a SYN that was dropped is repeated in 1 s."""


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:0", Address("::1", 0)),
        ("localhost:80", Address("localhost", 80)),
        ("unix:/run/api.sock", Address(path=Path("/run/api.sock"))),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, address: Address) -> None:
    """Three forms; each is shown as it was given."""
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["unix:", "unix:api.sock", "", "8080", "unix"])
def test_what_is_no_address_is_quoted(text: str) -> None:
    """With an example of what would be one."""
    with pytest.raises(ConfigurationError, match=f"{text!r} must look like "):
        Address.parse(text)


def test_a_taken_port_is_named() -> None:
    """Also to workers, whose sockets would be let in by a listener of the same user."""
    with Listening.bind("127.0.0.1:0", 2) as taken:
        taken.sockets[0].listen()
        for workers in (1, 2):
            with pytest.raises(ConfigurationError, match=f"port {taken.address.port}: .*--listen"):
                Listening.bind(str(taken.address), workers)


def test_each_worker_has_a_queue_of_its_own() -> None:
    """Connections are spread over the sockets, all of the same port, by the kernel."""
    with Listening.bind("127.0.0.1:0", 2) as listening:
        for listener in listening.sockets:
            listener.listen()
            listener.setblocking(False)
        clients = [dial(listening) for _ in range(64)]
        taken = [len(list(accepted(listener))) for listener in listening.sockets]
        for client in clients:
            client.close()
    assert sum(taken) == len(clients)
    assert min(taken) > 0


def test_a_unix_socket_is_for_owner_and_group_and_removed(tmp_path: Path) -> None:
    """All workers share it, it may not be opened by others, and nothing stays behind."""
    path = tmp_path / "api.sock"
    with Listening.bind(f"unix:{path}", 2) as listening:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        first, second = listening.sockets
        assert first.fileno() == second.fileno()
    assert not path.exists()
    listening.close()


def test_the_mask_of_the_process_stays(tmp_path: Path) -> None:
    """Files made later have the permissions that the operator set, also after a failure."""
    before = os.umask(0o027)
    try:
        Listening.bind(f"unix:{tmp_path}/api.sock").close()
        with pytest.raises(ConfigurationError):
            Listening.bind(f"unix:{tmp_path}/none/api.sock")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_only_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """One that nobody listens on any more; neither a living one nor another kind of file."""
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with Listening.bind(f"unix:{path}") as living:
        living.sockets[0].listen()
        with pytest.raises(ConfigurationError, match=f"{path}: Address already in use"):
            Listening.bind(f"unix:{path}")
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match=f"{path}: it exists and is no socket;"):
        Listening.bind(f"unix:{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["none/api.sock", "a" * 200])
def test_a_path_that_cannot_be_is_named(tmp_path: Path, name: str) -> None:
    """No such directory; longer than the kernel takes."""
    with pytest.raises(ConfigurationError, match=f"cannot listen on {tmp_path}/{name}: "):
        Listening.bind(f"unix:{tmp_path}/{name}")


def test_the_socket_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    """Who stops late does not remove what another process has put in the same place."""
    path = tmp_path / "api.sock"
    with Listening.bind(f"unix:{path}"):
        path.unlink()
        successor = Listening.bind(f"unix:{path}")
    assert path.exists()
    successor.close()


def dial(listening: Listening) -> socket.socket:
    """A client's connection, if it is accepted soon."""
    return socket.create_connection((listening.address.host, listening.address.port), SOON_S)


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """What waits in the queue of a listener."""
    while True:
        try:
            with listener.accept()[0] as connection:
                yield connection
        except BlockingIOError:
            return


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of its kernel")
def test_who_comes_late_is_not_begun_with() -> None:
    """After `turn_away` what had begun is served, new connections wait; `admit` lets them in."""
    with Listening.bind("127.0.0.1:0") as listening:
        (listener,) = listening.sockets
        listener.listen()
        listener.settimeout(PATIENCE_S)
        with dial(listening) as early:
            turn_away(listener)
            with pytest.raises(TimeoutError):
                dial(listening)
            with listener.accept()[0] as connection:
                early.sendall(b"request")
                assert connection.recv(7) == b"request"
                connection.sendall(b"answer")
                assert early.recv(6) == b"answer"
        admit(listener)
        dial(listening).close()
        admit(listener)


def test_arrivals_at_a_unix_socket_end_with_its_file(tmp_path: Path) -> None:
    """Who had come is in the queue; who comes now finds nothing there."""
    path = tmp_path / "api.sock"
    with Listening.bind(f"unix:{path}") as listening, socket.socket(socket.AF_UNIX) as client:
        listening.sockets[0].listen()
        client.connect(str(path))
        listening.withdraw()
        turn_away(listening.sockets[0])
        listening.sockets[0].accept()[0].close()
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(FileNotFoundError):
            late.connect(str(path))


def test_files_are_counted_by_the_limits() -> None:
    """Each client's connection, each upstream's, and what there is beside them."""
    settings = Settings(
        upstream="http://a,http://b", connections_max=1000, upstream_connections_max=10
    )
    assert files_needed(settings) == 1000 + 2 * 10 + FILES_RESERVED


@pytest.fixture
def limit() -> Iterator[tuple[int, int]]:
    """The limits of open files, which are put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised(
    limit: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """As far as the hard limit allows, never lowered; what is missing is told."""
    _, hard = limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    allow_files(300)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, hard)
    allow_files(256)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, hard)
    assert caplog.messages == []
    if hard != resource.RLIM_INFINITY:
        allow_files(hard + 1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert f"at most {hard} files" in caplog.text


def test_one_line_says_what_is_served() -> None:
    """What listens, with TLS or without, which upstreams, whose policies, and how many workers."""
    settings = Settings(upstream="http://a:1,http://b:2", policies="p.toml", workers=2)
    assert announcement(settings, Address("::1", 80)) == (
        "serving http://[::1]:80 -> http://a:1,http://b:2; policies of p.toml; 2 workers"
    )
    settings = Settings(upstream="http://a:1", server="http://s", api_key="k", tls_cert="c.pem")
    assert announcement(settings, Address("h", 443)) == (
        "serving https://h:443 -> http://a:1; policies of http://s; 1 worker"
    )
    assert announcement(settings, Address(path=Path("/a"))).startswith("serving unix:/a (https)")
