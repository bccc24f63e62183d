"""The page about Stripe is followed with the emulator, up to what only Stripe itself can do."""

import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.docs.first_steps.conftest import Reader

PAGE = "docs/stripe.md"
NOT_HERE = "$ curl https://api.stripe.com/v1/prices"
"""How the first block begins that needs an account of Stripe's."""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")


def test_the_page_can_be_followed(reader: "Reader", blocks: Any) -> None:
    """From nothing to usage that Stripe has applied: every command and output is as printed."""
    page = [block for block in blocks if block.page == PAGE]
    for block in page:
        if block.text.startswith(NOT_HERE):
            break
        reader.follow(block.language, block.text)
    else:
        pytest.fail("the page does not come to Stripe itself")
    assert "adds up" in reader.output
