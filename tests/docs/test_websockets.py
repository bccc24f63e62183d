"""The page about WebSockets: every quantity of its table counts what the page says."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from usageflow.middleware.conversation import METHOD, Conversation
from usageflow.policies import PolicySet, evaluate_part, parse_file

POLICY = """
[[policy]]
name = "live"
match = "WEBSOCKET /live"
identify = [ { from = "metadata", value = "acct_42" } ]
field = "account_id"
metric = "M"
quantity = %s
"""
COUNTED = {
    "1": "1",
    "websocket.messages": "3",
    "websocket.messages_in": "1",
    "websocket.messages_out": "2",
    "websocket.bytes": "80",
    "websocket.bytes_in": "12",
    "websocket.bytes_out": "68",
    "websocket.seconds": "1.250",
    "websocket.received.units": "5",
    "websocket.sent.usage.total_tokens": "42",
}
"""What this conversation counts under each quantity."""


def test_every_quantity_of_the_table_is_counted(root: Path) -> None:
    """The table has these quantities, no others, and each counts what passed."""
    page = (root / "docs" / "websockets.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.+?) \| ", page, re.MULTILINE)
    quantities = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert quantities == list(COUNTED)
    assert {quantity: counted(quantity) for quantity in quantities} == COUNTED


def counted(quantity: str) -> str:
    """What one conversation counts, whole."""
    parsed = parse_file(POLICY % (quantity if quantity == "1" else f'"{quantity}"'), "t")
    assert parsed.problems == ()
    match = PolicySet.build(parsed.policies).match(METHOD, "/live")
    assert match is not None
    scope = {"headers": [], "query_string": b""}
    talk = Conversation(match, scope, "/live", started_at_s=0, providers={})
    talk.sends({"type": "websocket.accept"})
    talk.received({"type": "websocket.receive", "text": '{"units": 5}'})
    for tokens in (40, 2):
        text = f'{{"usage": {{"total_tokens": {tokens}}}}}'.ljust(34)
        talk.sends({"type": "websocket.send", "text": text})
    talk.duration_ms = 1_250
    (event,) = evaluate_part(match, talk, last=True, now=datetime.now(UTC), new_id=lambda: "1")
    assert isinstance(event.quantity, Decimal)
    return str(event.quantity)
