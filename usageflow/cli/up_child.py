"""`python -m usageflow.cli.up_child COMMAND ...`: a command that ends with who started it.

`usageflow up` starts its children so: standard input is a pipe, which whatever ends `up` closes,
SIGKILL too. COMMAND then stops as SIGTERM stops it, instead of going on unseen.
"""

import os
import signal
import threading

from usageflow.cli.app import main


def end_with_parent() -> None:
    """Send SIGTERM to this process once the other end of its standard input is closed."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    # the descriptor: a thread that holds the lock of sys.stdin is fatal when the interpreter ends
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent()
    main()
