"""The page about the proxy is followed, up to where it goes on to machines that are not at hand."""

import re
import shutil
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.docs.first_steps.conftest import Reader

PAGE = "docs/proxy.md"
NOT_HERE = "docker build"
"""How the first block begins that needs more than UsageFlow and curl."""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")


def test_the_page_can_be_followed(reader: "Reader", blocks: Any) -> None:
    """Every command works as printed, every output is the one shown, the link leads to a form."""
    page = [block for block in blocks if block.page == PAGE]
    for block in page:
        if block.text.startswith(NOT_HERE):
            break
        reader.follow(block.language, block.text)
        if "/signup?token=" in block.text:
            (link,) = re.findall(r"http://\S+/signup\?token=\S+", reader.output)
            with urllib.request.urlopen(link) as answer:
                assert "Create the owner" in answer.read().decode()
    else:
        pytest.fail("the page does not come to other machines")
