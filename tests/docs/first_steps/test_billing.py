"""The page about billing is followed, to an invoice that is paid; and the README's short way."""

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.docs.first_steps.conftest import Reader

PAGE = "docs/billing.md"
REFERENCE = "usageflow invoices list"
"""How the first block begins that is no step any more."""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")


def test_the_page_can_be_followed(reader: "Reader", blocks: Any) -> None:
    """Every command works as printed, every output is the one shown, and the PDF is one."""
    page = [block for block in blocks if block.page == PAGE]
    for block in page:
        if block.text.startswith(REFERENCE):
            break
        reader.follow(block.language, block.text)
    else:
        pytest.fail("the page has no end of steps")
    assert reader.output == "the same, byte for byte\n"
    assert (reader.folder / "invoice.pdf").read_bytes().startswith(b"%PDF-")


def test_the_short_way_of_the_readme(reader: "Reader", blocks: Any) -> None:
    """Each of its requests is answered as done, the last with an event."""
    [block] = [one for one in blocks if one.page == "README.md" and "/auth/signup" in one.text]
    reader.follow("sh", "usageflow serve\n")
    reader.follow(block.language, block.text)
    answers = [json.loads(line) for line in reader.output.splitlines()]
    assert len(answers) == block.text.count("\npost /")
    assert not [answer for answer in answers if "error" in answer]
    assert answers[-1]["success"] is True
