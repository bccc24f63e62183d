"""The addresses that commands listen on: HOST:PORT as a person writes it, and a socket bound there.

One place, so that all of them say the same when it cannot be. It listens to nothing.
"""

import socket
from typing import Final

from usageflow.errors import ConfigurationError

_PORT_MAX: Final = 65_535


def host_and_port(text: str) -> tuple[str, int]:
    """`127.0.0.1:8080` or `[::1]:8080` in its two parts. Raises ConfigurationError."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > _PORT_MAX:
        raise ConfigurationError(f"listen address {text!r} must look like 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def bound_socket(host: str, port: int, *, option: str, shared: bool = False) -> socket.socket:
    """A socket bound to the address; port 0 is a free one. A `shared` port may be bound again so.

    Raises ConfigurationError if the address is taken, or is not of this machine; its message
    advises to choose another with `option`.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # Without it a restart fails for a minute, while the kernel remembers old connections.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else f"ports end at {_PORT_MAX}"
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {reason}; choose another with {option}"
        ) from None
    return listener
