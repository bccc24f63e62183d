"""What a process tells of itself."""

import socket
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from usageflow.config import Settings
from usageflow.events import Identity, UsageEvent, encode_lines
from usageflow.proxy.admin import unready
from usageflow.proxy.figures_block import FiguresBlock
from usageflow.proxy.gateway import Gateway
from usageflow.proxy.report import admin, blank, reading
from usageflow.recorder.spool import Block, Spool


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


def test_events_that_nobody_ships_are_not_late(tmp_path: Path) -> None:
    """Without a server they stay in the spool, however old they become; with one they do not."""
    event = UsageEvent(
        id="event-1",
        policy="calls",
        policy_version="1",
        metric="API_CALL",
        identity=Identity("account_id", "acct_1"),
        quantity=Decimal(1),
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        state="counted",
    )
    spool = Spool.create(tmp_path)
    spool.write([Block(1, encode_lines([event]))])
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    alone = Settings(
        upstream="http://127.0.0.1:9", admin_listen=listen, spool_dir=str(tmp_path), api_key="k"
    )
    late = []
    for settings in (alone, alone.with_changes(server="http://127.0.0.1:9")):
        with closing(FiguresBlock(blank(settings), workers=1)) as block, admin(settings, block):
            told = httpx.get(f"http://{listen}/metrics").text
        assert "usageflow_spool_events 1\n" in told
        late.append("usageflow_spool_oldest_seconds 0\n" not in told)
    assert late == [False, True]
    spool.close()
