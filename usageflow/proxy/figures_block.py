"""Shared memory through which workers tell their figures to the process that is asked for them.

A few times a second each worker copies all its numbers into its slot, and whoever has the admin
port adds the slots up. It knows only that a Reading is made of numbers, not what they mean.
"""

import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Self

from usageflow.proxy.figures import Health, Reading


class FiguresBlock:
    """A slot for each of so many workers, which are numbered from 0.

    Without `fd` it is for this process alone; with the one of a block that `create` made, in a
    process that inherited it, it is the same memory. `blank` must be the same Reading everywhere.

    Numbers are 64 bit floats: exact for counts to 2^53, which is 9 PB. A worker killed in the
    middle of publishing leaves each of its numbers whole, some of them older than the others.
    """

    def __init__(self, blank: Reading, workers: int, fd: int | None = None) -> None:
        self.fd = fd
        self.blank = blank
        self._workers = workers
        self._layout = _layout(blank)
        self._memory = mmap.mmap(-1 if fd is None else fd, self._layout.size * workers)

    @classmethod
    def create(cls, blank: Reading, workers: int) -> Self:
        """A new block, with an inheritable `fd` for the workers' processes."""
        fd = _memory_file()
        os.set_inheritable(fd, True)
        os.ftruncate(fd, _layout(blank).size * workers)
        return cls(blank, workers, fd)

    def slot(self, worker: int) -> "Slot":
        """The slot of a worker, to be taken once when it starts."""
        return Slot(self, worker)

    def readings(self) -> list[Reading]:
        """What each worker told last."""
        return [_filled(self.blank, iter(self.numbers(worker))) for worker in range(self._workers)]

    def total(self) -> Reading:
        """All workers together: sums, and the worst of their health."""
        slots = [self.numbers(worker) for worker in range(self._workers)]
        total: Reading = _filled(self.blank, map(sum, zip(*slots, strict=True)))
        total.health = Health.worst([reading.health for reading in self.readings()])
        return total

    def close(self) -> None:
        """Let go of the memory, which lives on in the other processes."""
        self._memory.close()
        if self.fd is not None:
            os.close(self.fd)

    def numbers(self, worker: int) -> Sequence[float]:
        """The content of a slot."""
        return self._layout.unpack_from(self._memory, worker * self._layout.size)

    def put(self, worker: int, numbers: Sequence[float]) -> None:
        """Replace the content of a slot."""
        self._layout.pack_into(self._memory, worker * self._layout.size, *numbers)


class Slot:
    """Where one worker publishes.

    It continues the counts of a worker that had the slot before, so that totals never fall; the
    gauges begin at 0.
    """

    def __init__(self, block: FiguresBlock, worker: int) -> None:
        grows = [grows for _, grows in _numbers(block.blank)]
        before = block.numbers(worker)
        self._block = block
        self._worker = worker
        self._before = [number * grows for number, grows in zip(before, grows, strict=True)]
        block.put(worker, self._before)

    def publish(self, reading: Reading) -> None:
        """Tell the figures as they are now."""
        pairs = zip(_numbers(reading), self._before, strict=True)
        self._block.put(self._worker, [number + before for (number, _), before in pairs])


def _memory_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("usageflow-figures")  # also where no file may be written
    with tempfile.TemporaryFile() as file:  # pragma: no cover - on the systems of developers
        return os.dup(file.fileno())


def _layout(blank: Reading) -> struct.Struct:
    return struct.Struct(f"{sum(1 for _ in _numbers(blank))}d")


def _numbers(node: Any, *, grows: bool = True) -> Iterator[tuple[float, bool]]:
    """Every number in `node`, in the order of its fields, and whether it is one that only grows."""
    if is_dataclass(node):
        for item in fields(node):
            yield from _numbers(getattr(node, item.name), grows=grows and not item.metadata)
    elif isinstance(node, dict | list):
        for part in node.values() if isinstance(node, dict) else node:
            yield from _numbers(part, grows=grows)
    else:
        yield node, grows


def _filled(node: Any, numbers: Iterator[float]) -> Any:
    """A copy of `node` with other numbers, of the same types."""
    if is_dataclass(node):
        kind: Any = type(node)
        return kind(*[_filled(getattr(node, item.name), numbers) for item in fields(node)])
    if isinstance(node, dict):
        return {key: _filled(part, numbers) for key, part in node.items()}
    if isinstance(node, list):
        return [_filled(part, numbers) for part in node]
    return type(node)(next(numbers))
