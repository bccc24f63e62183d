"""The page about webhooks: its receivers take what we sign, its tables are what the code has."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from usageflow.webhooks import posting, retries
from usageflow.webhooks.endpoints import OVERLAP, TYPES
from usageflow.webhooks.signing import headers, new_secret

PAGE = "docs/webhooks.md"
BODY = b'{"id":"evt_1","type":"invoice.paid","data":{"amount":0.10}}'


@pytest.fixture
def written(root: Path) -> str:
    """The page."""
    return (root / PAGE).read_text(encoding="utf-8")


@pytest.fixture
def receivers(blocks: Any) -> list[dict[str, Any]]:
    """What the Python on the page defines: with the library, and without."""
    found = []
    for block in blocks:
        if (block.page, block.language) == (PAGE, "python"):
            namespace: dict[str, Any] = {}
            exec(compile(block.text, str(block), "exec"), namespace)
            found.append(namespace)
    return found


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of a table."""
    _, _, rest = page.partition(f"{header}\n")
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_receiver_of_the_page(
    receivers: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes each event once, with the new secret or the old, and nothing that was changed."""
    receive: Callable[..., int] = receivers[0]["receive"]
    new, old = new_secret(), new_secret()
    signed = headers("evt_1", BODY.decode(), at=datetime.now(UTC), secrets=[new, old])
    assert [receive(signed, BODY, secret) for secret in (new, old)] == [204, 204]
    assert capsys.readouterr().out == "invoice.paid {'amount': Decimal('0.10')}\n"
    assert receive(signed, BODY, new_secret()) == 400
    assert receive(signed, BODY.replace(b"0.10", b"0.11"), new) == 400
    late = datetime.now(UTC) - timedelta(minutes=6)
    assert receive(headers("evt_1", BODY.decode(), at=late, secrets=[new]), BODY, new) == 400


def test_the_receiver_without_a_library(receivers: list[dict[str, Any]]) -> None:
    """It judges as the other one does."""
    is_genuine: Callable[..., bool] = receivers[1]["is_genuine"]
    new, old = new_secret(), new_secret()
    now = datetime.now(UTC)
    signed = headers("evt_1", BODY.decode(), at=now, secrets=[new, old])
    assert is_genuine(signed, BODY, new)
    assert is_genuine(signed, BODY, old)
    assert not is_genuine(signed, BODY, new_secret())
    assert not is_genuine(signed, BODY + b" ", new)
    late = headers("evt_1", BODY.decode(), at=now - timedelta(minutes=6), secrets=[new])
    assert not is_genuine(late, BODY, new)


def test_the_tables(written: str) -> None:
    """Every type of events, and every pause."""
    assert [row[0].strip("`") for row in rows(written, "| type | when |")] == list(TYPES)
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    told = [row[1].split() for row in rows(written, "| after failure | the next try follows in |")]
    assert [float(number) * units[unit] for number, unit in told] == list(retries.WEBHOOKS.pauses_s)


def test_the_numbers(written: str) -> None:
    """Limits, as the code has them."""
    text = " ".join(written.split())
    assert f"within {posting.TOTAL_S:g} seconds" in text
    assert f"first {posting.ANSWER_CHARS_MAX:,} characters" in text
    assert retries.WEBHOOKS.give_up_after_s == timedelta(days=3).total_seconds()
    assert "three days after the first" in text
    assert f"nothing succeeded for {retries.FAILING_MAX.days} days" in text
    assert retries.JITTER == 0.1
    assert "Up to a tenth" in text
    assert f"For {OVERLAP // timedelta(hours=1)} hours" in text
    assert retries.MAIL.pauses_s == (60.0, 300.0, 900.0, 3600.0, 14_400.0)
    assert f"tried for {retries.MAIL.give_up_after_s / 3600:g} hours" in text
    assert "after 1, 5, 15 and 60 minutes and then every 4 hours" in text
