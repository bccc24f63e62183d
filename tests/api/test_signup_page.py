"""The pages of the sign-up as text."""

import base64
import hashlib
import re
import shlex
from html import unescape

import pytest

from usageflow.api.signup_page import (
    STYLE_SOURCE,
    done_page,
    form_page,
    invite_page,
    message_page,
)
from usageflow.catalog.invitations import Offer
from usageflow.config import Settings

HOSTILE = "\"><script>alert('x')</script>&amp;"
PAGES = {
    "form": form_page(HOSTILE, {"organization": HOSTILE, "email": HOSTILE}, {"email": HOSTILE}),
    "done": done_page(HOSTILE, HOSTILE, HOSTILE),
    "message": message_page(HOSTILE, HOSTILE),
    "invite": invite_page(
        HOSTILE, Offer(HOSTILE, HOSTILE, HOSTILE, has_account=True), {"password": HOSTILE}
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_everything_is_escaped(name: str) -> None:
    """What comes from outside is text, in elements and in attributes."""
    assert "<script" not in PAGES[name]
    assert "&amp;amp;" in PAGES[name]
    assert '">&lt;' not in PAGES[name]


@pytest.mark.parametrize("name", PAGES)
def test_the_style_is_the_one_that_is_allowed(name: str) -> None:
    """The hash in the policy is that of the element's text, to the byte."""
    (style,) = re.findall(r"<style>(.*?)</style>", PAGES[name], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" == STYLE_SOURCE


def test_the_commands_run_beside_what_runs_already() -> None:
    """Where `up` listens by default, no other proxy is sent; every option exists."""
    page = unescape(done_page("Acme", "uf_live_0", "http://127.0.0.1:8787"))
    blocks = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", "")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("usageflow")]
    assert [words[1] for words in commands] == ["policies", "proxy"]
    proxy = dict(zip(commands[1][2::2], commands[1][3::2], strict=True))
    assert proxy.keys() == {"--upstream", "--listen", "--server"}
    assert proxy["--server"] == "http://127.0.0.1:8787"
    assert proxy["--listen"].rpartition(":")[2] != Settings().listen.rpartition(":")[2]


def test_the_page_says_what_needs_no_doing() -> None:
    """After `usageflow up` nothing but a request; and there is nothing to log in to."""
    page = done_page("Acme", "uf_live_0", "http://127.0.0.1:8787")
    up = page.partition("usageflow up")[2].partition("<h2>")[0]
    assert "usageflow usage" in up
    assert "--policies" in up
    assert "no pages to log in to" in " ".join(page.split())


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_a_whole_page(name: str) -> None:
    """Language, width, title, one heading, and every element closed."""
    page = PAGES[name]
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count("<h1>") == page.count("<title>") == page.count("<main") == 1
    for element in ("p", "h2", "pre", "label", "form", "button", "main", "style", "code"):
        assert len(re.findall(rf"<{element}[ >]", page)) == page.count(f"</{element}>"), element
