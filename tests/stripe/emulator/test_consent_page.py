"""The page that asks an owner; what comes of the answer is in the tests of Connect."""

import pytest

from usageflow.stripe.emulator.consent_page import consent_page


@pytest.mark.parametrize(
    ("client_id", "scope", "words"),
    [
        ("ca_1", "read_only", "read-only access."),
        ("ca_live_1", "read_write", "full access in live mode."),
        ("ca_test_1", "read_write", "full access in test mode."),
    ],
)
def test_the_page_says_who_asks_for_what(client_id: str, scope: str, words: str) -> None:
    """The client, the access, and the mode if the client has one."""
    page = consent_page({"client_id": client_id, "scope": scope, "redirect_uri": "http://x/"})
    assert f"<b>{client_id}</b> asks for {words}" in page


def test_what_was_asked_is_handed_on_escaped() -> None:
    """Nothing from outside becomes markup, and what was not asked is not there."""
    page = consent_page({"client_id": "ca_1", "state": '"><script>'})
    assert 'name="state" value="&quot;&gt;&lt;script&gt;"' in page
    assert 'name="redirect_uri"' not in page
