"""Attempts in vain: counted by name, forgotten in time, in bounded memory."""

from usageflow.api.attempts import NAMES_MAX, Attempts


def test_attempts_are_forgotten() -> None:
    """After the window, or when too many names were seen; each name has its own."""
    attempts = Attempts(20, 60.0)
    for _ in range(20):
        assert not attempts.exhausted("a", 100.0)
        attempts.failed("a")
    assert attempts.exhausted("a", 100.0)
    assert not attempts.exhausted("b", 100.0)
    assert attempts.exhausted("a", 159.0)
    assert not attempts.exhausted("a", 160.0)
    for number in range(2 * NAMES_MAX):
        attempts.failed(str(number))
        attempts.exhausted(str(number), 170.0)
    assert len(attempts._counts) <= NAMES_MAX + 1
