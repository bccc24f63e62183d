"""What a process of the proxy tells of itself, and who is told: its figures, and the admin port.

A gateway is read here and nowhere else; the figures go through a FiguresBlock also where there is
one process alone, so that the admin port has one source.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from usageflow._version import __version__
from usageflow.config import Settings
from usageflow.proxy.admin import AdminServer
from usageflow.proxy.figures import Health, Reading, TargetFigures
from usageflow.proxy.figures_block import FiguresBlock
from usageflow.proxy.metrics import exposition
from usageflow.proxy.targets import parse_targets
from usageflow.recorder.inspection import DepthGauge

if TYPE_CHECKING:
    from usageflow.proxy.gateway import Gateway


def blank(settings: Settings) -> Reading:
    """The Reading of a worker with these settings that has not begun."""
    return Reading.blank([target.name for target in parse_targets(settings)])


def reading(gateway: "Gateway") -> Reading:
    """All that a gateway tells, as it is at this moment."""
    targets = gateway.upstreams.figures()
    meter = gateway.meter
    policies = meter.feed.current
    return Reading(
        traffic=gateway.figures,
        recorder=meter.recorder.figures(),
        health=Health(
            ticked_s=time.monotonic(),
            loaded=meter.readiness.reached,
            policies=policies.size,
            draining=gateway.draining,
            reachable=any(target.healthy for target in targets),
            refusing=policies.fail_closed and not meter.recorder.healthy,
        ),
        targets={
            target.name: TargetFigures(
                unwell=int(not target.healthy),
                connections_open=target.open,
                connections_idle=target.idle,
                in_use=target.in_use,
                waiting=target.waiting,
            )
            for target in targets
        },
    )


@contextmanager
def admin(settings: Settings, block: FiguresBlock) -> Iterator[None]:
    """Answer at `admin_listen`, if that is set, with what is in the block.

    Raises ConfigurationError if it cannot listen there.
    """
    if settings.admin_listen is None:
        yield
        return
    depth = DepthGauge(settings.spool_path, ships=settings.server is not None)
    server = AdminServer(
        settings.admin_listen,
        health=lambda: block.total().health,
        metrics=lambda: exposition(
            block.total(), depth.read(), now_s=time.time(), version=__version__
        ),
    )
    server.start()
    with closing(server):
        yield
