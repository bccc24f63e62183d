"""Where the proxy listens: the address, its sockets, and how many open files that may take.

It binds and gives up; accepting and serving are `serve`'s.
"""

import ctypes
import errno
import logging
import os
import resource
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from usageflow.addresses import bound_socket, host_and_port
from usageflow.config import Settings
from usageflow.errors import ConfigurationError

BACKLOG: Final = 2048
"""Connections that may wait to be accepted: what arrives in a busy moment. The kernel lowers it to
its own net.core.somaxconn (4096 since Linux 5.4)."""
FILES_RESERVED: Final = 128
"""Open files beside connections: the spool, logs, the server, health checks, DNS."""
_SOCKET_MODE: Final = 0o660
"""Of a unix socket: the owner and a group, such as that of the web server in front."""
_OPTION: Final = "--listen"

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_INSTRUCTION: Final = struct.Struct("HBBI")
_DROP_SYN: Final = b"".join(
    _INSTRUCTION.pack(*parts)
    for parts in (
        (0x30, 0, 0, 13),  # load byte 13 of the TCP header: the flags
        (0x45, 0, 1, 0x02),  # is SYN among them?
        (0x06, 0, 0, 0),  # yes: drop it
        (0x06, 0, 0, 0xFFFF_FFFF),  # no: let it pass
    )
)
"""A filter in the kernel's classic BPF (linux/filter.h, asm-generic/socket.h)."""

logger = logging.getLogger("usageflow.proxy")


class Address(NamedTuple):
    """A TCP address; or a unix socket, if there is a path."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read HOST:PORT, [::1]:PORT or unix:/path/of.sock. Raises ConfigurationError."""
        scheme, _, path = text.partition(":")
        if scheme != "unix":
            return cls(*host_and_port(text))
        if not path.startswith("/"):
            raise ConfigurationError(f"listen address {text!r} must look like unix:/run/api.sock")
        return cls(path=Path(path))

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listening:
    """The sockets of one address, bound and not yet listening, one for each worker.

    TCP: each worker has a queue of its own (SO_REUSEPORT). Unix: all share one socket. While this
    object is open, a queue outlives the worker that accepts from it.
    """

    def __init__(self, address: Address, sockets: list[socket.socket]) -> None:
        self.address = address
        self.sockets = sockets
        self._inode = None if address.path is None else address.path.stat().st_ino

    @classmethod
    def bind(cls, text: str, workers: int = 1) -> Self:
        """Bind the address of the setting `listen`. Port 0 is a free one.

        Raises ConfigurationError for no address, or one that is taken.
        """
        address = Address.parse(text)
        if address.path is not None:
            return cls(address, [_bound_path(address.path)] * workers)
        # Not shared: this one fails if anybody listens, even if they would let us join them.
        with bound_socket(address.host, address.port, option=_OPTION) as first:
            address = address._replace(port=first.getsockname()[1])
        sockets = [
            bound_socket(address.host, address.port, option=_OPTION, shared=workers > 1)
            for _ in range(workers)
        ]
        return cls(address, sockets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the sockets, and remove the file of a unix socket. May be called again."""
        self.withdraw()
        for listener in self.sockets:
            listener.close()

    def withdraw(self) -> None:
        """Remove the file of a unix socket, unless somebody else has put theirs in its place."""
        path = self.address.path
        with suppress(FileNotFoundError):
            if path is not None and path.stat().st_ino == self._inode:
                path.unlink()


def admit(listener: socket.socket) -> None:
    """Undo `turn_away`, which a former worker may have done to this socket."""
    with suppress(OSError):  # there was no filter; or this is no Linux
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def turn_away(listener: socket.socket) -> None:
    """Let no new connection begin, while those whose handshake has begun can still be accepted.

    Closing a listening socket resets what waits in its queue. So beginnings are dropped first:
    the queue empties, and a client that comes now tries again in a second, by when the socket is
    closed or somebody new listens. Where the kernel cannot do it, nothing happens.
    """
    if listener.family == socket.AF_UNIX:
        return  # its file is gone, so nobody can begin
    program = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    count = len(_DROP_SYN) // _INSTRUCTION.size
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HP", count, ctypes.addressof(program)),
        )


def _bound_path(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777 & ~_SOCKET_MODE)  # from its first moment, not by a chmod afterwards
    try:
        _remove_stale(path)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {path}: {error.strerror or error}; choose another with {_OPTION}"
        ) from None
    finally:
        os.umask(before)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that was killed: one that nobody listens on."""
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "it exists and is no socket")
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def files_needed(settings: Settings) -> int:
    """The most files that one worker may have open."""
    upstreams = len((settings.upstream or "").split(","))
    return settings.connections_max + upstreams * settings.upstream_connections_max + FILES_RESERVED


def allow_files(needed: int) -> None:
    """Raise the process's limit of open files to `needed`, and tell if it cannot be raised so far.

    Children inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        logger.warning(
            "at most %d files may be open, while the limits of connections add up to %d: raise "
            "the limit (ulimit -n, LimitNOFILE=) or lower USAGEFLOW_CONNECTIONS_MAX",
            allowed,
            needed,
        )


def announcement(settings: Settings, address: Address) -> str:
    """The line of the log that says what is served from now on."""
    scheme = "https" if settings.tls_cert else "http"
    where = f"{address} ({scheme})" if address.path is not None else f"{scheme}://{address}"
    workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    source = settings.policies or settings.server
    return f"serving {where} -> {settings.upstream}; policies of {source}; {workers}"
