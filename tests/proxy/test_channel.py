"""What a worker and its parent say to each other."""

from hypothesis import given
from hypothesis import strategies as st

from usageflow.config import Settings
from usageflow.proxy.channel import Handover, News


@given(st.text(min_size=1), st.floats(0.1, 1e6), st.none() | st.text())
def test_a_hand_over_arrives_as_it_was(key: str, timeout_s: float, policies: str | None) -> None:
    """One line, whatever a setting holds, with the secrets that no argument may hold."""
    settings = Settings(server="http://s", api_key=key, ship_timeout_s=timeout_s, policies=policies)
    handover = Handover(settings, number=1, listener=5, figures=7)
    assert handover.line().count(b"\n") == 1
    assert Handover.read(handover.line()) == handover


def test_a_worker_tells_that_it_serves_or_why_not() -> None:
    """And one that ends without a word has a problem, too."""
    assert not News.read(News().line()).problem
    assert News.read(News("two\nlines").line()).problem == "two\nlines"
    assert News.read(b"").problem
