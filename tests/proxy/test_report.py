"""What a process tells of itself."""

from contextlib import closing
from pathlib import Path

import pytest

from usageflow.config import Settings
from usageflow.proxy.admin import unready
from usageflow.proxy.figures_block import FiguresBlock
from usageflow.proxy.gateway import Gateway
from usageflow.proxy.report import blank, reading


@pytest.mark.anyio
async def test_a_gateway_is_read_into_a_slot(tmp_path: Path) -> None:
    """Its figures have the shape of a blank Reading, and its state decides whether it is ready."""
    (tmp_path / "policies.toml").write_text("# nothing is metered")
    settings = Settings(
        upstream="http://127.0.0.1:9,unix:/run/api.sock",
        policies=str(tmp_path / "policies.toml"),
        spool_dir=str(tmp_path / "spool"),
    )
    gateway = Gateway(settings)
    with closing(FiguresBlock(blank(settings), workers=1)) as block:
        slot = block.slot(0)
        assert unready(block.total().health, 0) == ["starting"]
        await gateway.start()
        gateway.figures.finished(200, 0.1, 1, 2, metered=True)
        slot.publish(reading(gateway))
        told = block.total()
        assert unready(told.health, told.health.ticked_s) == []
        assert told.traffic.metered == 1
        assert list(told.targets) == ["http://127.0.0.1:9", "unix:/run/api.sock"]
        gateway.drain()
        slot.publish(reading(gateway))
        assert unready(block.total().health, told.health.ticked_s) == ["stopping"]
    await gateway.aclose()
