"""Two moments in the life of a process: it forks, it exits. Objects are held weakly."""

import atexit
import os
from collections.abc import Callable
from weakref import WeakMethod

Method = Callable[[], object]


def after_fork(method: Method) -> None:
    """Call `method` in every forked child, where threads and held locks do not exist any more."""
    reference = WeakMethod(method)
    os.register_at_fork(after_in_child=lambda: _call(reference))


def at_exit(method: Method) -> None:
    """Call `method` when the interpreter ends in an orderly way."""
    atexit.register(_call, WeakMethod(method))


def _call(reference: WeakMethod[Method]) -> None:
    method = reference()
    if method is not None:
        method()
