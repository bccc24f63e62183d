"""What a process does when it is signalled: a small program, and the signals of a shell."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, uvloop
from usageflow.proxy.signals import on_signals

def say(word):
    return lambda: print(word, flush=True)

async def main():
    on_signals(stop=say("stop"), reload=say("reload"), at_once=say("at once"))
    print("ready", flush=True)
    await asyncio.sleep(60)

uvloop.run(main())
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_first_asks_and_the_second_ends(first: signal.Signals, second: signal.Signals) -> None:
    """SIGHUP reloads as often as it comes; whichever stops it may be followed by either."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        words = process.stdout
        try:
            assert words.readline() == "ready\n"
            for number, word in (
                (signal.SIGHUP, "reload"),
                (signal.SIGHUP, "reload"),
                (first, "stop"),
                (signal.SIGHUP, "reload"),
                (second, "at once"),
            ):
                process.send_signal(number)
                assert words.readline() == f"{word}\n"
            assert process.wait(10) == -second
        finally:
            process.kill()
