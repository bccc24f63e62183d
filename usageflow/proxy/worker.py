"""One of several workers: a process that `workers` has started, and that ends with it.

It is told everything through its standard input (see `channel`), never by arguments.
"""

import asyncio
import os
import socket
import sys
from typing import Final

import uvloop

from usageflow.errors import ConfigurationError
from usageflow.proxy.channel import Handover, News
from usageflow.proxy.figures_block import FiguresBlock
from usageflow.proxy.report import blank
from usageflow.proxy.serve import Serving
from usageflow.proxy.signals import on_signals

_WORDS_MAX: Final = 64
"""Words of the parent that are taken as one: one reload after them serves them all."""


def work() -> None:
    """Serve until the parent says so or is gone, or a signal comes; then drain and return.

    What cannot be served is told to the parent, and the process ends with status 1. So it does if
    events were lost at the end, which its log tells.
    """
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as channel:
        try:
            lost = uvloop.run(_work(channel, _handed_over(channel)))
        except ConfigurationError as error:
            channel.setblocking(True)
            channel.sendall(News(problem=str(error)).line())
            sys.exit(1)
    if lost:
        sys.exit(1)


def _handed_over(channel: socket.socket) -> Handover:
    with channel.makefile("rb", buffering=0) as lines:  # takes no byte beyond the line
        return Handover.read(lines.readline())


async def _work(channel: socket.socket, handover: Handover) -> int:
    settings = handover.settings
    block = FiguresBlock(blank(settings), settings.workers, handover.figures)
    listener = socket.socket(fileno=handover.listener)
    serving = Serving(settings, listener, block.slot(handover.number))
    loop = asyncio.get_running_loop()

    def listen_to_parent() -> None:
        try:
            words = channel.recv(_WORDS_MAX)
        except ConnectionError:
            words = b""
        if words:
            serving.reload()
        else:
            loop.remove_reader(channel)
            serving.stop()

    channel.setblocking(False)
    loop.add_reader(channel, listen_to_parent)
    on_signals(stop=serving.stop, reload=serving.reload)
    return await serving.run(lambda: channel.sendall(News().line()))
