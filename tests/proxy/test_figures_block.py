"""Workers' figures in shared memory: their sums, and what a restart leaves of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from usageflow.proxy.figures import Figures, Health, Reading, TargetFigures
from usageflow.proxy.figures_block import FiguresBlock, _filled, _numbers
from usageflow.recorder.figures import RecorderFigures

TARGETS = ("http://a", "http://b")


def reading(requests: int = 0, **traffic: Any) -> Reading:
    """What a healthy worker tells after so many requests."""
    figures = Figures(**traffic)
    for _ in range(requests):
        figures.finished(200, 0.01, 1, 2, metered=True)
    recorder = RecorderFigures(shipped=requests)
    recorder.events["inbox"] = requests
    health = Health(ticked_s=5.5, loaded=True, policies=3, reachable=True)
    return Reading(figures, recorder, health, {name: TargetFigures(in_use=1) for name in TARGETS})


@pytest.fixture
def block() -> Iterator[FiguresBlock]:
    """A block for two workers."""
    made = FiguresBlock.create(Reading.blank(TARGETS), 2)
    yield made
    made.close()


def test_a_reading_comes_back_as_it_was() -> None:
    """Every number in its place and of its type; one process needs no file."""
    block = FiguresBlock(Reading.blank(TARGETS), 1)
    assert block.fd is None
    assert block.readings() == [Reading.blank(TARGETS)]
    told = reading(3, in_flight=2)
    block.slot(0).publish(told)
    assert block.readings() == [told]
    assert block.total() == told
    assert repr(block.total()) == repr(told)  # 3 == 3.0 == True would not tell them apart
    block.close()


def test_no_two_numbers_share_a_place() -> None:
    """Each field of a reading, also one that is added later, has a place of its own."""
    places = len(list(_numbers(Reading.blank(TARGETS))))
    distinct = _filled(Reading.blank(TARGETS), count(1))
    numbers = [number for number, _ in _numbers(distinct) if not isinstance(number, bool)]
    assert len(set(numbers)) == len(numbers) > places - 5


def test_workers_add_up(block: FiguresBlock) -> None:
    """Counts and gauges are sums; health is the worst."""
    block.slot(0).publish(reading(2, connections_open=1))
    assert block.total().health == Health()
    block.slot(1).publish(reading(3, connections_open=4))
    total = block.total()
    assert total.traffic.requests == [0, 0, 5, 0, 0, 0]
    assert total.traffic.connections_open == 5
    assert total.recorder.events["inbox"] == total.recorder.shipped == 5
    assert total.targets["http://b"].in_use == 2
    assert total.health.policies == 3


def test_a_restarted_worker_continues_its_counts(block: FiguresBlock) -> None:
    """Totals never fall; what was open in the dead worker is not open any more."""
    block.slot(0).publish(reading(2, connections_open=9, connections_accepted=20))
    successor = block.slot(0)
    between = block.total()
    assert between.traffic.requests[2] == 2
    assert between.traffic.connections_open == 0
    assert between.targets["http://a"].in_use == 0
    assert block.readings()[0].health == Health()
    successor.publish(reading(1, connections_open=3, connections_accepted=4))
    successor.publish(reading(1, connections_open=3, connections_accepted=4))
    total = block.total()
    assert total.traffic.requests[2] == total.recorder.shipped == 3
    assert (total.traffic.connections_open, total.traffic.connections_accepted) == (3, 24)


def test_large_counts_stay_exact(block: FiguresBlock) -> None:
    """A petabyte, to the byte."""
    block.slot(1).publish(reading(response_bytes=10**15 + 1))
    assert block.total().traffic.response_bytes == 10**15 + 1


WORKER = """
import sys
from usageflow.proxy.figures import Figures, Health, Reading
from usageflow.proxy.figures_block import FiguresBlock
blank = Reading.blank(["http://a", "http://b"])
slot = FiguresBlock(blank, 2, int(sys.argv[1])).slot(1)
blank.traffic.finished(200, 0.5, 7, 8, True)
slot.publish(blank)
"""


def test_a_process_that_inherits_the_block_writes_to_it(block: FiguresBlock) -> None:
    """And is summed with the others after it has gone."""
    assert block.fd is not None
    assert os.get_inheritable(block.fd)
    subprocess.run(
        [sys.executable, "-c", WORKER, str(block.fd)], pass_fds=[block.fd], check=True, timeout=30
    )
    block.slot(0).publish(reading(1))
    assert block.total().traffic.requests[2] == 2
    assert block.readings()[1].traffic.request_bytes == 7
