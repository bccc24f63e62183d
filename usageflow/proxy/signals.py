"""What a process of the proxy does when it is signalled.

SIGTERM or SIGINT: stop gracefully, and the process ends with status 0. The same again: end at once,
by that signal. SIGHUP: reload.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Final

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


def _nothing() -> None:
    pass


def on_signals(
    *,
    stop: Callable[[], None],
    reload: Callable[[], None],
    at_once: Callable[[], None] = _nothing,
) -> None:
    """Handle the signals of this process in the running loop, from now until the process ends.

    `at_once` is called before a second signal ends the process.
    """
    loop = asyncio.get_running_loop()

    def end_at_once(number: signal.Signals) -> None:
        at_once()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def end() -> None:
        for number in _STOPPING:
            loop.add_signal_handler(number, end_at_once, number)
        stop()

    for number in _STOPPING:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, reload)
