"""Running the emulator on TCP: in the foreground for a person, in a thread for a test."""

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import uvicorn
from starlette.applications import Starlette

from usageflow.addresses import bound_socket
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.connections import ResettableProtocol
from usageflow.stripe.emulator.limits import Limits

KEEP_ALIVE_S: Final = 75
"""How long an idle connection stays open; longer than clients keep theirs, so they close first."""
START_TIMEOUT_S: Final = 10.0


def run(host: str, port: int, *, limits: bool = False) -> None:
    """Serve until SIGINT or SIGTERM, with Stripe's rate limits if they are wanted.

    Raises ConfigurationError if the address is taken.
    """
    listener = _listening(host, port)
    sys.stdout.write(f"Stripe emulator: {_url(listener)} (set USAGEFLOW_STRIPE_API_BASE to it)\n")
    sys.stdout.flush()
    app = create_emulator(limits=Limits(enforce=limits))
    # uvicorn stops, and then sends itself the signal again: it ends what it was asked to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        _server(app).run(sockets=[listener])


@contextmanager
def running(app: Starlette, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve `app` from a thread of this process and give its URL; port 0 takes a free one."""
    listener = _listening(host, port)
    server = _server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield _url(listener)
    finally:
        server.should_exit = True
        thread.join(START_TIMEOUT_S)
        listener.close()


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=ResettableProtocol,
        loop="uvloop",
        date_header=False,  # the emulator's clock says what time it is
        lifespan="off",
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def _listening(host: str, port: int) -> socket.socket:
    listener = bound_socket(host, port, option="--port")
    listener.listen()  # at once: a caller may connect as soon as it has the URL
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
